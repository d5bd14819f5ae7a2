"""How the kernels of `normjax.native` see arrays, and how they are called.

A kernel takes a dense array as `[outer, reduced, inner]`. It passes over it
once or twice, in parallel, where XLA passes over it four to eight times.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from normjax.functional.formulas import Norm
from normjax.native import library

# Dtypes that x may have. Parameters and statistics are float32.
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


class Layout(NamedTuple):
  """Which elements share a statistic, and which share a parameter.

  Attributes:
    outer, reduced, inner: The sizes of the array. Statistics are over
      `reduced`.
    features: Number of parameters. Element e of the array has parameter
      `e // repeat % features`.
    repeat: Consecutive elements that share one parameter.
    groups: Number of groups of neighbors along `inner`. A group shares its
      statistics.
    channels_per_statistic: Consecutive channels that share one statistic. A
      kernel returns it once.
  """

  outer: int
  reduced: int
  inner: int
  features: int
  repeat: int
  groups: int
  channels_per_statistic: int


def layout(shape: tuple[int, ...], norm: Norm) -> Layout | None:
  """Returns how kernels see an array, or None if no layout fits.

  >>> from normjax.functional.groups import Groups
  >>> layout((8, 32, 32, 64), Norm(Groups((1, 2), 3, 16), features=(3,)))
  Layout(outer=8, reduced=1024, inner=64,
         features=64, repeat=1, groups=16, channels_per_statistic=1)
  >>> layout((8, 32, 32, 64), Norm(Groups((1, 3))))  # Not adjacent axes.
  """
  groups = norm.groups
  axes, channel = groups.axes, groups.channel_axis
  num_groups = channels_per_statistic = 1
  if channel is None:
    outer, reduced, inner = _split(shape, axes)
    num_groups = inner
  elif axes and channel == axes[-1] + 1:
    outer, reduced, inner = _split(shape, axes)
    num_groups = groups.num_groups
    if inner != shape[channel]:
      return None
  else:  # The channels come first: a group is a row.
    axes = (channel, *axes)
    outer, reduced, inner = _split(shape, axes)
    channels_per_statistic = shape[channel] // groups.num_groups
    outer, reduced = outer * groups.num_groups, reduced // groups.num_groups
    if inner > 1:
      return None
  _, features, repeat = _split(shape, norm.features)
  if inner > 1:
    features = features if norm.features else inner
    fits = repeat == 1 and features == inner
  else:
    fits = features == 1 or (
      _divides(repeat, reduced) and _divides(features * repeat, reduced)
    )
  if not (fits and _adjacent(axes) and _adjacent(norm.features)):
    return None
  return Layout(
    outer, reduced, inner, features, repeat, num_groups, channels_per_statistic
  )


def _adjacent(axes: tuple[int, ...]) -> bool:
  return not axes or axes == tuple(range(axes[0], axes[0] + len(axes)))


def _divides(a: int, b: int) -> bool:
  """Returns whether one of two numbers divides the other."""
  return a > 0 and b > 0 and (a % b == 0 or b % a == 0)


def _split(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the sizes before, of and behind adjacent axes."""
  if not axes:
    return math.prod(shape), 1, 1
  parts = shape[: axes[0]], shape[axes[0] : axes[-1] + 1], shape[axes[-1] + 1 :]
  return tuple(map(math.prod, parts))


def call_normalize(
  x: jax.Array, scale: jax.Array | None, bias: jax.Array | None, norm: Norm
) -> list[jax.Array]:
  """Returns normalized x, mean, mean_tail and m2; `layout` must know x."""
  view = layout(x.shape, norm)
  assert view is not None
  statistic = jax.ShapeDtypeStruct((view.outer * view.inner,), jnp.float32)
  y, *statistics = jax.ffi.ffi_call(
    library.TARGETS[0],
    (jax.ShapeDtypeStruct(x.shape, x.dtype), statistic, statistic, statistic),
  )(
    x,
    _flat(scale, norm.scale_offset),
    _flat(bias),
    **_attributes(view, norm),
  )
  kept = tuple(
    1 if axis in norm.groups.axes else size for axis, size in enumerate(x.shape)
  )
  per_channel = (statistic.shape[0], view.channels_per_statistic)
  return [
    y,
    *(
      jnp.broadcast_to(value[:, None], per_channel).reshape(kept)
      for value in statistics
    ),
  ]


def call_pullback(
  x: jax.Array,
  scale: jax.Array | None,
  statistics: list[jax.Array],
  dy: jax.Array,
  norm: Norm,
  *,
  d_scale: bool,
  d_bias: bool,
) -> list[jax.Array]:
  """Returns dx, [d_scale], [d_bias]; the last two are float32 and flat.

  Args:
    x, scale, norm: As in `call_normalize`.
    statistics: The mean, mean_tail and m2 that `call_normalize` returned.
    dy: The cotangent of y.
    d_scale, d_bias: Whether to return them.
  """
  view = layout(x.shape, norm)
  assert view is not None
  dx, *parameters = jax.ffi.ffi_call(
    library.TARGETS[1],
    (
      jax.ShapeDtypeStruct(x.shape, x.dtype),
      jax.ShapeDtypeStruct((view.features * d_scale,), jnp.float32),
      jax.ShapeDtypeStruct((view.features * d_bias,), jnp.float32),
    ),
  )(
    x,
    dy,
    _flat(scale, norm.scale_offset),
    *(
      value.reshape(-1, view.channels_per_statistic)[:, 0]
      for value in statistics
    ),
    **_attributes(view, norm),
  )
  return [dx, *(value for value in parameters if value.size)]


def _flat(value: jax.Array | None, offset: float = 0.0) -> jax.Array:
  """Returns a parameter for a kernel: float32, flat, empty if it is None."""
  if value is None:
    return jnp.zeros(0, jnp.float32)
  flat = value.astype(jnp.float32).reshape(-1)
  return flat + offset if offset else flat


def _attributes(view: Layout, norm: Norm) -> dict[str, Any]:
  sizes = view._asdict()
  del sizes["channels_per_statistic"]
  return {
    **{name: np.int64(size) for name, size in sizes.items()},
    "epsilon": np.float32(norm.epsilon),
    "centered": np.bool_(norm.centered),
  }
