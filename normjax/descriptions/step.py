"""Batch normalization of recurrent nets: statistics for each time step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax.typing import Initializer
from jax.nn import initializers

from normjax import functional
from normjax.descriptions.norm import description
from normjax.descriptions.rows import RowBatchNorm


@description
class StepBatchNorm(RowBatchNorm):
  """Batch norm with running statistics for each time step.

  The function is `normjax.step_batch_norm`, https://arxiv.org/abs/1603.09025.
  In a recurrent net, one module is called at every step: gain and bias are
  shared.

  Attributes:
    steps: Number of steps that have statistics of their own, such as the length
      of the longest sequence in training. Later ones share those of the last.
    scale_init: Initializes the gain, at 0.1 as the paper advises: with one,
      gradients through tanh vanish.
    debias: As in `BatchNorm`, but on. Later steps occur less often, and the
      weights tell which steps were trained. The steps after the last one of
      these are evaluated by its statistics.
    use_running_average, axis, momentum, epsilon, dtype, param_dtype, use_bias,
      use_scale, bias_init, axis_name, axis_index_groups, use_fast_variance,
      force_float32_reductions, scale_offset, running_var_ddof: As in
      `BatchNorm`.

  Statistics are those of `BatchNorm`, but `[steps, channels]`.
  """

  row_argument = "step"
  rows_field = "steps"
  steps: int = dataclasses.field(kw_only=True)
  scale_init: Initializer = initializers.constant(0.1)
  debias: bool = True

  def function(self) -> Callable[..., tuple[jax.Array, Any]]:
    """Returns `normjax.step_batch_norm`."""
    return functional.step_batch_norm
