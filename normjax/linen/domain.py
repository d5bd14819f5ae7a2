"""Domain-specific batch normalization."""

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from normjax import descriptions
from normjax.linen.shell import RunningShell, shell


@shell
class DomainBatchNorm(RunningShell, descriptions.DomainBatchNorm):
  """A Linen module. Statistics are in the collection `batch_stats`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import DomainBatchNorm
    >>> x = jnp.array([[1.0], [3.0]])
    >>> norm = DomainBatchNorm(domains=2, momentum=0.5)
    >>> variables = norm.init(
    ...   jax.random.key(0), x, 0, use_running_average=False)
    >>> y, updates = norm.apply(
    ...   variables, x, 1, use_running_average=False, mutable=["batch_stats"])
    >>> print(updates["batch_stats"]["mean"].T)
    [[0. 1.]]
  """

  @nn.compact
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
