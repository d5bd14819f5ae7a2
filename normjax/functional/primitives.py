"""Normalization, its derivative and that one's transpose, as JAX primitives.

    normalize:    x, scale, bias -> y, mean, mean_tail, m2
    pushforward:  dx, d_scale, d_bias -> dy
    pullback:     dy -> dx, d_scale, d_bias

The second and third are linear, at a given x, scale and moments: forward mode
and, its transpose, reverse mode. They mean what `formulas` says, and XLA
computes them so; but a primitive can also be lowered to one kernel, which
passes over the data fewer times. On CPUs that is done where the kernels have
been built (`normjax.native`). Which of the two it is, is decided while
lowering to a platform.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from normjax.functional import diagnosis, formulas, kernels
from normjax.functional.formulas import Norm
from normjax.functional.moments import GroupMoments, moments_tangent
from normjax.native import library


def can_use_kernels(x: jax.Array, mask: jax.Array | None, norm: Norm) -> bool:
  """Returns whether the primitives can stand in for the formulas.

  They are for kernels, which know no masks, no mapped axes, no complex numbers
  and no traced epsilon, and whose arrays have a known size. Under a mesh each
  device has a part of the array, which XLA cannot hand to a kernel.
  """
  return (
    mask is None
    and norm.epsilon is not None
    and all(isinstance(size, int) for size in x.shape)
    and norm.groups.axis_name is None
    and not norm.ddof
    and not norm.epsilon_outside_sqrt
    and x.dtype in kernels.DTYPES
    and x.size > 0
    and jax.typeof(x).sharding.mesh.empty
    and library.load()
    and kernels.layout(x.shape, norm) is not None
  )


def bind_normalize(
  x: jax.Array, scale: jax.Array | None, bias: jax.Array | None, norm: Norm
) -> tuple[jax.Array, GroupMoments]:
  """As `formulas.normalize`, where `can_use_kernels`."""
  options = _Options(norm, scale is not None, bias=_dtype(bias))
  y, *statistics = _normalize_p.bind(x, *_given(scale, bias), options=options)
  return y, _moments(statistics, x.shape, norm)


def bind_pushforward(
  x: jax.Array,
  scale: jax.Array | None,
  stats: GroupMoments,
  dx: jax.Array,
  d_scale: jax.Array | None,
  d_bias: jax.Array | None,
  norm: Norm,
) -> tuple[jax.Array, GroupMoments]:
  """As `formulas.pushforward`, where `can_use_kernels`."""
  options = _Options(norm, scale is not None, _dtype(d_scale), _dtype(d_bias))
  (dy,) = _pushforward_p.bind(
    x, *_given(scale), *stats[1:], dx, *_given(d_scale, d_bias), options=options
  )

  # Nobody computes this unless it is used, nor keeps anything for it.
  @jax.checkpoint
  def d_moments(
    x: jax.Array, stats: GroupMoments, dx: jax.Array
  ) -> GroupMoments:
    x, dx = x.astype(jnp.float32), dx.astype(jnp.float32)
    return moments_tangent(x, None, stats, dx, norm.groups, norm.centered)

  return dy, d_moments(x, stats, dx)


class _Options(NamedTuple):
  """What a primitive is specialized to, beside the shapes of its operands.

  What is absent leaves no operand. Their order is:

    normalize:    x, [scale], [bias]
    pushforward:  x, [scale], mean, mean_tail, m2, dx, [d_scale], [d_bias]
    pullback:     x, [scale], mean, mean_tail, m2, dy

  Attributes:
    norm: What kind of norm.
    scale: Whether there is a scale.
    d_scale: Dtype of what changes it, None for nothing.
    bias: Dtype of the bias, or of what changes it; None for none.
  """

  norm: Norm
  scale: bool
  d_scale: jnp.dtype | None = None
  bias: jnp.dtype | None = None


def _dtype(x: jax.Array | None) -> jnp.dtype | None:
  return None if x is None else x.dtype


def _given(*arrays: jax.Array | None) -> list[jax.Array]:
  return [array for array in arrays if array is not None]


def _moments(
  statistics: Sequence[jax.Array], shape: tuple[int, ...], norm: Norm
) -> GroupMoments:
  groups = norm.groups
  count = math.prod(shape[axis] for axis in groups.axes)
  if groups.channel_axis is not None:
    count *= shape[groups.channel_axis] // groups.num_groups
  return GroupMoments(jnp.full_like(statistics[2], count), *statistics)


class _At(NamedTuple):
  """Where the linear maps are taken, in front of what they map."""

  x: jax.Array
  scale: jax.Array | None
  statistics: list[jax.Array]


def _unpack(
  operands: Sequence[Any], options: _Options
) -> tuple[_At, Sequence[Any]]:
  number = 1 + options.scale
  at = _At(
    operands[0],
    operands[1] if options.scale else None,
    list(operands[number : number + 3]),
  )
  return at, operands[number + 3 :]


def _normalize_formula(
  x: jax.Array, *parameters: jax.Array, options: _Options
) -> list[jax.Array]:
  has_bias = options.bias is not None
  scale, bias = _parameters(parameters, options.scale, has_bias)
  y, stats = formulas.normalize(x, scale, bias, None, None, options.norm)
  return [y, *stats[1:]]


def _normalize_kernel(
  x: jax.Array, *parameters: jax.Array, options: _Options
) -> list[jax.Array]:
  has_bias = options.bias is not None
  scale, bias = _parameters(parameters, options.scale, has_bias)
  return kernels.call_normalize(x, scale, bias, options.norm)


def _parameters(
  given: Sequence[jax.Array], has_scale: bool, has_bias: bool
) -> tuple[jax.Array | None, jax.Array | None]:
  rest = iter(given)
  return next(rest) if has_scale else None, next(rest) if has_bias else None


def _pushforward_formula(
  *operands: jax.Array, options: _Options
) -> list[jax.Array]:
  (x, scale, statistics), (dx, *parameters) = _unpack(operands, options)
  norm = options.norm
  stats = _moments(statistics, x.shape, norm)
  d_scale, d_bias = _parameters(
    parameters, options.d_scale is not None, options.bias is not None
  )
  dy, _ = formulas.pushforward(
    x, scale, None, None, stats, dx, d_scale, d_bias, None, norm
  )
  return [dy]


def _pullback_formula(
  *operands: jax.Array, options: _Options
) -> list[jax.Array]:
  *at, dy = operands

  def push(*tangents: jax.Array) -> jax.Array:
    return _pushforward_formula(*at, *tangents, options=options)[0]

  tangents = (
    jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    for aval in _pullback_avals(*operands, options=options)
  )
  return list(jax.linear_transpose(push, *tangents)(dy))


def _pullback_kernel(
  *operands: jax.Array, options: _Options
) -> list[jax.Array]:
  (x, scale, statistics), (dy,) = _unpack(operands, options)
  results = kernels.call_pullback(
    x,
    scale,
    statistics,
    dy,
    options.norm,
    d_scale=options.d_scale is not None,
    d_bias=options.bias is not None,
  )
  avals = _pullback_avals(*operands, options=options)
  return [
    result.reshape(aval.shape).astype(aval.dtype)
    for result, aval in zip(results, avals, strict=True)
  ]


def _normalize_avals(*operands: Any, options: _Options) -> list[ShapedArray]:
  x, axes = operands[0], options.norm.groups.axes
  kept = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
  statistic = ShapedArray(kept, jnp.dtype(jnp.float32))
  return [ShapedArray(x.shape, x.dtype), statistic, statistic, statistic]


def _pushforward_avals(*operands: Any, options: _Options) -> list[ShapedArray]:
  return [ShapedArray(operands[0].shape, operands[0].dtype)]


def _pullback_avals(*operands: Any, options: _Options) -> list[ShapedArray]:
  x = operands[0]
  shape = tuple(x.shape[axis] for axis in options.norm.features)
  dtypes = (options.d_scale, options.bias)
  return [
    ShapedArray(x.shape, x.dtype),
    *(ShapedArray(shape, dtype) for dtype in dtypes if dtype is not None),
  ]


# The rules of the primitives.


def _define(
  name: str,
  formula: Callable[..., list[jax.Array]],
  avals: Callable[..., list[ShapedArray]],
  kernel: Callable[..., list[jax.Array]] | None = None,
) -> Primitive:
  """Returns a primitive that does what a formula says.

  Args:
    name: For printed programs.
    formula: Also what derivatives are taken of.
    avals: Shapes and dtypes of the results.
    kernel: Does the same on CPUs.
  """
  primitive = Primitive(f"normjax_{name}")
  primitive.multiple_results = True
  primitive.def_abstract_eval(avals)
  compiled = jax.jit(primitive.bind, static_argnames="options")

  def apply(*operands: jax.Array, options: _Options) -> list[jax.Array]:
    with jax.disable_jit(False), diagnosis.checked(primitive) as check:
      return check(compiled(*operands, options=options))

  primitive.def_impl(apply)
  diagnosis.let_in(primitive)

  def jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, options: _Options
  ) -> Any:
    return jax.jvp(
      functools.partial(formula, options=options),
      tuple(primals),
      tuple(map(ad.instantiate_zeros, tangents)),
    )

  ad.primitive_jvps[primitive] = jvp
  batching.primitive_batchers[primitive] = functools.partial(
    _batched, primitive
  )
  by_formula = mlir.lower_fun(formula, multiple_results=True)
  mlir.register_lowering(primitive, by_formula)
  if kernel is None:
    return primitive
  by_kernel = mlir.lower_fun(kernel, multiple_results=True)

  def lower(ctx: Any, *operands: Any, options: _Options) -> Any:
    module = ctx.module_context
    # XLA would gather a sharded array on every device for a kernel.
    devices = getattr(module.axis_context, "num_devices", None)
    # An exported program must run where there are no kernels.
    exported = getattr(module.lowering_parameters, "for_export", False)
    # Mapping may have led to a layout that `can_use_kernels` has not seen.
    view = kernels.layout(ctx.avals_in[0].shape, options.norm)
    if view is None or exported or devices not in (None, 1):
      return by_formula(ctx, *operands, options=options)
    return by_kernel(ctx, *operands, options=options)

  mlir.register_lowering(primitive, lower, platform="cpu")
  return primitive


def _batched(
  primitive: Primitive,
  operands: Sequence[jax.Array],
  places: Sequence[int | None],
  *,
  options: _Options,
) -> tuple[list[jax.Array], list[int]]:
  """Maps a primitive: it is the same norm of arrays with one axis more.

  Parameters get the axis where one of them has it. So does what is pulled back
  to them, which is a sum within one element of the batch.
  """
  mapped = zip(operands, places, strict=True)
  (size,) = {x.shape[place] for x, place in mapped if place is not None}
  norm = options.norm
  parameters = _parameter_operands(primitive, options)
  own = primitive is _pullback_p or any(
    places[number] is not None for number in parameters
  )

  def move(number: int) -> jax.Array:
    operand, place = operands[number], places[number]
    if number in parameters and not own:
      return operand
    if place is not None:
      return jnp.moveaxis(operand, place, 0)
    return jnp.broadcast_to(operand, (size, *operand.shape))

  def behind(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis + 1 for axis in axes)

  groups, features = norm.groups, behind(norm.features)
  if groups.channel_axis is not None:
    groups = groups._replace(channel_axis=groups.channel_axis + 1)
  groups = groups._replace(axes=behind(groups.axes))
  if own and norm.features:
    features = (0, *features)
  norm = norm._replace(groups=groups, features=features)
  results = primitive.bind(
    *map(move, range(len(operands))), options=options._replace(norm=norm)
  )
  return results, [0] * len(results)


def _parameter_operands(
  primitive: Primitive, options: _Options
) -> tuple[int, ...]:
  """Returns the numbers of the operands that are parameters or change them."""
  scale = (1,) if options.scale else ()
  has_bias = options.bias is not None
  if primitive is _normalize_p:
    return (*scale, *([1 + options.scale] if has_bias else []))
  if primitive is _pushforward_p:
    first = 5 + options.scale
    count = (options.d_scale is not None) + has_bias
    return (*scale, *range(first, first + count))
  return scale


def _transpose_pushforward(
  cotangents: Sequence[Any], *operands: Any, options: _Options
) -> list[Any]:
  (dy,) = cotangents
  first = 4 + options.scale
  at, tangents = operands[:first], operands[first:]
  if isinstance(dy, ad.Zero):
    return [None] * len(operands)
  pulled = _pullback_p.bind(*at, dy, options=options)
  return [None] * first + [
    cotangent if ad.is_undefined_primal(tangent) else None
    for cotangent, tangent in zip(pulled, tangents, strict=True)
  ]


_normalize_p = _define(
  "normalize", _normalize_formula, _normalize_avals, _normalize_kernel
)
_pushforward_p = _define(
  "pushforward", _pushforward_formula, _pushforward_avals
)
_pullback_p = _define(
  "pullback", _pullback_formula, _pullback_avals, _pullback_kernel
)
ad.primitive_transposes[_pushforward_p] = _transpose_pushforward

# A program that was compiled ahead of time may call a kernel first of all.
library.load()
