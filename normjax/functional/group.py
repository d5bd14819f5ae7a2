"""Group normalization and instance normalization."""

import jax
from jax.typing import ArrayLike

from normjax.functional.arguments import (
  Axes,
  AxisIndexGroups,
  AxisName,
  canonical_axes,
  canonical_mask,
  check_axis_name,
  check_epsilon,
  check_floating,
  check_parameters,
  complement,
  jit,
)
from normjax.functional.dispatch import apply_norm
from normjax.functional.formulas import Norm
from normjax.functional.groups import (
  Groups,
  check_more_than_one,
  count_groups,
)

_MORE_IN_A_GROUP = (
  "Put more channels in a group, normalize a larger image, or use layer_norm."
)


@jit(
  "num_groups", "group_size", "channel_axis", "reduction_axes", "epsilon",
  "axis_name", "axis_index_groups", "scale_offset",
)  # fmt: skip
def group_norm(
  x: jax.Array,
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  *,
  num_groups: int | None = 32,
  group_size: int | None = None,
  channel_axis: int = -1,
  reduction_axes: Axes | None = None,
  epsilon: float | jax.Array = 1e-6,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  scale_offset: float = 0.0,
) -> jax.Array:
  """Standardizes groups of adjacent channels, then scales and shifts.

  Args:
    x: Real or complex floating array `[batch, ..., channels]`, or with the
      channels elsewhere.
    scale: Gain `[channels]`; None means one.
    bias: Shift `[channels]`; None means zero.
    num_groups: Number of groups of channels.
    group_size: Channels in a group. Give either this or `num_groups`, and set
      the other to None.
    channel_axis: The axis of the channels; 1 for channels first.
    reduction_axes: Axes that a group averages over, including `channel_axis`.
      None means all but the first, which is the batch.
    epsilon: Added to the variance, inside the square root. A number or a scalar
      array, which may be traced.
    mask: Boolean, broadcasts to `x`; True counts. Masked places may hold NaN,
      influence nothing and come out as `bias`.
    axis_name: Name or names of mapped axes that are averaged over too.
    axis_index_groups: Indices along `axis_name` that belong together; see
      `jax.lax.psum`.
    scale_offset: The gain is `scale_offset + scale`.

  Returns:
    Array with the shape and dtype of `x`. Half precision is computed in
    float32 and rounded once, at the end.

  Raises:
    TypeError: `x`, `scale` or `bias` is not floating, `mask` is not boolean, or
      an axis or number of groups is not an integer.
    ValueError: the channels cannot be divided into such groups, both or none of
      `num_groups` and `group_size` are given, a group has only one element,
      `reduction_axes` lacks the channels, `scale` or `bias` has the wrong
      shape, an axis is out of range or repeated, `epsilon` is not a positive
      float, or `mask` does not broadcast.
    NameError: `axis_name` is not bound.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> x = jnp.arange(8.0).reshape(1, 2, 4)  # One image, 2 pixels, 4 channels.
    >>> print(normjax.group_norm(x, num_groups=2))
    [[[-1.213 -0.728 -1.213 -0.728]
      [ 0.728  1.213  0.728  1.213]]]

  Reference: Wu & He, 2018, https://arxiv.org/abs/1803.08494, equations 1 and 7.
  """
  check_floating(x, "group_norm")
  check_epsilon(epsilon)
  check_axis_name(axis_name)
  (channel, *others) = canonical_axes(channel_axis, x.ndim, "channel_axis")
  if others:
    raise ValueError(
      f"group_norm needs one axis of channels, got channel_axis={channel_axis}."
      " To average over more axes, use reduction_axes."
    )
  axes = (
    tuple(range(1, x.ndim))
    if reduction_axes is None
    else canonical_axes(reduction_axes, x.ndim, "reduction_axes")
  )
  if channel not in axes:
    raise ValueError(
      f"group_norm averages over channels, but channel_axis={channel_axis} is"
      f" not among reduction_axes={axes} of x with shape {x.shape}. The first"
      " axis is the batch unless reduction_axes says otherwise."
    )
  channels = x.shape[channel]
  origin = f"channel_axis={channel_axis}"
  check_parameters(x, (channel,), origin, scale=scale, bias=bias)
  groups = Groups(
    tuple(axis for axis in axes if axis != channel),
    channel,
    count_groups(channels, num_groups, group_size),
    axis_name,
    axis_index_groups,
  )
  check_more_than_one(
    groups,
    x,
    "group_norm",
    element="one element per group",
    advice=_MORE_IN_A_GROUP,
  )
  norm = Norm(groups, (channel,), scale_offset=scale_offset)
  mask = canonical_mask(mask, x.shape)
  y, _ = apply_norm(x, scale, bias, mask, epsilon, norm)
  return y


@jit(
  "channel_axis", "epsilon", "axis_name", "axis_index_groups", "scale_offset",
)  # fmt: skip
def instance_norm(
  x: jax.Array,
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  *,
  channel_axis: Axes = -1,
  epsilon: float | jax.Array = 1e-6,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  scale_offset: float = 0.0,
) -> jax.Array:
  """Standardizes each channel of each example, then scales and shifts.

  Args:
    x: Real or complex floating array `[batch, ..., channels]` with at least
      one spatial axis, or with the channels elsewhere.
    scale: Gain `[channels]`; None means one.
    bias: Shift `[channels]`; None means zero.
    channel_axis: The axis or axes of the channels; 1 for channels first.
    epsilon: Added to the variance, inside the square root. A number or a scalar
      array, which may be traced.
    mask: Boolean, broadcasts to `x`; True counts. Masked places may hold NaN,
      influence nothing and come out as `bias`.
    axis_name: Name or names of mapped axes that are averaged over too.
    axis_index_groups: Indices along `axis_name` that belong together; see
      `jax.lax.psum`.
    scale_offset: The gain is `scale_offset + scale`.

  Returns:
    Array with the shape and dtype of `x`. Half precision is computed in
    float32 and rounded once, at the end.

  Raises:
    TypeError: `x`, `scale` or `bias` is not floating, `mask` is not boolean, or
      an axis is not an integer.
    ValueError: there is no spatial axis or only one pixel, the channels are the
      batch axis, `scale` or `bias` has the wrong shape, an axis is out of range
      or repeated, `epsilon` is not a positive float, or `mask` does not
      broadcast.
    NameError: `axis_name` is not bound.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> x = jnp.array([[[1.0, 30.0], [2.0, 20.0], [3.0, 10.0]]])
    >>> print(normjax.instance_norm(x))
    [[[-1.225  1.225]
      [ 0.     0.   ]
      [ 1.225 -1.225]]]

  Reference: Ulyanov, Vedaldi & Lempitsky, 2016,
    https://arxiv.org/abs/1607.08022, equation 4.
  """
  check_floating(x, "instance_norm")
  check_epsilon(epsilon)
  check_axis_name(axis_name)
  channels = canonical_axes(channel_axis, x.ndim, "channel_axis")
  if 0 in channels:
    raise ValueError(
      f"channel_axis={channel_axis} of x with shape {x.shape} is the first"
      " axis, which is the batch. Add a batch axis with x[None]."
    )
  spatial = complement((0, *channels), x.ndim)
  if not spatial:
    raise ValueError(
      f"instance_norm needs at least one spatial axis besides batch and"
      f" channels, got x with shape {x.shape}: each group would hold one"
      " element. Use layer_norm or group_norm for vectors."
    )
  origin = f"channel_axis={channel_axis}"
  check_parameters(x, channels, origin, scale=scale, bias=bias)
  groups = Groups(
    spatial, axis_name=axis_name, axis_index_groups=axis_index_groups
  )
  check_more_than_one(
    groups,
    x,
    "instance_norm",
    element="one element per group",
    advice=_MORE_IN_A_GROUP,
  )
  norm = Norm(groups, channels, scale_offset=scale_offset)
  mask = canonical_mask(mask, x.shape)
  y, _ = apply_norm(x, scale, bias, mask, epsilon, norm)
  return y
