"""The formula of every norm and its derivative, in plain JAX.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias

Norms differ in which elements share a mean (`Groups`), and in the axes that
`scale` and `bias` vary along (`Norm.features`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from normjax.functional.arguments import statistics_dtype
from normjax.functional.axes import Fold
from normjax.functional.groups import Groups
from normjax.functional.moments import (
  GroupMoments,
  deviations,
  first,
  group_moments,
  masked,
  moments_tangent,
  shrinking,
  squared_magnitude,
)


class Norm(NamedTuple):
  """The options of a norm that are known while tracing.

  Attributes:
    groups: Which elements share a mean and a variance.
    features: Axes that scale and bias vary along, sorted.
    epsilon: Added to the variance, inside the square root. None if it is
      traced; then it is passed separately.
    centered: Whether the mean is subtracted. Not in root-mean-square norm.
    ddof: The variance divides by `count - ddof`.
    epsilon_outside_sqrt: Divides by `sqrt(var) + epsilon` instead.
    scale_offset: The gain is `scale_offset + scale`.
  """

  groups: Groups
  features: tuple[int, ...] = ()
  epsilon: float | None = 1e-6
  centered: bool = True
  ddof: int = 0
  epsilon_outside_sqrt: bool = False
  scale_offset: float = 0.0

  def of_view(self, view: Fold) -> "Norm":
    """Returns this norm for a view of the array."""
    return self._replace(
      groups=view.groups(self.groups), features=view.axes(self.features)
    )


def normalize(
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  mask: jax.Array | None,
  epsilon: jax.Array | None,
  norm: Norm,
) -> tuple[jax.Array, GroupMoments]:
  """Returns normalized `x`, in its dtype, and the moments of its groups."""
  wide = x.astype(statistics_dtype(x.dtype))
  stats = group_moments(wide, mask, norm.groups, norm.centered)
  y = normalize_by(stats, wide, scale, bias, mask, epsilon, norm)
  return y.astype(x.dtype), stats


def normalize_rows(
  x: jax.Array, scale: jax.Array | None, bias: jax.Array | None, norm: Norm
) -> tuple[jax.Array, GroupMoments]:
  """As `normalize`, for groups that are rows, without a mask, on GPUs.

  XLA compiles a chain of steps `c - mean(c)` to one GPU kernel, which keeps a
  row in registers. So y is computed without the moments, in one pass over the
  memory instead of three. The first center is that of the moments, with an
  anchor, so that constant rows become zero; the second step subtracts its
  rounding error. If the moments are not used, XLA does not compute them.
  """
  wide = x.astype(statistics_dtype(x.dtype))
  count = norm.groups.size(x.shape)

  def total(values: jax.Array) -> jax.Array:
    return jnp.sum(values, norm.groups.axes, keepdims=True)

  shrink = shrinking(count)  # As for the moments: no sum overflows.
  small = wide * shrink
  anchor = first(small, norm.groups.axes)
  c = small - (anchor + total(small - anchor) / count)
  c = c - total(c) / count
  m2 = total(squared_magnitude(c / shrink))
  stats = group_moments(wide, None, norm.groups)
  factor = _reciprocal_deviation(stats._replace(m2=m2), None, norm) / shrink
  y = _affine(c, factor, scale, bias, norm)
  return y.astype(x.dtype), stats


def normalize_by(
  stats: GroupMoments,
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  mask: jax.Array | None,
  epsilon: jax.Array | None,
  norm: Norm,
) -> jax.Array:
  """Returns `x` normalized by given moments, in the dtype of the statistics.

  Scale is first multiplied by the reciprocal deviation. If the two vary along
  the same axes, one product per element remains.
  """
  factor = _reciprocal_deviation(stats, epsilon, norm).astype(x.dtype)
  return _affine(deviations(x, mask, stats), factor, scale, bias, norm)


def _affine(
  c: jax.Array,
  factor: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  norm: Norm,
) -> jax.Array:
  """Returns `c * (gain * factor) + bias`."""
  gain = _gain(scale, c, norm)
  y = c * (factor if gain is None else gain * factor)
  return y if bias is None else y + _per_feature(bias, c, norm)


def pushforward(
  x: jax.Array,
  scale: jax.Array | None,
  mask: jax.Array | None,
  epsilon: jax.Array | None,
  stats: GroupMoments,
  dx: jax.Array,
  d_scale: jax.Array | None,
  d_bias: jax.Array | None,
  d_epsilon: jax.Array | None,
  norm: Norm,
) -> tuple[jax.Array, GroupMoments]:
  """Returns the tangents of y and of the moments (forward mode).

  With c = x - mean, f = 1 / sqrt(var + epsilon) and y = gain f c + bias:

    dy = (gain f) dx + (d_bias - gain f d mean) + c gain df + (c f) d_scale

  d mean and df come from two sums over `dx` (`moments_tangent`).

  Reverse mode is the transpose, which JAX derives. With dy the cotangent of y,
  and h = c f:

    dx      = f (gain dy - mean(gain dy) - h mean(gain dy h))
    d_scale = sum(dy h)
    d_bias  = sum(dy)

  The means are over a group, the sums over all that share a parameter. The
  first mean is absent if `norm` is not centered; `ddof` and
  `epsilon_outside_sqrt` change the factor of the second. Source: the Jacobian
  of h, f (I - 1 1'/n - h h'/n), is symmetric, so its transpose is the formula
  of forward mode (docs/numerics.md, Derivatives).

  Args:
    x, scale, mask, epsilon, norm: As in `normalize`.
    stats: The moments of `x`.
    dx, d_scale, d_bias, d_epsilon: Tangents; None for zero.
  """
  dtype = statistics_dtype(x.dtype)
  wide, dx = x.astype(dtype), masked(dx.astype(dtype), mask)
  d_stats = moments_tangent(wide, mask, stats, dx, norm.groups, norm.centered)
  if epsilon is not None and d_epsilon is None:
    d_epsilon = jnp.zeros_like(epsilon)
  factor, d_factor = jax.jvp(
    lambda m2, epsilon: _reciprocal_deviation(
      stats._replace(m2=m2), epsilon, norm
    ),
    (stats.m2, epsilon),
    (d_stats.m2, d_epsilon),
  )
  factor, d_factor = factor.astype(dtype), d_factor.astype(dtype)
  gain = _gain(scale, wide, norm)
  gain_factor = factor if gain is None else gain * factor
  slope = d_factor if gain is None else gain * d_factor
  c = deviations(wide, mask, stats)
  dy = gain_factor * dx + c * slope
  if d_scale is not None:
    # c f comes first. In reverse mode this is multiplied by dy, and c dy may
    # overflow where f is zero.
    dy = dy + (c * factor) * _per_feature(d_scale, wide, norm)
  # The two terms are added up first, so that the transpose has one sum.
  shift = jnp.zeros_like(factor, dtype)
  if norm.centered:
    shift = masked(-gain_factor * d_stats.mean, mask)
  if d_bias is not None:
    shift = shift + _per_feature(d_bias, wide, norm)
  return (dy + shift).astype(x.dtype), d_stats


def _reciprocal_deviation(
  stats: GroupMoments, epsilon: jax.Array | None, norm: Norm
) -> jax.Array:
  """Returns `1 / sqrt(var + epsilon)`, or `1 / (sqrt(var) + epsilon)`.

  It is a quotient because the derivative of `rsqrt` contains
  (var + epsilon)^-1.5, which overflows float32 for an epsilon below 1e-25.
  """
  var = stats.variance(norm.ddof)
  added = jnp.asarray(norm.epsilon if epsilon is None else epsilon, var.dtype)
  if not norm.epsilon_outside_sqrt:
    return 1 / jnp.sqrt(var + added)
  # The derivative of sqrt at zero is infinite, so sqrt must not see zeros.
  positive = var > 0
  root = jnp.sqrt(jnp.where(positive, var, jnp.ones_like(var)))
  return 1 / (jnp.where(positive, root, jnp.zeros_like(var)) + added)


def _gain(
  scale: jax.Array | None, x: jax.Array, norm: Norm
) -> jax.Array | None:
  """Returns `scale_offset + scale` in a shape that broadcasts to `x`.

  The sum is in the dtype of the statistics: in bfloat16, 1 + 0.0035 is 1.
  """
  if scale is None:
    return None
  gain = _per_feature(scale, x, norm)
  return gain + norm.scale_offset if norm.scale_offset else gain


def _per_feature(value: jax.Array, x: jax.Array, norm: Norm) -> jax.Array:
  """Returns a parameter in the dtype of `x`, shaped to broadcast to `x`."""
  shape = tuple(
    size if axis in norm.features else 1 for axis, size in enumerate(x.shape)
  )
  return value.astype(x.dtype).reshape(shape)
