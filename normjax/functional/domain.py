"""Domain-specific batch normalization."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from normjax.functional.arguments import (
  Axes,
  AxisIndexGroups,
  AxisName,
  canonical_axes,
  check_floating,
  jit,
)
from normjax.functional.batch import batch_norm
from normjax.functional.rows import check_index, checked_rows, row, with_row
from normjax.functional.running import Stats, check_running


def _check_given(given: Mapping[str, Any]) -> None:
  """Raises unless `stats`, `momentum` and `domain` make sense."""
  check_running(given)
  if "domain" not in given:
    return  # Python's own message is clear.
  check_index("domain", given)
  stats, domain = given.get("stats"), given["domain"]
  if stats is None or isinstance(domain, jax.core.Tracer):
    return
  features = np.size(given.get("axis", -1))
  stats = checked_rows("domain_batch_norm", "domains", stats, features)
  domains = len(stats.mean)
  if domain >= domains:
    raise ValueError(
      f"domain must be below {domains}, the number of domains in stats, got"
      f" {domain}. Add a row for each new domain."
    )


@jit(
  "use_running_average", "axis", "epsilon", "axis_name", "axis_index_groups",
  "running_var_ddof", "scale_offset", check=_check_given,
)  # fmt: skip
def domain_batch_norm(
  x: jax.Array,
  domain: int | jax.Array,
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  stats: Stats | None = None,
  *,
  use_running_average: bool,
  axis: Axes = -1,
  momentum: float | jax.Array = 0.99,
  epsilon: float | jax.Array = 1e-5,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  running_var_ddof: int = 0,
  scale_offset: float = 0.0,
) -> tuple[jax.Array, Stats]:
  """Batch norm with running statistics for each domain.

  Images of two scanners, or of summer and winter, have other means and
  variances. If they train one net, each batch should be of one domain, and each
  domain should be evaluated by its own statistics.

  A batch of several domains takes a call for each of them, with its examples as
  the `mask`. Masked places influence nothing, so the results can be put
  together by `jnp.where`.

  Args:
    x: As in `batch_norm`, all of one domain.
    domain: Which one: an integer from 0, which may be traced. One that is
      traced and out of range means the first or the last domain.
    scale: Gain, shaped like the feature axes of `x`, for all domains; or of
      each domain, with the domains along a new first axis. None means one.
    bias: Shift, shaped like either; None means zero.
    stats: Running statistics `[domains, channels]`, or with more feature axes.
      Training needs them too.
    use_running_average, axis, momentum, epsilon, mask, axis_name,
      axis_index_groups, running_var_ddof, scale_offset: As in `batch_norm`.

  Returns:
    As `batch_norm`. The statistics of other domains do not change.

  Raises:
    As `batch_norm`. Also TypeError: `domain` is not an integer. ValueError: it
    is out of range, or there are no `stats` of shape `[domains, channels]`.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> stats = normjax.BatchStats(jnp.zeros((2, 1)), jnp.ones((2, 1)))
    >>> x = jnp.array([[1.0], [3.0]])
    >>> y, stats = normjax.domain_batch_norm(
    ...   x, 1, stats=stats, use_running_average=False, momentum=0.5)
    >>> print(y.T, stats.mean.T)
    [[-1.  1.]] [[0. 1.]]

  References: Li et al., 2016, https://arxiv.org/abs/1603.04779, statistics;
    Chang et al., 2019, https://arxiv.org/abs/1906.03950, also gain and bias.
  """
  check_floating(x, "domain_batch_norm")
  features = canonical_axes(axis, x.ndim, "axis")
  stats = checked_rows("domain_batch_norm", "domains", stats, len(features))

  def of_domain(value: jax.Array | None) -> jax.Array | None:
    if value is None or value.ndim <= len(features):
      return value
    return row(value, domain)

  y, new = batch_norm(
    x,
    of_domain(scale),
    of_domain(bias),
    row(stats, domain),
    use_running_average=use_running_average,
    axis=features,
    momentum=momentum,
    epsilon=epsilon,
    mask=mask,
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
    running_var_ddof=running_var_ddof,
    scale_offset=scale_offset,
  )
  return y, stats if use_running_average else with_row(stats, domain, new)
