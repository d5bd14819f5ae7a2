"""Layer normalization and root-mean-square normalization."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax.nn import initializers

from normjax import functional
from normjax.descriptions.norm import Norm, description
from normjax.functional.arguments import Axes, AxisIndexGroups, AxisName


@description
class LayerNorm(Norm):
  """Layer normalization, https://arxiv.org/abs/1607.06450.

  The function is `normjax.layer_norm`.

  Attributes:
    epsilon: Added to the variance, inside the square root.
    dtype: The dtype of the result. None means the dtype that `x` and the
      parameters promote to.
    param_dtype: The dtype of the parameters.
    use_bias: Whether there is a `bias`.
    use_scale: Whether there is a `scale`.
    bias_init: Initializer of `bias`.
    scale_init: Initializer of `scale`.
    reduction_axes: Axes that the mean and the variance average over.
    feature_axes: Axes that `scale` and `bias` vary along.
    axis_name: Name or names of mapped axes (`jax.vmap`, `jax.shard_map`) that
      are averaged over too. Ignored while initializing. Under `jax.jit` alone
      it is not needed, because statistics of sharded arrays are global there.
    axis_index_groups: Indices along `axis_name` that belong together; see
      `jax.lax.psum`.
    use_fast_variance: Accepted for compatibility with Flax, without effect:
      there is only the exact algorithm.
    force_float32_reductions: Likewise. Statistics are always float32 or wider.
    scale_offset: The gain is `scale_offset + scale`. The default `scale_init`
      starts the gain at one: with `scale_offset=1`, `scale` starts at zero.
    ddof: The variance divides by `count - ddof`.
    epsilon_outside_sqrt: Divides by `sqrt(var) + epsilon` instead. Together
      with `ddof=1` this is the layer norm of The Annotated Transformer.
  """

  epsilon: float = 1e-6
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  use_bias: bool = True
  use_scale: bool = True
  bias_init: Initializer = initializers.zeros
  scale_init: Initializer = initializers.ones
  reduction_axes: Axes = -1
  feature_axes: Axes = -1
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None
  use_fast_variance: bool = True
  force_float32_reductions: bool = True
  scale_offset: float = 0.0
  ddof: int = 0
  epsilon_outside_sqrt: bool = False

  def normalize(
    self,
    x: jax.Array,
    parameters: Mapping[str, jax.Array],
    *,
    mask: jax.Array | None,
    axis_name: AxisName | None,
  ) -> jax.Array:
    """Returns what `normjax.layer_norm` does."""
    return functional.layer_norm(
      x,
      **parameters,
      reduction_axes=self.reduction_axes,
      feature_axes=self.feature_axes,
      epsilon=self.epsilon,
      mask=mask,
      axis_name=axis_name,
      axis_index_groups=self.axis_index_groups,
      scale_offset=self.scale_offset,
      ddof=self.ddof,
      epsilon_outside_sqrt=self.epsilon_outside_sqrt,
    )


@description
class RMSNorm(Norm):
  """Root-mean-square normalization, https://arxiv.org/abs/1910.07467.

  The function is `normjax.rms_norm`.

  Attributes:
    epsilon: Added to the mean square, inside the square root.
    reduction_axes: Axes that the squares are averaged over.
    feature_axes: Axes that `scale` varies along.
    dtype, param_dtype, use_scale, scale_init, axis_name, axis_index_groups,
      use_fast_variance, force_float32_reductions, scale_offset: As in
      `LayerNorm`.
  """

  epsilon: float = 1e-6
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  use_bias = False
  use_scale: bool = True
  scale_init: Initializer = initializers.ones
  reduction_axes: Axes = -1
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
    """Returns what `normjax.rms_norm` does."""
    return functional.rms_norm(
      x,
      **parameters,
      reduction_axes=self.reduction_axes,
      feature_axes=self.feature_axes,
      epsilon=self.epsilon,
      mask=mask,
      axis_name=axis_name,
      axis_index_groups=self.axis_index_groups,
      scale_offset=self.scale_offset,
    )
