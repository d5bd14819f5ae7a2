"""Moments beside the running statistics of batch norms in Linen models."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from normjax.lifecycle.pooling import POOL, empty_pool
from normjax.lifecycle.selection import Path, name_of


def with_pools(
  stats: Mapping[str, Any],
  chosen: Container[Path],
  names: Sequence[str] = (),
  path: Path = (),
) -> dict[str, Any]:
  """Returns `batch_stats` with empty moments for every chosen norm.

  Args:
    stats: The collection.
    chosen: Paths of the norms.
    names: Names of more variables for each, real zeros shaped like `mean`.
    path: Where `stats` are.

  Raises:
    ValueError: a chosen norm has neither `var` nor `cov`.
  """
  new = {
    name: with_pools(value, chosen, names, (*path, name))
    if isinstance(value, Mapping)
    else value
    for name, value in stats.items()
  }
  if path not in chosen:
    return new
  pool = empty_pool(stats["mean"], stats, name_of(path))
  return {**new, **dict.fromkeys(names, pool.count), POOL: pool}
