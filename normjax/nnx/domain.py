"""Domain-specific batch normalization."""

import jax
from jax.typing import ArrayLike

from normjax import descriptions
from normjax.nnx.shell import RunningShell, shell


@shell(descriptions.DomainBatchNorm)
class DomainBatchNorm(RunningShell):
  """An NNX module. Statistics are variables of type `nnx.BatchStat`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import DomainBatchNorm
    >>> norm = DomainBatchNorm(1, domains=2, momentum=0.5, rngs=nnx.Rngs(0))
    >>> y = norm(jnp.array([[1.0], [3.0]]), 1)
    >>> print(norm.mean.get_value().T)
    [[0. 1.]]
  """

  def __call__(
    self,
    x: ArrayLike,
    domain: int | jax.Array,
    use_running_average: bool | None = None,
    *,
    mask: ArrayLike | None = None,
  ) -> jax.Array:
    """Normalizes `x`; in training, updates the domain's running statistics.

    Args:
      x: Array `[batch, ..., channels]`, all of one domain.
      domain: Which one: an integer from 0, which may be traced.
      use_running_average: As in `BatchNorm`.
      mask: As in `BatchNorm`.

    Returns:
      As `BatchNorm`.

    Raises:
      As `BatchNorm`. Also ValueError: `domain` is out of range.
    """
    return self._normalized(x, use_running_average, mask, domain=domain)
