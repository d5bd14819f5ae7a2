"""Normalization and its derivatives as JAX primitives.

    normalize:    x, [scale], [bias] -> y, mean, mean_tail, m2
    pushforward:  dx, [d_scale], [d_bias] -> dy
    pullback:     dy -> dx, [d_scale], [d_bias]

The pushforward is the derivative in forward mode, at a given x, scale and
moments. The pullback is its transpose, the derivative in reverse mode. Both are
linear. What is in brackets may be absent.

The formulas of `formulas` define what the primitives compute. If there are the
kernels of `normjax.native`, the CPU runs normalize and pullback as one kernel
each, which passes over the data fewer times. The choice is made when JAX lowers
a program for a platform, so programs are the same with and without kernels.
"""

import functools
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


def supports(x: jax.Array, mask: jax.Array | None, norm: Norm) -> bool:
  """Returns whether the primitives support this norm of this array.

  If not, call the formulas instead. The primitives support what the kernels do:
  no masks, mapped axes, complex numbers, a traced epsilon or arrays of unknown
  size. Under a mesh each device has a part of the array, which XLA cannot pass
  to a kernel.
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
    and kernels.layout(x.shape, norm) is not None
  )


def bind_normalize(
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  norm: Norm,
  *,
  differentiated: bool = False,
) -> tuple[jax.Array, GroupMoments]:
  """As `formulas.normalize`; requires `supports`.

  Args:
    x, scale, bias, norm: As in `formulas.normalize`.
    differentiated: Whether a derivative will need the moments.
  """
  options = _Options(
    norm,
    has_scale=scale is not None,
    bias=_dtype(bias),
    differentiated=differentiated,
  )
  operands = {"x": x, "scale": scale, "bias": bias}
  y, *statistics = _bind(_normalize_p, operands, options)
  return y, _group_moments(statistics, x.shape, norm)


def bind_pushforward(
  x: jax.Array,
  scale: jax.Array | None,
  stats: GroupMoments,
  dx: jax.Array,
  d_scale: jax.Array | None,
  d_bias: jax.Array | None,
  norm: Norm,
) -> tuple[jax.Array, GroupMoments]:
  """As `formulas.pushforward`; requires `supports`."""
  options = _Options(
    norm,
    has_scale=scale is not None,
    d_scale=_dtype(d_scale),
    bias=_dtype(d_bias),
  )
  operands = {
    "x": x,
    "scale": scale,
    **dict(zip(_STATISTICS, stats[1:], strict=True)),
    "dx": dx,
    "d_scale": d_scale,
    "d_bias": d_bias,
  }
  (dy,) = _bind(_pushforward_p, operands, options)

  # `jax.checkpoint`: it is rarely used, so nothing is stored for it.
  @jax.checkpoint
  def d_moments(
    x: jax.Array, stats: GroupMoments, dx: jax.Array
  ) -> GroupMoments:
    x, dx = x.astype(jnp.float32), dx.astype(jnp.float32)
    return moments_tangent(x, None, stats, dx, norm.groups, norm.centered)

  return dy, d_moments(x, stats, dx)


class _Options(NamedTuple):
  """What a primitive is specialized to, apart from the shapes of its operands.

  Attributes:
    norm: What kind of norm.
    has_scale: Whether there is a scale.
    d_scale: The dtype of the change of scale; None if there is none.
    bias: The dtype of the bias, or of its change; None if there is none.
    differentiated: Whether a derivative needs the moments that normalize
      returns.
  """

  norm: Norm
  has_scale: bool
  d_scale: jnp.dtype | None = None
  bias: jnp.dtype | None = None
  differentiated: bool = False


def _dtype(x: jax.Array | None) -> jnp.dtype | None:
  return None if x is None else x.dtype


# Operands by name.

_STATISTICS = ("mean", "mean_tail", "m2")
_PARAMETERS = ("scale", "bias", "d_scale", "d_bias")
# The operands of each primitive, in order. Parameters may be absent.
_OPERANDS = {
  "normjax_normalize": ("x", "scale", "bias"),
  "normjax_pushforward": (
    "x", "scale", *_STATISTICS, "dx", "d_scale", "d_bias",
  ),
  "normjax_pullback": ("x", "scale", *_STATISTICS, "dy"),
}  # fmt: skip


def _operand_names(primitive: Primitive, options: _Options) -> list[str]:
  """Returns the names of the operands that are present, in order."""
  present = {
    "scale": options.has_scale,
    "bias": options.bias is not None,
    "d_scale": options.d_scale is not None,
    "d_bias": options.bias is not None,
  }
  return [name for name in _OPERANDS[primitive.name] if present.get(name, True)]


def _bind(
  primitive: Primitive, operands: dict[str, Any], options: _Options
) -> list[jax.Array]:
  """Binds a primitive to operands by name."""
  names = _operand_names(primitive, options)
  return primitive.bind(*(operands[name] for name in names), options=options)


def _by_name(
  primitive: Primitive, operands: Sequence[Any], options: _Options
) -> dict[str, Any]:
  """Returns the operands of a primitive by name."""
  names = _operand_names(primitive, options)
  return dict(zip(names, operands, strict=True))


def _group_moments(
  statistics: Sequence[jax.Array], shape: tuple[int, ...], norm: Norm
) -> GroupMoments:
  """Returns the moments of an array of this shape, from mean, mean_tail, m2."""
  *_, m2 = statistics
  count = jnp.full_like(m2, norm.groups.size(shape))
  return GroupMoments(count, *statistics)


# What the primitives compute, by formulas and by kernels.


def _normalize_formula(
  *operands: jax.Array, options: _Options
) -> list[jax.Array]:
  given = _by_name(_normalize_p, operands, options)
  scale, bias = given.get("scale"), given.get("bias")
  y, stats = formulas.normalize(
    given["x"], scale, bias, None, None, options.norm
  )
  return [y, *stats[1:]]


def _normalize_on_gpu(
  *operands: jax.Array, options: _Options
) -> list[jax.Array]:
  given = _by_name(_normalize_p, operands, options)
  x, norm = given["x"], options.norm
  if options.differentiated or not (norm.centered and _in_rows(x.shape, norm)):
    return _normalize_formula(*operands, options=options)
  y, stats = formulas.normalize_rows(
    x, given.get("scale"), given.get("bias"), norm
  )
  return [y, *stats[1:]]


# XLA keeps no longer rows in registers (seen with JAX 0.11.2 on an H200).
_LONGEST_ROW = 16384


def _in_rows(shape: tuple[int, ...], norm: Norm) -> bool:
  """Returns whether each group is a row that a GPU can keep in registers."""
  axes = norm.groups.axes
  last = tuple(range(len(shape) - len(axes), len(shape)))
  return (
    norm.groups.channel_axis is None
    and axes == last
    and norm.groups.size(shape) <= _LONGEST_ROW
  )


def _normalize_kernel(
  *operands: jax.Array, options: _Options
) -> list[jax.Array]:
  given = _by_name(_normalize_p, operands, options)
  scale, bias = given.get("scale"), given.get("bias")
  return kernels.call_normalize(given["x"], scale, bias, options.norm)


def _pushforward_formula(
  *operands: jax.Array, options: _Options
) -> list[jax.Array]:
  given = _by_name(_pushforward_p, operands, options)
  x, norm = given["x"], options.norm
  statistics = [given[name] for name in _STATISTICS]
  dy, _ = formulas.pushforward(
    x,
    given.get("scale"),
    None,
    None,
    _group_moments(statistics, x.shape, norm),
    given["dx"],
    given.get("d_scale"),
    given.get("d_bias"),
    None,
    norm,
  )
  return [dy]


def _pullback_formula(
  *operands: jax.Array, options: _Options
) -> list[jax.Array]:
  *point, dy = operands

  def push(*tangents: jax.Array) -> jax.Array:
    return _pushforward_formula(*point, *tangents, options=options)[0]

  tangents = (
    jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    for aval in _pullback_avals(*operands, options=options)
  )
  return list(jax.linear_transpose(push, *tangents)(dy))


def _pullback_kernel(
  *operands: jax.Array, options: _Options
) -> list[jax.Array]:
  given = _by_name(_pullback_p, operands, options)
  results = kernels.call_pullback(
    given["x"],
    given.get("scale"),
    [given[name] for name in _STATISTICS],
    given["dy"],
    options.norm,
    d_scale=options.d_scale is not None,
    d_bias=options.bias is not None,
  )
  avals = _pullback_avals(*operands, options=options)
  return [
    result.reshape(aval.shape).astype(aval.dtype)
    for result, aval in zip(results, avals, strict=True)
  ]


# The shapes and dtypes of the results.


def _normalize_avals(x: Any, *_: Any, options: _Options) -> list[ShapedArray]:
  axes = options.norm.groups.axes
  kept = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
  statistic = ShapedArray(kept, jnp.dtype(jnp.float32))
  return [ShapedArray(x.shape, x.dtype), statistic, statistic, statistic]


def _pushforward_avals(x: Any, *_: Any, options: _Options) -> list[ShapedArray]:
  return [ShapedArray(x.shape, x.dtype)]


def _pullback_avals(x: Any, *_: Any, options: _Options) -> list[ShapedArray]:
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
  on_gpu: Callable[..., list[jax.Array]] | None = None,
) -> Primitive:
  """Returns a primitive that is defined by a formula.

  Args:
    name: Shown in printed programs.
    formula: The definition. It is differentiated as well.
    avals: Returns the shapes and dtypes of the results.
    kernel: Computes the same on CPUs.
    on_gpu: Computes the same on GPUs.
  """
  primitive = Primitive(f"normjax_{name}")
  primitive.multiple_results = True
  primitive.def_abstract_eval(avals)
  compiled = jax.jit(primitive.bind, static_argnames="options")

  def apply(*operands: jax.Array, options: _Options) -> list[jax.Array]:
    with jax.disable_jit(False), diagnosis.checked(primitive) as check:
      return check(compiled(*operands, options=options))

  primitive.def_impl(apply)
  diagnosis.register(primitive)

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
  if on_gpu is not None:
    by_rows = mlir.lower_fun(on_gpu, multiple_results=True)
    for platform in ("cuda", "rocm"):
      mlir.register_lowering(primitive, by_rows, platform=platform)
  if kernel is None:
    return primitive
  by_kernel = mlir.lower_fun(kernel, multiple_results=True)

  def lower(ctx: Any, *operands: Any, options: _Options) -> Any:
    module = ctx.module_context
    # To call a kernel, XLA would gather a sharded array on every device.
    devices = getattr(module.axis_context, "num_devices", None)
    # An exported program must run where there are no kernels.
    exported = getattr(module.lowering_parameters, "for_export", False)
    # Mapping adds axes, so the layout may differ from what `supports` has
    # checked.
    view = kernels.layout(ctx.avals_in[0].shape, options.norm)
    callable_here = view is not None and not exported and devices in (None, 1)
    if not (callable_here and library.load()):
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
  """Maps a primitive: it is the same norm of arrays with one more axis.

  The axis comes first. Parameters get it only if one of them is mapped, or if
  the primitive returns gradients of parameters, one per element of the batch.
  """
  mapped = zip(operands, places, strict=True)
  (size,) = {x.shape[place] for x, place in mapped if place is not None}
  norm = options.norm
  names = _operand_names(primitive, options)
  map_parameters = primitive is _pullback_p or any(
    name in _PARAMETERS and place is not None
    for name, place in zip(names, places, strict=True)
  )

  def move(name: str, operand: jax.Array, place: int | None) -> jax.Array:
    if name in _PARAMETERS and not map_parameters:
      return operand
    if place is not None:
      return jnp.moveaxis(operand, place, 0)
    return jnp.broadcast_to(operand, (size, *operand.shape))

  def shifted(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis + 1 for axis in axes)

  groups, features = norm.groups, shifted(norm.features)
  if groups.channel_axis is not None:
    groups = groups._replace(channel_axis=groups.channel_axis + 1)
  groups = groups._replace(axes=shifted(groups.axes))
  if map_parameters and norm.features:
    features = (0, *features)
  norm = norm._replace(groups=groups, features=features)
  results = primitive.bind(
    *map(move, names, operands, places), options=options._replace(norm=norm)
  )
  return results, [0] * len(results)


def _transpose_pushforward(
  cotangents: Sequence[Any], *operands: Any, options: _Options
) -> list[Any]:
  (dy,) = cotangents
  if isinstance(dy, ad.Zero):
    return [None] * len(operands)
  given = _by_name(_pushforward_p, operands, options)
  pulled = iter(_bind(_pullback_p, {**given, "dy": dy}, options))
  cotangent_of: dict[str, jax.Array] = {
    name: next(pulled) for name in ("dx", "d_scale", "d_bias") if name in given
  }
  return [
    cotangent_of[name] if ad.is_undefined_primal(value) else None
    for name, value in given.items()
  ]


_normalize_p = _define(
  "normalize",
  _normalize_formula,
  _normalize_avals,
  _normalize_kernel,
  _normalize_on_gpu,
)
_pushforward_p = _define(
  "pushforward", _pushforward_formula, _pushforward_avals
)
_pullback_p = _define(
  "pullback", _pullback_formula, _pullback_avals, _pullback_kernel
)
ad.primitive_transposes[_pushforward_p] = _transpose_pushforward

# Registers the kernels now: a program that was compiled ahead of time may call
# one before anything else here runs.
library.find()
