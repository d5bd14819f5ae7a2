"""Ghost batch normalization."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from normjax import functional
from normjax.descriptions.batch import AnyBatchNorm
from normjax.descriptions.norm import description


@description
class GhostBatchNorm(AnyBatchNorm):
  """Ghost batch normalization, https://arxiv.org/abs/1705.08741.

  The function is `normjax.ghost_batch_norm`.
  Statistics are those of `BatchNorm`.

  Attributes:
    ghost_size: Number of examples in a ghost batch. In training it must divide
      the number of examples.
    axis_name, axis_index_groups: Axes over which running statistics are merged.
      A ghost batch has examples of one device only.
    use_running_average, axis, momentum, epsilon, dtype, param_dtype, use_bias,
      use_scale, bias_init, scale_init, use_fast_variance,
      force_float32_reductions, scale_offset, running_var_ddof, debias: As in
      `BatchNorm`.
  """

  ghost_size: int = 32

  def function(self) -> Callable[..., tuple[jax.Array, Any]]:
    """Returns `normjax.ghost_batch_norm`."""
    return functional.ghost_batch_norm

  def normalize_running(
    self,
    x: jax.Array,
    parameters: Mapping[str, jax.Array],
    statistics: Mapping[str, Any],
    **arguments: Any,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """As `normjax.ghost_batch_norm`."""
    return super().normalize_running(
      x, parameters, statistics, ghost_size=self.ghosts(x), **arguments
    )

  def ghosts(self, x: jax.Array) -> int:
    """Returns the number of examples that are normalized together."""
    del x
    return self.ghost_size
