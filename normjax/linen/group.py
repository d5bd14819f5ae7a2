"""Group normalization and instance normalization."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from normjax import functional
from normjax.functional.arguments import Axes, AxisIndexGroups, AxisName
from normjax.linen.constructors import explained
from normjax.linen.parameters import (
  bias_parameter,
  boolean,
  feature_shape,
  mapped_axis,
  result_dtype,
  scale_parameter,
  widened,
)


@explained
class GroupNorm(nn.Module):
  """Group normalization, https://arxiv.org/abs/1803.08494.

  Owns the parameters of `normjax.group_norm`. Drop-in for
  `flax.linen.GroupNorm`; the fields from `scale_offset` on are additions.

  Attributes:
    num_groups: Number of groups of adjacent channels.
    group_size: Channels in a group. Give either this or `num_groups`, and set
      the other to None.
    reduction_axes: Axes that a group averages over, including `channel_axis`.
      None means all but the first, which is the batch.
    channel_axis: The axis of the channels; 1 for channels first.
    epsilon, dtype, param_dtype, use_bias, use_scale, bias_init, scale_init,
      axis_name, axis_index_groups, use_fast_variance,
      force_float32_reductions, scale_offset: As in `LayerNorm`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import GroupNorm
    >>> x = jnp.arange(8.0).reshape(1, 2, 4)  # One image, 2 pixels, 4 channels.
    >>> y, _ = GroupNorm(num_groups=2).init_with_output(jax.random.key(0), x)
    >>> print(y)
    [[[-1.213 -0.728 -1.213 -0.728]
      [ 0.728  1.213  0.728  1.213]]]
  """

  num_groups: int | None = 32
  group_size: int | None = None
  epsilon: float = 1e-6
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  use_bias: bool = True
  use_scale: bool = True
  bias_init: Initializer = nn.initializers.zeros
  scale_init: Initializer = nn.initializers.ones
  reduction_axes: Axes | None = None
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None
  use_fast_variance: bool = True
  force_float32_reductions: bool = True
  scale_offset: float = 0.0
  channel_axis: int = -1

  @nn.compact
  def __call__(
    self, x: ArrayLike, *, mask: ArrayLike | None = None
  ) -> jax.Array:
    """Normalizes `x`.

    Args:
      x: Array `[batch, ..., channels]`, or with the channels elsewhere.
      mask: Broadcasts to `x`; True counts. Masked places come out as `bias`.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.
    """
    x = jnp.asarray(x)
    shape = feature_shape(x, self.channel_axis, "channel_axis")
    scale = scale_parameter(self, shape)
    bias = bias_parameter(self, shape)
    dtype = result_dtype(x, scale, bias, self.dtype)
    y = functional.group_norm(
      widened(x, dtype),
      scale,
      bias,
      num_groups=self.num_groups,
      group_size=self.group_size,
      channel_axis=self.channel_axis,
      reduction_axes=self.reduction_axes,
      epsilon=self.epsilon,
      mask=boolean(mask),
      axis_name=mapped_axis(self),
      axis_index_groups=self.axis_index_groups,
      scale_offset=self.scale_offset,
    )
    return y.astype(dtype)


@explained
class InstanceNorm(nn.Module):
  """Instance normalization, https://arxiv.org/abs/1607.08022.

  Owns the parameters of `normjax.instance_norm`. Drop-in for
  `flax.linen.InstanceNorm`; the field `scale_offset` is an addition.

  Attributes:
    feature_axes: The channels' axis, or axes; 1 for channels first.
    epsilon, dtype, param_dtype, use_bias, use_scale, bias_init, scale_init,
      axis_name, axis_index_groups, use_fast_variance,
      force_float32_reductions, scale_offset: As in `LayerNorm`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import InstanceNorm
    >>> x = jnp.array([[[1.0, 30.0], [2.0, 20.0], [3.0, 10.0]]])
    >>> y, _ = InstanceNorm().init_with_output(jax.random.key(0), x)
    >>> print(y)
    [[[-1.225  1.225]
      [ 0.     0.   ]
      [ 1.225 -1.225]]]
  """

  epsilon: float = 1e-6
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  use_bias: bool = True
  use_scale: bool = True
  bias_init: Initializer = nn.initializers.zeros
  scale_init: Initializer = nn.initializers.ones
  feature_axes: Axes = -1
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None
  use_fast_variance: bool = True
  force_float32_reductions: bool = True
  scale_offset: float = 0.0

  @nn.compact
  def __call__(
    self, x: ArrayLike, *, mask: ArrayLike | None = None
  ) -> jax.Array:
    """Normalizes `x`.

    Args:
      x: Array `[batch, ..., channels]` with at least one spatial axis, or with
        the channels elsewhere.
      mask: Broadcasts to `x`; True counts. Masked places come out as `bias`.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.
    """
    x = jnp.asarray(x)
    shape = feature_shape(x, self.feature_axes, "feature_axes")
    scale = scale_parameter(self, shape)
    bias = bias_parameter(self, shape)
    dtype = result_dtype(x, scale, bias, self.dtype)
    y = functional.instance_norm(
      widened(x, dtype),
      scale,
      bias,
      channel_axis=self.feature_axes,
      epsilon=self.epsilon,
      mask=boolean(mask),
      axis_name=mapped_axis(self),
      axis_index_groups=self.axis_index_groups,
      scale_offset=self.scale_offset,
    )
    return y.astype(dtype)
