"""Standardization over any axes, the building block of new norms."""

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
  jit,
)
from normjax.functional.dispatch import apply_norm
from normjax.functional.formulas import Norm
from normjax.functional.groups import Groups, check_ddof


@jit(
  "axes", "epsilon", "axis_name", "axis_index_groups", "ddof",
  "epsilon_outside_sqrt",
)  # fmt: skip
def standardize(
  x: jax.Array,
  axes: Axes,
  *,
  epsilon: float | jax.Array = 1e-6,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  ddof: int = 0,
  epsilon_outside_sqrt: bool = False,
) -> jax.Array:
  """Returns `(x - mean) / sqrt(var + epsilon)`, statistics over `axes`.

  Use it to build a new norm: choose the axes, then scale and shift.

  Args:
    x: Real or complex floating array of any shape.
    axes: Axes that the mean and the variance average over.
    epsilon: Added to the variance, inside the square root. A number or a scalar
      array, which may be traced.
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
    TypeError: `x` is an integer array, `mask` is not boolean, or an axis is not
      an integer.
    ValueError: `epsilon` is not a positive float, an axis is out of range or
      repeated, groups have no more than `ddof` elements, or `mask` does not
      broadcast.
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
  groups = Groups(
    axes, axis_name=axis_name, axis_index_groups=axis_index_groups
  )
  check_ddof(ddof, groups, x.shape)
  norm = Norm(groups, ddof=ddof, epsilon_outside_sqrt=epsilon_outside_sqrt)
  mask = canonical_mask(mask, x.shape)
  y, _ = apply_norm(x, None, None, mask, epsilon, norm)
  return y
