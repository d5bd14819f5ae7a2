"""Arrays of many axes, seen as arrays of few.

A norm treats some axes alike: it averages over all of them, or over none. Where
such axes are neighbors, they can be one axis. XLA's CPU backend crashes on sums
over arrays of seven axes and more in jaxlib 0.10.2 and 0.11.0
(https://github.com/jax-ml/jax/issues/39257), and nobody tests such arrays much.
"""

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import jax

from normjax.functional import sharding
from normjax.functional.groups import Groups

_Array = TypeVar("_Array", jax.Array, jax.Array | None)

# Arrays with no more axes stay as they are, since under `jax.jit` one of the
# axes may be sharded, and then becoming a part of another costs a transfer.
MOST_AXES = 5


class Fold(NamedTuple):
  """A view of an array in which neighboring axes of one role are one axis.

  Attributes:
    shape: Of the array.
    places: For each of its axes, the axis of the view.
  """

  shape: tuple[int, ...]
  places: tuple[int, ...]

  def array(self, x: _Array) -> _Array:
    """Returns the view of the array, or of a mask of the same rank."""
    if x is None:
      return None
    return _reshape(x, self._sizes(x.shape, range(x.ndim)))

  def parameter(self, value: _Array, features: tuple[int, ...]) -> _Array:
    """Returns the view of a parameter that varies along `features` only."""
    if value is None:
      return None
    return _reshape(value, self._sizes(self.shape, features))

  def axes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the axes of the view for axes of the array."""
    return tuple(sorted({self.places[axis] for axis in axes}))

  def groups(self, groups: Groups) -> Groups:
    """Returns the groups of the view for `groups` of the array."""
    channel = groups.channel_axis
    return groups._replace(
      axes=self.axes(groups.axes),
      channel_axis=None if channel is None else self.places[channel],
    )

  def unfold(self, y: jax.Array, summed: tuple[int, ...] = ()) -> jax.Array:
    """Returns the array of a view; axes that were summed over have size one."""
    sizes = enumerate(self.shape)
    return _reshape(y, tuple(1 if i in summed else size for i, size in sizes))

  def _sizes(
    self, shape: tuple[int, ...], axes: Iterable[int]
  ) -> tuple[int, ...]:
    sizes: dict[int, list[int]] = {}
    for axis in axes:
      sizes.setdefault(self.places[axis], []).append(shape[axis])
    return tuple(math.prod(together) for together in sizes.values())


def _reshape(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  return x if x.shape == shape else x.reshape(shape)


def fold(
  x: jax.Array,
  mask: jax.Array | None,
  groups: Groups,
  features: tuple[int, ...] = (),
) -> Fold:
  """Returns a view of `x` with few axes.

  The view is `x` itself if `x` has at most `MOST_AXES` axes, or is sharded over
  a mesh of explicit axes.

  >>> import jax.numpy as jnp
  >>> from normjax.functional.groups import Groups
  >>> view = fold(jnp.zeros((3, 1, 2, 2, 8, 8)), None, Groups((3,)))
  >>> view.places, view.array(jnp.zeros(view.shape)).shape
  ((0, 0, 0, 1, 2, 2), (6, 2, 64))
  """
  if x.ndim <= MOST_AXES or sharding.is_explicit(x):
    return Fold(x.shape, tuple(range(x.ndim)))
  roles = [
    (
      axis in groups.axes,
      axis in features,
      axis == groups.channel_axis,
      mask is not None and mask.shape[axis] != x.shape[axis],
    )
    for axis in range(x.ndim)
  ]
  places, place = [0], 0
  for previous, role in itertools.pairwise(roles):
    place += role != previous
    places.append(place)
  return Fold(x.shape, tuple(places))
