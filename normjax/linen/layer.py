"""Layer normalization and root-mean-square normalization."""

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
class LayerNorm(nn.Module):
  """Layer normalization, https://arxiv.org/abs/1607.06450.

  Owns the parameters of `normjax.layer_norm`. Drop-in for
  `flax.linen.LayerNorm`; the fields from `scale_offset` on are additions.

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

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import LayerNorm
    >>> x = jnp.array([[1.0, 2.0, 3.0, 4.0]]) + 1e4
    >>> variables = LayerNorm().init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, variables)
    {'params': {'bias': (4,), 'scale': (4,)}}
    >>> print(LayerNorm().apply(variables, x))
    [[-1.342 -0.447  0.447  1.342]]
  """

  epsilon: float = 1e-6
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  use_bias: bool = True
  use_scale: bool = True
  bias_init: Initializer = nn.initializers.zeros
  scale_init: Initializer = nn.initializers.ones
  reduction_axes: Axes = -1
  feature_axes: Axes = -1
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None
  use_fast_variance: bool = True
  force_float32_reductions: bool = True
  scale_offset: float = 0.0
  ddof: int = 0
  epsilon_outside_sqrt: bool = False

  @nn.compact
  def __call__(
    self, x: ArrayLike, *, mask: ArrayLike | None = None
  ) -> jax.Array:
    """Normalizes `x`.

    Args:
      x: Array `[..., features]`, or of any shape if the axes are named.
      mask: Broadcasts to `x`; True counts. Masked places come out as `bias`.
        Flax normalizes them by the statistics of the others.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.
    """
    x = jnp.asarray(x)
    shape = feature_shape(x, self.feature_axes, "feature_axes")
    scale = scale_parameter(self, shape)
    bias = bias_parameter(self, shape)
    dtype = result_dtype(x, scale, bias, self.dtype)
    y = functional.layer_norm(
      widened(x, dtype),
      scale,
      bias,
      reduction_axes=self.reduction_axes,
      feature_axes=self.feature_axes,
      epsilon=self.epsilon,
      mask=boolean(mask),
      axis_name=mapped_axis(self),
      axis_index_groups=self.axis_index_groups,
      scale_offset=self.scale_offset,
      ddof=self.ddof,
      epsilon_outside_sqrt=self.epsilon_outside_sqrt,
    )
    return y.astype(dtype)


@explained
class RMSNorm(nn.Module):
  """Root-mean-square normalization, https://arxiv.org/abs/1910.07467.

  Owns the parameter of `normjax.rms_norm`. Drop-in for `flax.linen.RMSNorm`;
  the field `scale_offset` is an addition.

  Attributes:
    epsilon: Added to the mean square, inside the square root.
    reduction_axes: Axes that the squares are averaged over.
    feature_axes: Axes that `scale` varies along.
    dtype, param_dtype, use_scale, scale_init, axis_name, axis_index_groups,
      use_fast_variance, force_float32_reductions, scale_offset: As in
      `LayerNorm`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import RMSNorm
    >>> norm = RMSNorm(scale_offset=1.0)  # The gain is 1 + scale, as in Gemma.
    >>> y, variables = norm.init_with_output(
    ...   jax.random.key(0), jnp.array([3.0, 4.0, 0.0, 0.0]))
    >>> print(y, variables["params"]["scale"])
    [1.2 1.6 0.  0. ] [0. 0. 0. 0.]
  """

  epsilon: float = 1e-6
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  use_scale: bool = True
  scale_init: Initializer = nn.initializers.ones
  reduction_axes: Axes = -1
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
      x: Array `[..., features]`, or of any shape if the axes are named.
      mask: Broadcasts to `x`; True counts. Masked places come out as zero.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.
    """
    x = jnp.asarray(x)
    shape = feature_shape(x, self.feature_axes, "feature_axes")
    scale = scale_parameter(self, shape)
    dtype = result_dtype(x, scale, None, self.dtype)
    y = functional.rms_norm(
      widened(x, dtype),
      scale,
      reduction_axes=self.reduction_axes,
      feature_axes=self.feature_axes,
      epsilon=self.epsilon,
      mask=boolean(mask),
      axis_name=mapped_axis(self),
      axis_index_groups=self.axis_index_groups,
      scale_offset=self.scale_offset,
    )
    return y.astype(dtype)
