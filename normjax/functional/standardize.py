"""`(x - mean) / sqrt(var + epsilon) * scale + bias`: what every norm is.

Norms differ in which elements share a mean (`Groups`) and along which axes
`scale` and `bias` vary. The derivative and its schedule are here, once.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
  jit,
  statistics_dtype,
)
from normjax.functional.groups import Groups
from normjax.functional.moments import (
  Moments,
  deviations,
  group_moments,
  masked,
  moments_tangent,
  settled,
)


@jit(
  "axes", "epsilon", "axis_name", "axis_index_groups", "ddof",
  "epsilon_outside_sqrt",
)  # fmt: skip
def standardize(
  x: jax.Array,
  axes: Axes,
  *,
  epsilon: float = 1e-6,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  ddof: int = 0,
  epsilon_outside_sqrt: bool = False,
) -> jax.Array:
  """Returns `(x - mean) / sqrt(var + epsilon)`, statistics over `axes`.

  What a new norm is composed from: pick the axes, then scale and shift.

  Args:
    x: Real or complex floating array of any shape.
    axes: Axes that the mean and the variance average over.
    epsilon: Added to the variance, inside the square root.
    mask: Boolean, broadcasts to `x`; True counts. Masked places may hold NaN,
      influence nothing and come out as zero.
    axis_name: Name or names of mapped axes that are averaged over too.
    axis_index_groups: Indices along `axis_name` that belong together; see
      `jax.lax.psum`.
    ddof: The variance divides by `count - ddof`; 1 is the sample variance.
    epsilon_outside_sqrt: Divides by `sqrt(var) + epsilon` instead.

  Returns:
    Array with the shape and dtype of `x`. Half precision is computed in
    float32 and rounded once, at the end. A constant or empty group is zero.

  Raises:
    TypeError: `x` is an integer array or `mask` is not boolean.
    ValueError: `epsilon` is not positive, an axis is out of range or repeated,
      groups have no more than `ddof` elements, or `mask` does not broadcast.
    NameError: `axis_name` is not bound.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> x = jnp.array([[1e4 - 1, 1e4 + 1], [7.0, 7.0]])
    >>> print(normjax.standardize(x, axes=1))
    [[-1.  1.]
     [ 0.  0.]]
  """
  check_floating(x, "standardize")
  check_epsilon(epsilon)
  check_axis_name(axis_name)
  axes = canonical_axes(axes, x.ndim, "axes")
  check_enough(x, axes, ddof, axis_name)
  norm = Norm(
    Groups(axes, axis_name=axis_name, axis_index_groups=axis_index_groups),
    epsilon=epsilon,
    ddof=ddof,
    epsilon_outside_sqrt=epsilon_outside_sqrt,
  )
  y, _ = normalize(x, None, None, canonical_mask(mask, x.shape), norm)
  return y


def check_enough(
  x: jax.Array, axes: tuple[int, ...], ddof: int, axis_name: AxisName | None
) -> None:
  """Raises ValueError where `count - ddof` is known not to be positive."""
  size = math.prod(x.shape[axis] for axis in axes)
  if ddof and axis_name is None and size <= ddof:
    raise ValueError(
      f"ddof={ddof} needs more than {ddof} elements in a group; axes {axes} of"
      f" x with shape {x.shape} have {size}. Reduce over more axes or use"
      " ddof=0."
    )


class Norm(NamedTuple):
  """What kind of norm: everything that is known while tracing.

  Attributes:
    groups: Which elements share a mean and a variance.
    features: Axes that scale and bias vary along, sorted.
    epsilon: Added to the variance, inside the square root.
    centered: Whether the mean is subtracted; root-mean-square norm does not.
    ddof: The variance divides by `count - ddof`.
    epsilon_outside_sqrt: Divides by `sqrt(var) + epsilon` instead.
    scale_offset: The gain is `scale_offset + scale`.
  """

  groups: Groups
  features: tuple[int, ...] = ()
  epsilon: float = 1e-6
  centered: bool = True
  ddof: int = 0
  epsilon_outside_sqrt: bool = False
  scale_offset: float = 0.0


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def normalize(
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  mask: jax.Array | None,
  norm: Norm,
) -> tuple[jax.Array, Moments]:
  """Returns normalized `x`, in its dtype, and the moments of its groups.

  Takes checked arguments: `mask` has the rank of `x`, `scale` and `bias` the
  sizes of `norm.features`.
  """
  wide = x.astype(statistics_dtype(x.dtype))
  of = settled(group_moments(wide, mask, norm.groups, norm.centered))
  return normalize_by(of, wide, scale, bias, mask, norm).astype(x.dtype), of


def normalize_by(
  of: Moments,
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  mask: jax.Array | None,
  norm: Norm,
) -> jax.Array:
  """Returns `x` normalized by given moments, in the dtype of the statistics.

  Scale and deviation are multiplied first: where they vary along the same axes
  this leaves one product per element.
  """
  factor = _reciprocal_deviation(of, norm).astype(x.dtype)
  gain = _gain(scale, x, norm)
  y = deviations(x, mask, of) * (factor if gain is None else gain * factor)
  return y if bias is None else y + _per_feature(bias, x, norm)


@normalize.defjvp
def _normalize_jvp(
  norm: Norm,
  primals: tuple[jax.Array | None, ...],
  tangents: tuple[jax.Array | None, ...],
) -> tuple[tuple[jax.Array, Moments], tuple[jax.Array, Moments]]:
  """The derivative of every norm, for both modes.

  With c = x - mean and f = 1 / sqrt(var + epsilon), y = gain f c + bias, so

    dy = (gain f) dx + (d bias - gain f d mean) + c (gain df + f d gain)

  where d mean and df come from two sums over `dx` (`moments_tangent`). The
  sums are all that reverse mode needs too: transposing the line gives the sums
  of dy and of c dy over whatever the two brackets do not vary along.

  `jax.checkpoint` keeps c, which is as large as x, out of what is stored for
  the backward pass: x is alive anyway, and the moments are small.
  """
  x, scale, bias, mask = primals
  dx, d_scale, d_bias, _ = tangents
  y, of = normalize(x, scale, bias, mask, norm)

  @jax.checkpoint
  def tangent(
    x: jax.Array,
    scale: jax.Array | None,
    mask: jax.Array | None,
    of: Moments,
    dx: jax.Array,
    d_scale: jax.Array | None,
    d_bias: jax.Array | None,
  ) -> tuple[jax.Array, Moments]:
    dtype = statistics_dtype(x.dtype)
    wide, dx = x.astype(dtype), masked(dx.astype(dtype), mask)
    d_of = settled(
      moments_tangent(wide, mask, of, dx, norm.groups, norm.centered)
    )
    factor, d_factor = jax.jvp(
      lambda of: _reciprocal_deviation(of, norm), (of,), (d_of,)
    )
    factor, d_factor = factor.astype(dtype), d_factor.astype(dtype)
    gain = _gain(scale, wide, norm)
    gain_factor = factor if gain is None else gain * factor
    slope = d_factor if gain is None else gain * d_factor
    if d_scale is not None:
      slope = slope + factor * _per_feature(d_scale, wide, norm)
    c = deviations(wide, mask, of)
    dy = gain_factor * dx + c * slope
    if norm.centered:
      dy = dy - masked(gain_factor * d_of.mean, mask)
    if d_bias is not None:
      dy = dy + _per_feature(d_bias, wide, norm)
    return dy.astype(x.dtype), d_of

  return (y, of), tangent(x, scale, mask, of, dx, d_scale, d_bias)


def _reciprocal_deviation(of: Moments, norm: Norm) -> jax.Array:
  """Returns `1 / sqrt(var + epsilon)`, or `1 / (sqrt(var) + epsilon)`.

  A quotient rather than `rsqrt`, whose derivative holds (var + epsilon)^-1.5
  and overflows float32 for an epsilon below 1e-25.
  """
  var = of.variance(norm.ddof)
  if not norm.epsilon_outside_sqrt:
    return 1 / jnp.sqrt(var + norm.epsilon)
  # The derivative of sqrt at zero is infinite: keep zeros away from it.
  positive = var > 0
  root = jnp.sqrt(jnp.where(positive, var, jnp.ones_like(var)))
  return 1 / (jnp.where(positive, root, jnp.zeros_like(var)) + norm.epsilon)


def _gain(
  scale: jax.Array | None, x: jax.Array, norm: Norm
) -> jax.Array | None:
  """Returns `scale_offset + scale`, ready to multiply with `x`.

  Added in the dtype of the statistics: in bfloat16, 1 + 0.0035 is 1.
  """
  if scale is None:
    return None
  gain = _per_feature(scale, x, norm)
  return gain + norm.scale_offset if norm.scale_offset else gain


def _per_feature(value: jax.Array, x: jax.Array, norm: Norm) -> jax.Array:
  """Returns a parameter in the dtype of `x`, in a shape that broadcasts."""
  shape = tuple(
    size if axis in norm.features else 1 for axis, size in enumerate(x.shape)
  )
  return value.astype(x.dtype).reshape(shape)
