"""Domain-specific batch normalization."""

import functools
from typing import ClassVar

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from normjax import functional
from normjax.linen.constructors import explained
from normjax.linen.running import RunningNorm, check_rows


@explained
class DomainBatchNorm(RunningNorm, kw_only=True):
  """Batch norm with running statistics for each domain.

  Owns the parameters and running statistics of `normjax.domain_batch_norm`,
  https://arxiv.org/abs/1603.04779.

  Attributes:
    domains: Number of domains.
    domain_parameters: Whether each domain also has a gain and a bias of its
      own, https://arxiv.org/abs/1906.03950. They are `[domains, channels]`.
    use_running_average, axis, momentum, epsilon, dtype, param_dtype, use_bias,
      use_scale, bias_init, scale_init, axis_name, axis_index_groups,
      use_fast_variance, force_float32_reductions, scale_offset,
      running_var_ddof, debias: As in `BatchNorm`.

  Variables are those of `BatchNorm`, but statistics are `[domains, channels]`.

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

  row_argument: ClassVar[str] = "domain"
  domains: int
  domain_parameters: bool = False

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
      use_running_average, mask: As in `BatchNorm`.

    Returns:
      As `BatchNorm`.

    Raises:
      As `BatchNorm`. Also ValueError: `domain` is out of range.
    """
    rows = check_rows("domains", self.domains)
    normalize = functools.partial(functional.domain_batch_norm, domain=domain)
    return self._normalized(
      normalize,
      x,
      use_running_average,
      mask,
      rows=rows,
      parameter_rows=rows if self.domain_parameters else (),
    )
