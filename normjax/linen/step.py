"""Batch normalization of recurrent nets: statistics for each time step."""

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from normjax import descriptions
from normjax.linen.shell import RunningShell, shell


@shell
class StepBatchNorm(RunningShell, descriptions.StepBatchNorm):
  """A Linen module. Statistics are in the collection `batch_stats`.

  Under `nn.scan`, steps of training hand on the statistics
  (`variable_carry="batch_stats"`), and steps of evaluation share them
  (`variable_broadcast=("params", "batch_stats")`). Flax carries only variables
  that exist, so initialize by one step outside of the scan.

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
    return self._normalized(x, use_running_average, mask, step=step)
