"""`(x - mean) / sqrt(var + epsilon) * scale + bias`: what every norm is.

`normalize` is all that layer, batch, group and instance norm call. The formulas
are in `formulas`, and `primitives` puts kernels in their place.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from normjax.functional import formulas, primitives
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
from normjax.functional.axes import fold
from normjax.functional.formulas import Norm
from normjax.functional.groups import Groups
from normjax.functional.moments import GroupMoments


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
    ddof=ddof,
    epsilon_outside_sqrt=epsilon_outside_sqrt,
  )
  y, _ = normalize(x, None, None, canonical_mask(mask, x.shape), epsilon, norm)
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


def normalize(
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  mask: jax.Array | None,
  epsilon: float | jax.Array,
  norm: Norm,
) -> tuple[jax.Array, GroupMoments]:
  """Returns normalized `x`, in its dtype, and the moments of its groups.

  Takes checked arguments: `mask` has the rank of `x`, `scale` and `bias` the
  sizes of `norm.features`. What `norm` says of epsilon does not count.
  """
  traced, norm = with_epsilon(epsilon, norm)
  groups, features = norm.groups, norm.features
  view = fold(x, mask, groups, features)
  if view is None:
    return _normalize(x, scale, bias, mask, traced, norm)
  y, stats = _normalize(
    view.array(x),
    view.parameter(scale, features),
    view.parameter(bias, features),
    None if mask is None else view.array(mask),
    traced,
    norm._replace(groups=view.groups(groups), features=view.axes(features)),
  )
  stats = GroupMoments(*(view.unfold(field, groups.axes) for field in stats))
  return view.unfold(y), stats


def with_epsilon(
  epsilon: float | jax.Array, norm: Norm
) -> tuple[jax.Array | None, Norm]:
  """Returns epsilon where it is traced, and the norm that knows it if not."""
  if isinstance(epsilon, jax.Array):
    return epsilon, norm._replace(epsilon=None)
  return None, norm._replace(epsilon=epsilon)


@functools.partial(jax.custom_jvp, nondiff_argnums=(5,))
def _normalize(
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  mask: jax.Array | None,
  epsilon: jax.Array | None,
  norm: Norm,
) -> tuple[jax.Array, GroupMoments]:
  if primitives.serve(x, mask, norm):
    return primitives.normalize(x, scale, bias, norm)
  return formulas.normalize(x, scale, bias, mask, epsilon, norm)


@functools.partial(_normalize.defjvp, symbolic_zeros=True)
def _normalize_jvp(
  norm: Norm, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[jax.Array, GroupMoments], tuple[jax.Array, GroupMoments]]:
  """The derivative of every norm, for both modes.

  `jax.checkpoint` keeps x - mean, which is as large as x, out of what is stored
  for the backward pass: x is alive anyway, and the moments are small.
  """
  x, scale, bias, mask, epsilon = primals
  y, stats = _normalize(x, scale, bias, mask, epsilon, norm)
  dx, d_scale, d_bias, _, d_epsilon = (
    None if isinstance(tangent, SymbolicZero) else tangent
    for tangent in tangents
  )
  if dx is None:
    dx = jnp.zeros_like(x)
  if primitives.serve(x, mask, norm):
    return (y, stats), primitives.pushforward(
      x, scale, stats, dx, d_scale, d_bias, norm
    )
  push = jax.checkpoint(functools.partial(formulas.pushforward, norm=norm))
  return (y, stats), push(
    x, scale, mask, epsilon, stats, dx, d_scale, d_bias, d_epsilon
  )
