"""`(x - mean) / sqrt(var + epsilon)`, used by every norm."""

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
from normjax.functional.moments import (
  Moments,
  centered_moments,
  deviations,
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
  y, _ = standardized(
    x.astype(statistics_dtype(x.dtype)),
    canonical_mask(mask, x.shape),
    canonical_axes(axes, x.ndim, "axes"),
    epsilon=epsilon,
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
    ddof=ddof,
    epsilon_outside_sqrt=epsilon_outside_sqrt,
  )
  return y.astype(x.dtype)


def standardized(
  x: jax.Array,
  mask: jax.Array | None,
  axes: tuple[int, ...],
  *,
  epsilon: float,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  ddof: int = 0,
  epsilon_outside_sqrt: bool = False,
) -> tuple[jax.Array, Moments]:
  """Returns standardized `x` and its moments, for checked arguments.

  The derivative is that of `centered_moments` and of the lines below.
  """
  of = centered_moments(x, mask, axes, axis_name, axis_index_groups)
  _check_enough(x, axes, ddof, axis_name)
  y = deviations(x, mask, of) * reciprocal_deviation(
    of.variance(ddof), epsilon, epsilon_outside_sqrt
  )
  return y, of


def _check_enough(
  x: jax.Array, axes: tuple[int, ...], ddof: int, axis_name: AxisName | None
) -> None:
  size = 1
  for axis in axes:
    size *= x.shape[axis]
  if ddof and axis_name is None and size <= ddof:
    raise ValueError(
      f"ddof={ddof} needs more than {ddof} elements in a group; axes {axes} of"
      f" x with shape {x.shape} have {size}. Reduce over more axes or use"
      " ddof=0."
    )


def reciprocal_deviation(
  var: jax.Array, epsilon: float, epsilon_outside_sqrt: bool = False
) -> jax.Array:
  """Returns `1 / sqrt(var + epsilon)`, or `1 / (sqrt(var) + epsilon)`.

  A quotient rather than `rsqrt`, whose derivative holds (var + epsilon)^-1.5
  and overflows float32 for an epsilon below 1e-25.
  """
  if not epsilon_outside_sqrt:
    return 1 / jnp.sqrt(var + epsilon)
  # The derivative of sqrt at zero is infinite: keep zeros away from it.
  positive = var > 0
  root = jnp.sqrt(jnp.where(positive, var, jnp.ones_like(var)))
  return 1 / (jnp.where(positive, root, jnp.zeros_like(var)) + epsilon)


def scale_and_shift(
  y: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  feature_axes: tuple[int, ...],
  scale_offset: float = 0.0,
) -> jax.Array:
  """Returns `y * (scale_offset + scale) + bias`, in the dtype of `y`.

  The offset is added in that dtype, float32 or wider: in bfloat16, 1 + 0.0035
  is 1.
  """
  shape = tuple(
    size if axis in feature_axes else 1 for axis, size in enumerate(y.shape)
  )
  if scale is not None:
    gain = scale.astype(y.dtype)
    if scale_offset:
      gain = gain + scale_offset
    y = y * gain.reshape(shape)
  if bias is not None:
    y = y + bias.astype(y.dtype).reshape(shape)
  return y
