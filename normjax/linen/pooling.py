"""Moments of what batch norms see, kept beside their running statistics."""

import functools
from collections.abc import Container, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
  if not {"var", "cov"} & set(stats):
    raise ValueError(
      f"{listed([path])} keeps {', '.join(stats)} in batch_stats; only a mean"
      " with a var or a cov is of use here. Choose other norms by `which`."
    )
  # Zeros on the devices of the statistics.
  dtype = statistics_dtype(stats["mean"].dtype)
  mean, real = (
    jnp.zeros_like(stats["mean"], dtype=each)
    for each in (dtype, jnp.finfo(dtype).dtype)
  )
  pool = functional.Moments(real, mean, mean, real)
  return {**new, **dict.fromkeys(names, real), POOL: pool}


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
  x, features = _input(module, given, pool)
  return functional.moments(
    x,
    complement(features, x.ndim),
    mask=boolean(given.get("mask")),
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
  )


def input_covariance(
  module: Any,
  given: Mapping[str, Any],
  pool: functional.Moments,
  num_groups: int,
  *,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
) -> jax.Array:
  """Returns the covariances of the input of a norm that whitens.

  Args:
    num_groups: Number of groups of its channels.
    module, given, pool, axis_name, axis_index_groups: As in `input_moments`.

  Returns:
    Those of groups of channels, or of the two parts of complex channels.
  """
  x, (axis,) = _input(module, given, pool)
  whiten = functional.complex_batch_norm
  if not jnp.iscomplexobj(x):
    whiten = functools.partial(
      functional.decorrelated_batch_norm, num_groups=num_groups
    )
  _, stats = whiten(
    x,
    use_running_average=False,
    axis=axis,
    mask=boolean(given.get("mask")),
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
  )
  return stats.cov


def _input(
  module: Any, given: Mapping[str, Any], pool: functional.Moments
) -> tuple[jax.Array, tuple[int, ...]]:
  """Returns the input of a batch norm, and its feature axes."""
  x = widened(jnp.asarray(next(iter(given.values()))), pool.mean.dtype)
  features = canonical_axes(getattr(module, "axis", -1), x.ndim, "axis")
  shape = tuple(x.shape[axis] for axis in features)
  if shape != pool.mean.shape:
    raise ValueError(
      f"The statistics of {'/'.join(module.path)!r} have shape"
      f" {pool.mean.shape}, but its input {x.shape} has features {shape}."
      " Choose other norms by `which`."
    )
  return x, features


def variances(stats: Mapping[str, Any]) -> np.ndarray:
  """Returns the running variances of channels, shaped like `mean`.

  The covariances of a norm that whitens have them on their diagonals, that of
  the real and that of the imaginary part if channels are complex.
  """
  if "var" in stats:
    return np.asarray(stats["var"])
  diagonals = np.diagonal(stats["cov"], axis1=-2, axis2=-1)
  return diagonals.reshape(*np.shape(stats["mean"]), -1).sum(-1)
