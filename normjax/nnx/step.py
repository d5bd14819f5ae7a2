"""Batch normalization of recurrent nets: statistics for each time step."""

import jax
from jax.typing import ArrayLike

from normjax import descriptions
from normjax.nnx.shell import RunningShell, shell


@shell(descriptions.StepBatchNorm)
class StepBatchNorm(RunningShell):
  """An NNX module. Statistics are variables of type `nnx.BatchStat`.

  Under `nnx.scan`, steps of training hand on the statistics: let the module be
  a part of the carry (`nnx.Carry`).

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import StepBatchNorm
    >>> norm = StepBatchNorm(1, steps=4, rngs=nnx.Rngs(0))
    >>> for step in range(2):
    ...   y = norm(jnp.array([[1.0], [3.0]]) + step, step)
    >>> print(y.T, norm.mean.get_value().T)
    [[-0.1  0.1]] [[2. 3. 0. 0.]]
  """

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
