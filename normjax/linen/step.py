"""Batch normalization of recurrent nets: statistics for each time step."""

import functools
from typing import ClassVar

import jax
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import ArrayLike

from normjax import functional
from normjax.linen.constructors import explained
from normjax.linen.running import RunningNorm, check_rows


@explained
class StepBatchNorm(RunningNorm, kw_only=True):
  """Batch norm with running statistics for each time step.

  Owns the parameters and running statistics of `normjax.step_batch_norm`,
  https://arxiv.org/abs/1603.09025. In a recurrent net, one module is called at
  every step: gain and bias are shared. Under `nn.scan`, steps of training hand
  on the statistics (`variable_carry="batch_stats"`), and steps of evaluation
  share them (`variable_broadcast=("params", "batch_stats")`). Flax carries only
  variables that exist, so initialize by one step outside of the scan.

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

  Variables are those of `BatchNorm`, but statistics are `[steps, channels]`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import StepBatchNorm
    >>> x = jnp.array([[1.0], [3.0]])
    >>> norm = StepBatchNorm(steps=4)
    >>> variables = norm.init(
    ...   jax.random.key(0), x, 0, use_running_average=False)
    >>> for step in range(2):
    ...   y, updates = norm.apply(variables, step + x, step,
    ...     use_running_average=False, mutable=["batch_stats"])
    ...   variables = {**variables, **updates}
    >>> print(y.T, variables["batch_stats"]["mean"].T)
    [[-0.1  0.1]] [[2. 3. 0. 0.]]
  """

  row_argument: ClassVar[str] = "step"
  steps: int
  scale_init: Initializer = nn.initializers.constant(0.1)
  debias: bool = True

  @nn.compact
  def __call__(
    self,
    x: ArrayLike,
    step: int | jax.Array,
    use_running_average: bool | None = None,
    *,
    mask: ArrayLike | None = None,
  ) -> jax.Array:
    """Normalizes `x`; in training, updates the step's running statistics.

    Args:
      x: Array `[batch, ..., channels]` at one time step.
      step: Which one: an integer from 0, which may be traced.
      use_running_average: As in `BatchNorm`.
      mask: As in `BatchNorm`. False for sequences that have ended.

    Returns:
      As `BatchNorm`.

    Raises:
      As `BatchNorm`. Also ValueError: `step` is negative.
    """
    rows = check_rows("steps", self.steps)
    normalize = functools.partial(functional.step_batch_norm, step=step)
    return self._normalized(normalize, x, use_running_average, mask, rows=rows)
