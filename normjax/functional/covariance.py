"""Covariances of groups of channels, and whitening by them.

All that the norms that whiten share. Inside, arrays have their channels in the
last two axes, `[..., groups, size]`, and all axes before are averaged over.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from normjax.functional import sharding
from normjax.functional.arguments import (
  AxisIndexGroups,
  AxisName,
  canonical_axes,
  canonical_mask,
  check_axis_name,
  check_epsilon,
  check_parameters,
  complement,
  statistics_dtype,
)
from normjax.functional.axes import Fold, fold
from normjax.functional.groups import Groups, check_more_than_one
from normjax.functional.inverse_roots import PRECISION
from normjax.functional.moments import deviations, group_moments, masked
from normjax.functional.running import (
  WhiteningStats,
  check_mode,
  check_statistic,
  updated_whitening,
)

# From covariances `[groups, size, size]` to the matrices that whiten.
Matrix = Callable[[jax.Array], jax.Array]


def one_channel_axis(axis: int, x: jax.Array, function: str) -> int:
  """Returns the axis of the channels; raises if there are more."""
  (channel, *others) = canonical_axes(axis, x.ndim, "axis")
  if others:
    raise ValueError(
      f"{function} needs one axis of channels, got axis={axis} for x with shape"
      f" {x.shape}. Merge these axes with reshape first."
    )
  return channel


def whitened(
  x: jax.Array,
  bias: jax.Array | None,
  stats: WhiteningStats | None,
  mask: ArrayLike | None,
  matrix: Matrix,
  split: Callable[[jax.Array], jax.Array],
  join: Callable[[jax.Array], jax.Array],
  *,
  function: str,
  axis: int,
  use_running_average: bool,
  momentum: float | jax.Array,
  epsilon: float | jax.Array,
  axis_name: AxisName | None,
  axis_index_groups: AxisIndexGroups | None,
) -> tuple[jax.Array, WhiteningStats]:
  """Returns `x` whitened and shifted, and running statistics.

  Args:
    x: Floating array.
    matrix: From covariances to what deviations are multiplied by.
    split: From `[..., channels]` to `[..., groups, size]`, real.
    join: From there back.
    function: The name of the norm, for messages.
    bias, stats, mask, axis, use_running_average, momentum, epsilon, axis_name,
      axis_index_groups: As in `decorrelated_batch_norm`.
  """
  check_epsilon(epsilon)
  check_mode(function, "WhiteningStats", use_running_average, stats)
  channel = one_channel_axis(axis, x, function)
  check_parameters(x, (channel,), f"axis={axis}", bias=bias)
  mask = canonical_mask(mask, x.shape)
  layout = _channels_last(x, mask, channel)
  wide = split(layout.array(x).astype(statistics_dtype(x.dtype)))
  counted = layout.mask(mask, wide.shape[-2])
  _check_stats(stats, x, channel, f"axis={axis}", wide.shape[-2:])
  if stats is not None and use_running_average:
    mean, cov = (sharding.whole(value) for value in stats)
    y = _whiten_by(WhiteningStats(split(mean), cov), wide, counted, matrix)
  else:
    _check_training(x, channel, function, axis_name, axis_index_groups)
    y, batch, known = _whiten(
      wide, counted, matrix, axis_name, axis_index_groups
    )
    batch = batch._replace(mean=join(batch.mean))
    if stats is None:
      stats = batch
    else:
      stats = updated_whitening(stats, batch, known, momentum)
  y = join(y)
  if bias is not None:
    shift = sharding.whole(bias).astype(y.dtype)
    y = y + jnp.expand_dims(shift, tuple(range(y.ndim - 1)))
  return layout.restored(y.astype(x.dtype), x), stats


def _check_stats(
  stats: WhiteningStats | None,
  x: jax.Array,
  channel: int,
  origin: str,
  groups: tuple[int, ...],
) -> None:
  """Raises unless statistics have the right shapes and dtypes."""
  if stats is None:
    return
  mean, cov = stats
  cov_shape = (*groups, groups[-1])
  check_parameters(x, (channel,), origin, **{"stats.mean": mean})
  check_statistic("stats.mean", mean)
  check_statistic("stats.cov", cov)
  if jnp.iscomplexobj(x) != jnp.iscomplexobj(mean):
    raise TypeError(
      f"stats.mean is {mean.dtype} but x is {x.dtype}, so its mean is complex."
      " Start with a complex mean and a real cov."
    )
  if cov.shape != cov_shape:
    raise ValueError(
      f"stats.cov must have shape {cov_shape}, a matrix for each group of"
      f" channels of x with shape {x.shape} ({origin}), got {cov.shape}. Pass"
      " the WhiteningStats that training with the same groups returned."
    )
  if jnp.iscomplexobj(cov):
    raise TypeError(
      f"stats.cov must be real, got {cov.dtype}: a covariance of real numbers,"
      " or of real parts and imaginary parts."
    )


def _check_training(
  x: jax.Array,
  channel: int,
  function: str,
  axis_name: AxisName | None,
  axis_index_groups: AxisIndexGroups | None,
) -> None:
  """Raises if there is one value per channel, or an unbound axis name."""
  check_axis_name(axis_name)
  groups = Groups(
    complement((channel,), x.ndim),
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
  )
  check_more_than_one(
    groups,
    x,
    f"{function} in training",
    element="one value per channel",
    advice="Use a larger batch, use_running_average=True, or a norm that does"
    " not look at the batch, such as layer_norm or group_norm.",
  )


class _ChannelsLast(NamedTuple):
  """A view of an array that has its channels last, and few axes.

  Attributes:
    view: Merges axes.
    channel: The axis of the channels in that view.
  """

  view: Fold
  channel: int

  def array(self, x: jax.Array) -> jax.Array:
    """Returns the view, with all channels on every device."""
    x = jnp.moveaxis(self.view.array(x), self.channel, -1)
    return sharding.gathered(x, -1)

  def mask(self, mask: jax.Array | None, num_groups: int) -> jax.Array | None:
    """Returns the view of a mask, with its channels split into groups."""
    if mask is None:
      return None
    mask = self.array(mask)
    *lead, channels = mask.shape
    groups = 1 if channels == 1 else num_groups
    return mask.reshape(*lead, groups, channels // groups)

  def restored(self, y: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the array for a view of it, sharded like `x`."""
    y = self.view.unfold(jnp.moveaxis(y, -1, self.channel))
    return sharding.placed_like(y, x)


def _channels_last(
  x: jax.Array, mask: jax.Array | None, channel: int
) -> _ChannelsLast:
  """Returns the view of an array with channels along an axis."""
  view = fold(x, mask, Groups(complement((channel,), x.ndim)), (channel,))
  return _ChannelsLast(view, view.places[channel])


def _whiten(
  x: jax.Array,
  mask: jax.Array | None,
  matrix: Matrix,
  axis_name: AxisName | None,
  axis_index_groups: AxisIndexGroups | None,
) -> tuple[jax.Array, WhiteningStats, jax.Array]:
  """Returns `x` whitened by its own statistics.

  Args:
    x: `[..., groups, size]`, in the dtype of the statistics.
    mask: Boolean, with the rank of `x`.
    matrix: Returns the matrices that whiten.
    axis_name, axis_index_groups: Mapped axes that are averaged over too.

  Returns:
    y: Like `x`.
    stats: The mean, `[groups, size]`, and the covariance.
    known: For each group whether the statistics are finite and every channel
      has elements.
  """
  groups = Groups(
    tuple(range(x.ndim - 2)),
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
  )
  moments = group_moments(x, mask, groups)
  c = deviations(x, mask, moments)
  count, mean = (
    field.reshape(x.shape[-2:]) for field in (moments.count, moments.mean)
  )
  cov = _covariance(c, count, groups)
  # If sums have overflowed, the output is zero, as in the other norms. If there
  # is NaN, it comes out through the deviations.
  finite = jnp.all(jnp.isfinite(cov), (-2, -1), keepdims=True)
  found = matrix(jnp.where(finite, cov, jnp.zeros_like(cov)))
  y = _transformed(c, jnp.where(finite, found, jnp.zeros_like(found)))
  known = finite[:, 0, 0] & jnp.all(count > 0, -1)
  return y, WhiteningStats(mean, cov), known


def _whiten_by(
  stats: WhiteningStats, x: jax.Array, mask: jax.Array | None, matrix: Matrix
) -> jax.Array:
  """Returns `x` whitened by a mean `[groups, size]` and covariances."""
  mean, cov = (value.astype(x.dtype) for value in stats)
  mean = jnp.expand_dims(mean, tuple(range(x.ndim - 2)))
  return _transformed(masked(masked(x, mask) - mean, mask), matrix(cov))


def _covariance(c: jax.Array, count: jax.Array, groups: Groups) -> jax.Array:
  """Returns the covariances of deviations.

  The divisor is the root of both counts. So if masks differ among channels, no
  eigenvalue is negative.
  """
  sums = lax.dot_general(
    c,
    c,
    ((groups.axes, groups.axes), ((c.ndim - 2,), (c.ndim - 2,))),
    precision=PRECISION,
    out_sharding=sharding.everywhere(c),
  )
  root = jnp.sqrt(jnp.maximum(count, 1))
  return groups.pool(sums) / (root[:, :, None] * root[:, None, :])


def _transformed(c: jax.Array, matrix: jax.Array) -> jax.Array:
  return jnp.einsum("...gd,gde->...ge", c, matrix, precision=PRECISION)
