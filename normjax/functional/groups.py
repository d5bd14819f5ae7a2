"""Which elements a norm averages together, and how sums over them are taken."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from normjax.functional.arguments import AxisIndexGroups, AxisName


class Groups(NamedTuple):
  """Elements that share a mean and a variance.

  Sums are taken in two stages: over axes of the array, which is where the time
  goes, then over what those partial sums have in common, which is small. So
  adjacent channels are grouped without splitting the channels' axis of the
  array, and devices exchange partial sums instead of data.

  Attributes:
    axes: Axes that are summed over, sorted. They are kept with size one.
    channel_axis: Axis whose adjacent channels are grouped; None for no groups.
      Partial sums keep it, and pooled sums repeat along it.
    num_groups: Number of groups of channels.
    axis_name: Name or names of mapped axes that are summed over too.
    axis_index_groups: Indices along `axis_name` that belong together.
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

  def total(self, x: jax.Array) -> jax.Array:
    """Returns the sums of `x`, in a shape that broadcasts to that of `x`."""
    return self.pool(jnp.sum(x, self.axes, keepdims=True))

  def pool(self, sums: Any) -> Any:
    """Returns a tree of partial sums, each added up with its peers."""
    sums = jax.tree.map(self._pool_channels, sums)
    if self.axis_name is None:
      return sums
    return lax.psum(
      sums, self.axis_name, axis_index_groups=self.axis_index_groups
    )

  def _pool_channels(self, sums: jax.Array) -> jax.Array:
    if self.channel_axis is None:
      return sums
    before = sums.shape[: self.channel_axis]
    after = sums.shape[self.channel_axis + 1 :]
    split = sums.reshape(*before, self.num_groups, -1, *after)
    pooled = jnp.sum(split, self.channel_axis + 1, keepdims=True)
    return jnp.broadcast_to(pooled, split.shape).reshape(sums.shape)
