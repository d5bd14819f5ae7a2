"""Layer normalization and root-mean-square normalization."""

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
  jit,
)
from normjax.functional.dispatch import apply_norm
from normjax.functional.formulas import Norm
from normjax.functional.groups import Groups, check_ddof


@jit(
  "reduction_axes", "feature_axes", "epsilon", "axis_name",
  "axis_index_groups", "scale_offset", "ddof", "epsilon_outside_sqrt",
)  # fmt: skip
def layer_norm(
  x: jax.Array,
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  *,
  reduction_axes: Axes = -1,
  feature_axes: Axes = -1,
  epsilon: float | jax.Array = 1e-6,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  scale_offset: float = 0.0,
  ddof: int = 0,
  epsilon_outside_sqrt: bool = False,
) -> jax.Array:
  """Returns `(x - mean) / sqrt(var + epsilon) * scale + bias`.

  Args:
    x: Real or complex floating array `[..., features]`, or of any shape if the
      axes are named.
    scale: Gain, shaped like the feature axes of `x` in ascending order; None
      means one.
    bias: Shift, shaped like `scale`; None means zero.
    reduction_axes: Axes that the mean and the variance average over.
    feature_axes: Axes that `scale` and `bias` vary along. With
      `reduction_axes=(1, 2, 3)`, -1 gives one gain per channel, as in Flax,
      and (1, 2, 3) one per element, as in PyTorch and ONNX.
    epsilon: Added to the variance, inside the square root. A number or a scalar
      array, which may be traced.
    mask: Boolean, broadcasts to `x`; True counts. Masked places may hold NaN,
      influence nothing and come out as `bias`.
    axis_name: Name or names of mapped axes that are averaged over too.
    axis_index_groups: Indices along `axis_name` that belong together; see
      `jax.lax.psum`.
    scale_offset: The gain is `scale_offset + scale`; with 1 a `scale` of zero
      does nothing, as in Gemma.
    ddof: The variance divides by `count - ddof`.
    epsilon_outside_sqrt: Divides by `sqrt(var) + epsilon`. Together with
      `ddof=1` this is the layer norm of The Annotated Transformer.

  Returns:
    Array with the shape and dtype of `x`. Half precision is computed in
    float32 and rounded once, at the end. A constant group comes out as `bias`.

  Raises:
    TypeError: `x`, `scale` or `bias` is not floating, `mask` is not boolean, or
      an axis is not an integer.
    ValueError: `scale` or `bias` has the wrong shape, an axis is out of range
      or repeated, `epsilon` is not a positive float, a group has no more than
      `ddof` elements, or `mask` does not broadcast to `x`.
    NameError: `axis_name` is not bound.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> x = jnp.array([[1.0, 2.0, 3.0, 4.0]])
    >>> y = normjax.layer_norm(x, scale=jnp.full(4, 2.0), bias=jnp.ones(4))
    >>> print(y)
    [[-1.683  0.106  1.894  3.683]]

  Reference: Ba, Kiros & Hinton, 2016, https://arxiv.org/abs/1607.06450,
    equation 3.
  """
  check_floating(x, "layer_norm")
  check_epsilon(epsilon)
  check_axis_name(axis_name)
  axes = canonical_axes(reduction_axes, x.ndim, "reduction_axes")
  features = canonical_axes(feature_axes, x.ndim, "feature_axes")
  origin = f"feature_axes={feature_axes}"
  check_parameters(x, features, origin, scale=scale, bias=bias)
  groups = Groups(
    axes, axis_name=axis_name, axis_index_groups=axis_index_groups
  )
  check_ddof(ddof, groups, x.shape)
  norm = Norm(
    groups,
    features,
    ddof=ddof,
    epsilon_outside_sqrt=epsilon_outside_sqrt,
    scale_offset=scale_offset,
  )
  mask = canonical_mask(mask, x.shape)
  y, _ = apply_norm(x, scale, bias, mask, epsilon, norm)
  return y


@jit(
  "reduction_axes", "feature_axes", "epsilon", "axis_name",
  "axis_index_groups", "scale_offset",
)  # fmt: skip
def rms_norm(
  x: jax.Array,
  scale: jax.Array | None = None,
  *,
  reduction_axes: Axes = -1,
  feature_axes: Axes = -1,
  epsilon: float | jax.Array = 1e-6,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  scale_offset: float = 0.0,
) -> jax.Array:
  """Returns `x / sqrt(mean(x^2) + epsilon) * scale`.

  Args:
    x: Real or complex floating array `[..., features]`, or of any shape if the
      axes are named.
    scale: Gain, shaped like the feature axes of `x` in ascending order; None
      means one.
    reduction_axes: Axes that the squares are averaged over.
    feature_axes: Axes that `scale` varies along.
    epsilon: Added to the mean square, inside the square root. A number or a
      scalar array, which may be traced. PyTorch's `eps=None` is 1.1920929e-7 in
      float32.
    mask: Boolean, broadcasts to `x`; True counts. Masked places may hold NaN,
      influence nothing and come out as zero.
    axis_name: Name or names of mapped axes that are averaged over too.
    axis_index_groups: Indices along `axis_name` that belong together; see
      `jax.lax.psum`.
    scale_offset: The gain is `scale_offset + scale`.

  Returns:
    Array with the shape and dtype of `x`. Half precision is computed in
    float32 and rounded once, at the end.

  Raises:
    TypeError, ValueError, NameError: as `layer_norm`.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> print(normjax.rms_norm(jnp.array([3.0, 4.0, 0.0, 0.0])))
    [1.2 1.6 0.  0. ]

  Reference: Zhang & Sennrich, 2019, https://arxiv.org/abs/1910.07467,
    equation 4.
  """
  check_floating(x, "rms_norm")
  check_epsilon(epsilon)
  check_axis_name(axis_name)
  axes = canonical_axes(reduction_axes, x.ndim, "reduction_axes")
  features = canonical_axes(feature_axes, x.ndim, "feature_axes")
  check_parameters(x, features, f"feature_axes={feature_axes}", scale=scale)
  norm = Norm(
    Groups(axes, axis_name=axis_name, axis_index_groups=axis_index_groups),
    features,
    centered=False,
    scale_offset=scale_offset,
  )
  mask = canonical_mask(mask, x.shape)
  y, _ = apply_norm(x, scale, None, mask, epsilon, norm)
  return y
