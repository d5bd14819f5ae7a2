"""Group normalization and instance normalization."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax.nn import initializers

from normjax import functional
from normjax.descriptions.norm import Norm, Parameter, Shape, description
from normjax.functional.arguments import Axes, AxisIndexGroups, AxisName
from normjax.functional.groups import count_groups


@description
class GroupNorm(Norm):
  """Group normalization, https://arxiv.org/abs/1803.08494.

  The function is `normjax.group_norm`.

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
  """

  features = "channel_axis"
  num_groups: int | None = 32
  group_size: int | None = None
  epsilon: float = 1e-6
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  use_bias: bool = True
  use_scale: bool = True
  bias_init: Initializer = initializers.zeros
  scale_init: Initializer = initializers.ones
  reduction_axes: Axes | None = None
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None
  use_fast_variance: bool = True
  force_float32_reductions: bool = True
  scale_offset: float = 0.0
  channel_axis: int = -1

  def parameters(self, features: Shape) -> dict[str, Parameter]:
    """Returns gain and bias, if the groups divide the channels."""
    count_groups(math.prod(features), self.num_groups, self.group_size)
    return super().parameters(features)

  def normalize(
    self,
    x: jax.Array,
    parameters: Mapping[str, jax.Array],
    *,
    mask: jax.Array | None,
    axis_name: AxisName | None,
  ) -> jax.Array:
    """Returns what `normjax.group_norm` does."""
    return functional.group_norm(
      x,
      **parameters,
      num_groups=self.num_groups,
      group_size=self.group_size,
      channel_axis=self.channel_axis,
      reduction_axes=self.reduction_axes,
      epsilon=self.epsilon,
      mask=mask,
      axis_name=axis_name,
      axis_index_groups=self.axis_index_groups,
      scale_offset=self.scale_offset,
    )


@description
class InstanceNorm(Norm):
  """Instance normalization, https://arxiv.org/abs/1607.08022.

  The function is `normjax.instance_norm`.

  Attributes:
    feature_axes: The channels' axis, or axes; 1 for channels first.
    epsilon, dtype, param_dtype, use_bias, use_scale, bias_init, scale_init,
      axis_name, axis_index_groups, use_fast_variance,
      force_float32_reductions, scale_offset: As in `LayerNorm`.
  """

  epsilon: float = 1e-6
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  use_bias: bool = True
  use_scale: bool = True
  bias_init: Initializer = initializers.zeros
  scale_init: Initializer = initializers.ones
  feature_axes: Axes = -1
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None
  use_fast_variance: bool = True
  force_float32_reductions: bool = True
  scale_offset: float = 0.0

  def normalize(
    self,
    x: jax.Array,
    parameters: Mapping[str, jax.Array],
    *,
    mask: jax.Array | None,
    axis_name: AxisName | None,
  ) -> jax.Array:
    """Returns what `normjax.instance_norm` does."""
    return functional.instance_norm(
      x,
      **parameters,
      channel_axis=self.feature_axes,
      epsilon=self.epsilon,
      mask=mask,
      axis_name=axis_name,
      axis_index_groups=self.axis_index_groups,
      scale_offset=self.scale_offset,
    )
