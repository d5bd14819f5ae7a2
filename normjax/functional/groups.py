"""Which elements a norm averages over together, and how it sums over them."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from normjax.functional import sharding
from normjax.functional.arguments import (
  AxisIndexGroups,
  AxisName,
  mapped_size,
)


class Groups(NamedTuple):
  """Describes which elements share a mean and a variance.

  Sums are computed in two stages. The first sums over axes of the array. The
  second adds up ("pools") these partial sums, which are small, over adjacent
  channels and over devices. So the channel axis of the array is never split,
  and devices exchange partial sums instead of data.

  Attributes:
    axes: Axes that the first stage sums over, sorted. They are kept with size
      one.
    channel_axis: Axis whose adjacent channels form groups; None for no such
      groups. The first stage keeps it. All channels of a group then get the
      group's sum.
    num_groups: Number of groups of channels.
    axis_name: Name or names of mapped axes that are summed over too.
    axis_index_groups: Indices along `axis_name` that are summed over together.
  """

  axes: tuple[int, ...]
  channel_axis: int | None = None
  num_groups: int = 1
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None

  @property
  def pooled(self) -> bool:
    """Whether there is a second stage."""
    return self.channel_axis is not None or self.axis_name is not None

  def size(self, shape: tuple[int, ...]) -> int:
    """Returns the number of elements in a group, for an array of this shape."""
    size = math.prod(shape[axis] for axis in self.axes)
    if self.channel_axis is not None:
      size *= shape[self.channel_axis] // self.num_groups
    if self.axis_name is None:
      return size
    if self.axis_index_groups is not None:
      return size * len(self.axis_index_groups[0])
    return size * mapped_size(self.axis_name)

  def total(self, x: Any) -> Any:
    """Returns a tree of arrays, each summed up, in shapes that broadcast."""
    return self.pool(
      jax.tree.map(lambda x: jnp.sum(x, self.axes, keepdims=True), x)
    )

  def pool(self, sums: Any) -> Any:
    """Returns a tree of partial sums, each added up over its group."""
    sums = jax.tree.map(self._pool_channels, sums)
    if self.axis_name is None:
      return sums
    return lax.psum(
      sums, self.axis_name, axis_index_groups=self.axis_index_groups
    )

  def _pool_channels(self, sums: jax.Array) -> jax.Array:
    axis = self.channel_axis
    if axis is None:
      return sums
    # JAX does not reshape an axis that is divided among devices. Gathering it
    # is cheap, because partial sums are small.
    whole = sharding.gathered(sums, axis)
    before, after = sums.shape[:axis], sums.shape[axis + 1 :]
    size = sums.shape[axis] // self.num_groups
    split = whole.reshape(*before, self.num_groups, size, *after)
    pooled = jnp.sum(split, axis + 1, keepdims=True)
    pooled = jnp.broadcast_to(pooled, split.shape).reshape(sums.shape)
    return sharding.placed_like(pooled, sums)


def check_more_than_one(
  groups: Groups, x: jax.Array, function: str, *, element: str, advice: str
) -> None:
  """Raises ValueError if every group is a single element.

  Args:
    groups: The groups.
    x: The array that is normalized.
    function: The name of the norm, for the message.
    element: What there is one of, for the message.
    advice: What to do, for the message.
  """
  if groups.size(x.shape) == 1:
    raise ValueError(
      f"{function} got x with shape {x.shape}: {element}, whose variance is"
      f" zero, so the output would be the bias whatever x is. {advice}"
    )


def check_ddof(ddof: int, groups: Groups, shape: tuple[int, ...]) -> None:
  """Raises ValueError if `count - ddof` is known not to be positive."""
  if not ddof or groups.axis_name is not None:
    return
  size = groups.size(shape)
  if size <= ddof:
    raise ValueError(
      f"ddof={ddof} needs more than {ddof} elements in a group; axes"
      f" {groups.axes} of x with shape {shape} have {size}. Reduce over more"
      " axes or use ddof=0."
    )


def count_groups(
  channels: int, num_groups: int | None, group_size: int | None
) -> int:
  """Returns the number of groups, computed from the option that is given.

  Raises:
    TypeError: it is not an integer.
    ValueError: it does not divide the channels, or both or none are given.
  """
  if (num_groups is None) == (group_size is None):
    raise ValueError(
      f"Give exactly one of num_groups and group_size, got {num_groups} and"
      f" {group_size}. num_groups has a default: to give group_size, set"
      " num_groups=None. The number of channels is taken from x."
    )
  name, value = (
    ("num_groups", num_groups)
    if num_groups is not None
    else ("group_size", group_size)
  )
  if not isinstance(value, int):
    raise TypeError(f"{name} must be an integer, got {value!r}.")
  if value <= 0 or channels % value:
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    raise ValueError(
      f"{name}={value} does not divide the {channels} channels. Use one of"
      f" {divisors}."
    )
  return value if num_groups is not None else channels // value
