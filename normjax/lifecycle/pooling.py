"""Moments of what batch norms see, kept beside their running statistics."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normjax import functional
from normjax.descriptions.parameters import boolean, widened
from normjax.functional import sharding
from normjax.functional.arguments import (
  AxisIndexGroups,
  AxisName,
  canonical_axes,
  complement,
  statistics_dtype,
)
from normjax.functional.rows import row, with_row
from normjax.functional.running import merged_covariance
from normjax.lifecycle.selection import Path, listed

# The name of the moments so far, beside the `mean` and `var` of a batch norm.
POOL = "pool"


def empty_pool(mean: jax.Array, names: Collection[str], name: str) -> Any:
  """Returns empty moments for a norm, on the devices of its statistics.

  Args:
    mean: Its running mean.
    names: The names of its statistics.
    name: Its own, for the message.

  Raises:
    ValueError: it has neither `var` nor `cov`.
  """
  if not {"var", "cov"} & set(names):
    raise ValueError(
      f"{name} keeps {', '.join(names)} in batch_stats; only a mean"
      " with a var or a cov is of use here. Choose other norms by `which`."
    )
  dtype = statistics_dtype(mean.dtype)
  real = jnp.finfo(dtype).dtype
  zeros = functools.partial(jnp.zeros_like, mean)
  return functional.Moments(
    zeros(dtype=real), zeros(dtype=dtype), zeros(dtype=dtype), zeros(dtype=real)
  )


def input_moments(
  module: Any,
  given: Mapping[str, Any],
  pool: functional.Moments,
  name: str,
  *,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
) -> functional.Moments:
  """Returns the moments of the input of a batch norm.

  Args:
    module: The norm.
    given: The arguments of its call, by name.
    pool: Moments of the shape and dtype that it keeps.
    name: Its name, for a message.
    axis_name, axis_index_groups: As in `normjax.moments`.

  Raises:
    ValueError: the features of the input have another shape than `pool`.
  """
  x, features = _input(module, given, pool, name)
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
  name: str,
  num_groups: int,
  *,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
) -> jax.Array:
  """Returns the covariances of the input of a norm that whitens.

  Args:
    num_groups: Number of groups of its channels.
    module, given, pool, name, axis_name, axis_index_groups: As in
      `input_moments`.

  Returns:
    Those of groups of channels, or of the two parts of complex channels.
  """
  x, (axis,) = _input(module, given, pool, name)
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
  module: Any, given: Mapping[str, Any], pool: functional.Moments, name: str
) -> tuple[jax.Array, tuple[int, ...]]:
  """Returns the input of a batch norm, and its feature axes."""
  x = widened(jnp.asarray(next(iter(given.values()))), pool.mean.dtype)
  features = canonical_axes(getattr(module, "axis", -1), x.ndim, "axis")
  shape = tuple(x.shape[axis] for axis in features)
  if shape != pool.mean.shape:
    raise ValueError(
      f"The statistics of {name!r} have shape"
      f" {pool.mean.shape}, but its input {x.shape} has features {shape}."
      " Choose other norms by `which`."
    )
  return x, features


def pooled_call(
  module: Any,
  given: Mapping[str, Any],
  before: Mapping[str, Any],
  name: str,
  axis_name: AxisName | None,
  row_argument: str,
  train: Callable[[Mapping[str, jax.Array]], tuple[jax.Array, Any]],
) -> tuple[jax.Array, dict[str, Any]]:
  """Calls a batch norm in training, and pools the moments of its input.

  Args:
    module: The norm.
    given: The arguments of its call, by name.
    before: The values of its statistics, by name; one is its `POOL`.
    name: Its name, for a message.
    axis_name: The mapped axes that it averages over.
    row_argument: Which argument names the row of its statistics, if any.
    train: Calls it in training, with these statistics in place of its own;
      returns the output, and the new `weight` or None.

  Returns:
    The output, and the statistics of all values so far. What the norm itself
    has made of its mean and variance is undone.
  """
  mapped: dict[str, Any] = {
    "axis_name": axis_name,
    "axis_index_groups": getattr(module, "axis_index_groups", None),
  }
  index = given.get(row_argument)
  pool = before[POOL] if index is None else row(before[POOL], index)
  batch = input_moments(module, given, pool, name, **mapped)
  pool = functional.update_stats(pool, batch)
  if index is not None:
    pool = with_row(before[POOL], index, pool)
  ddof = getattr(module, "running_var_ddof", 0)
  own = {}
  if "var" in before and index is None:
    # Batch renorm corrects towards them: nothing, if they are the batch's own.
    own = {
      "mean": batch.mean.astype(before["mean"].dtype),
      "var": batch.variance(ddof).astype(before["var"].dtype),
    }
  y, weight = train(own)
  after = {
    **before,
    POOL: pool,
    "mean": _known(pool.count > 0, pool.mean, before["mean"]),
  }
  if "weight" in before:  # In later training, this batch counts as any other.
    after["weight"] = weight
  if "var" in before:
    var = pool.variance(ddof)
    after["var"] = _known(pool.count > ddof, var, before["var"])
  else:
    groups = len(before["cov"])
    new = input_covariance(module, given, before[POOL], name, groups, **mapped)
    after["cov"] = merged_covariance(before["cov"], new, before[POOL], pool)
  return y, after


def _known(known: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
  return sharding.where(known, new.astype(old.dtype), old)


def check_counts(counts: Mapping[Path, jax.Array]) -> None:
  """Raises if a norm that was chosen has got no values.

  Args:
    counts: Numbers of values by the path of the norm.
  """
  if any(isinstance(count, jax.core.Tracer) for count in counts.values()):
    return
  empty = [path for path, count in counts.items() if not np.any(count)]
  if empty:
    raise ValueError(
      f"No batch had values for {listed(empty)}. There may be no batches, or"
      " the model does not call these norms, or they are no batch norms: those"
      " have `use_running_average`. Choose others by `which`."
    )


def described_batch(batch: Any) -> Any:
  """Returns the shapes and dtypes of a batch, for a message."""
  return jax.tree.map(_described, batch)


def _described(leaf: Any) -> str:
  if isinstance(leaf, jax.Array | np.ndarray):
    return f"{leaf.dtype}{list(leaf.shape)}"
  return type(leaf).__name__


def check_batches(batches: Any) -> None:
  """Raises TypeError if batches are one array."""
  if isinstance(batches, jax.Array | np.ndarray):
    raise TypeError(
      f"batches must be an iterable of batches, got an array {batches.shape}."
      " Write [x] for one batch, list(x) for those along the first axis."
    )
