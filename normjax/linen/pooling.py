"""Moments of what batch norms see, kept beside their running statistics."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from normjax import functional
from normjax.functional.arguments import (
  AxisIndexGroups,
  AxisName,
  canonical_axes,
  complement,
  statistics_dtype,
)
from normjax.linen.parameters import boolean, widened
from normjax.linen.selection import Path, listed

# The name of the moments so far, beside the `mean` and `var` of a batch norm.
POOL = "pool"


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
    names: Names of more variables for each, zeros that are shaped like `var`.
    path: Where `stats` are.

  Raises:
    ValueError: a chosen norm has no `var`.
  """
  new = {
    name: with_pools(value, chosen, names, (*path, name))
    if isinstance(value, Mapping)
    else value
    for name, value in stats.items()
  }
  if path not in chosen:
    return new
  if "var" not in stats:
    raise ValueError(
      f"{listed([path])} keeps {', '.join(stats)} in batch_stats; only a mean"
      " and a var are of use here. Choose other norms by `which`."
    )
  # Zeros on the devices of the statistics.
  mean, var = (
    jnp.zeros_like(value, dtype=statistics_dtype(value.dtype))
    for value in (stats["mean"], stats["var"])
  )
  pool = functional.Moments(var, mean, mean, var)
  return {**new, **dict.fromkeys(names, var), POOL: pool}


def input_moments(
  module: Any,
  given: Mapping[str, Any],
  pool: functional.Moments,
  *,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
) -> functional.Moments:
  """Returns the moments of the input of a batch norm.

  Args:
    module: The norm.
    given: The arguments of its call, by name.
    pool: Moments of the shape and dtype that it keeps.
    axis_name, axis_index_groups: As in `normjax.moments`.

  Raises:
    ValueError: the features of the input have another shape than `pool`.
  """
  x = widened(jnp.asarray(next(iter(given.values()))), pool.mean.dtype)
  features = canonical_axes(getattr(module, "axis", -1), x.ndim, "axis")
  shape = tuple(x.shape[axis] for axis in features)
  if shape != pool.mean.shape:
    raise ValueError(
      f"The statistics of {'/'.join(module.path)!r} have shape"
      f" {pool.mean.shape}, but its input {x.shape} has features {shape}."
      " Choose other norms by `which`."
    )
  return functional.moments(
    x,
    complement(features, x.ndim),
    mask=boolean(given.get("mask")),
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
  )
