"""Views of arrays with many axes as arrays with few axes.

Neighboring axes that have the same role in a norm, such as being averaged over,
can be merged into one axis. This avoids a crash: in jaxlib 0.10.2 and 0.11.0,
XLA's CPU backend crashes on sums over arrays of seven or more axes
(https://github.com/jax-ml/jax/issues/39257).
"""

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import jax

from normjax.functional import sharding
from normjax.functional.groups import Groups

_Array = TypeVar("_Array", jax.Array, jax.Array | None)

# Arrays with at most this many axes stay as they are. Under `jax.jit` an axis
# may be sharded, and merging it with another one would cost a transfer.
MOST_AXES = 5


class Fold(NamedTuple):
  """A view of an array that merges neighboring axes of the same role.

  Attributes:
    shape: The shape of the array.
    places: For each axis of the array, the axis of the view.
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
    """Returns the array for a view of it.

    Args:
      y: The view.
      summed: Axes of the array that were summed over; they have size one.
    """
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
