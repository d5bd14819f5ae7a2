"""What every norm calls: `(x - mean) / sqrt(var + epsilon) * scale + bias`.

Layer, batch, group and instance norm check their arguments, describe themselves
by a `Norm`, and call `apply_norm`. That uses the primitives where they apply,
else the formulas, and defines the derivative.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from normjax.functional import formulas, primitives
from normjax.functional.axes import fold
from normjax.functional.formulas import Norm
from normjax.functional.moments import GroupMoments


def apply_norm(
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  mask: jax.Array | None,
  epsilon: float | jax.Array,
  norm: Norm,
) -> tuple[jax.Array, GroupMoments]:
  """Returns normalized `x`, in its dtype, and the moments of its groups.

  The arguments must have been checked: `mask` has the rank of `x`; `scale` and
  `bias` have the sizes of `norm.features`. `norm.epsilon` is ignored.
  """
  traced, norm = with_epsilon(epsilon, norm)
  view = fold(x, mask, norm.groups, norm.features)
  y, stats = _apply_differentiable(
    view.array(x),
    view.parameter(scale, norm.features),
    view.parameter(bias, norm.features),
    view.array(mask),
    traced,
    norm.of_view(view),
    False,
  )
  return view.unfold(y), stats.unfold(view, norm.groups.axes)


def with_epsilon(
  epsilon: float | jax.Array, norm: Norm
) -> tuple[jax.Array | None, Norm]:
  """Returns (epsilon, norm) if it is traced, else (None, norm with epsilon)."""
  if isinstance(epsilon, jax.Array):
    return epsilon, norm._replace(epsilon=None)
  return None, norm._replace(epsilon=epsilon)


@functools.partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _apply_differentiable(
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  mask: jax.Array | None,
  epsilon: jax.Array | None,
  norm: Norm,
  differentiated: bool,
) -> tuple[jax.Array, GroupMoments]:
  if primitives.supports(x, mask, norm):
    return primitives.bind_normalize(
      x, scale, bias, norm, differentiated=differentiated
    )
  return formulas.normalize(x, scale, bias, mask, epsilon, norm)


@functools.partial(_apply_differentiable.defjvp, symbolic_zeros=True)
def _derivative(
  norm: Norm,
  differentiated: bool,
  primals: tuple[Any, ...],
  tangents: tuple[Any, ...],
) -> tuple[tuple[jax.Array, GroupMoments], tuple[jax.Array, GroupMoments]]:
  """The derivative of every norm, for forward and reverse mode.

  With `jax.checkpoint`, only x, which is in memory anyway, and the moments,
  which are small, are stored for the backward pass. x - mean is not.
  """
  x, scale, bias, mask, epsilon = primals
  y, stats = _apply_differentiable(x, scale, bias, mask, epsilon, norm, True)
  dx, d_scale, d_bias, _, d_epsilon = (
    None if isinstance(tangent, SymbolicZero) else tangent
    for tangent in tangents
  )
  if dx is None:
    dx = jnp.zeros_like(x)
  if primitives.supports(x, mask, norm):
    return (y, stats), primitives.bind_pushforward(
      x, scale, stats, dx, d_scale, d_bias, norm
    )
  push = jax.checkpoint(functools.partial(formulas.pushforward, norm=norm))
  return (y, stats), push(
    x, scale, mask, epsilon, stats, dx, d_scale, d_bias, d_epsilon
  )
