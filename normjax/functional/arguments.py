"""Checks of arguments that the pure functions share.

They run while tracing, before any computation. Each message says what came,
what was expected and what to do.
"""

import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from normjax.functional.keywords import check_keywords

Axes = int | Sequence[int]
AxisName = str | tuple[str, ...]
AxisIndexGroups = Sequence[Sequence[int]]

_TINY = float(jnp.finfo(jnp.float32).tiny)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def jit(
  *static_argnames: str,
  check: Callable[[Mapping[str, Any]], None] = lambda given: None,
) -> Callable[[_Function], _Function]:
  """Compiles a function, whose static arguments may also be lists or arrays.

  The result is an ordinary function with the docstring, signature and doctests
  of the original. It is one compiled unit everywhere, so a gradient outside of
  `jax.jit` runs the same program as one inside.

  Arguments that are not static are arrays, or convert to arrays. `epsilon` is
  static unless it is traced.

  Args:
    *static_argnames: Names of static arguments.
    check: Called with the arguments that are given, by name, before they are
      converted and traced. Inside of the function, the values of arrays are
      unknown.
  """

  def decorate(function: _Function) -> _Function:
    names = tuple(inspect.signature(function).parameters)

    @functools.cache
    def compiled(static: tuple[str, ...]) -> Callable[..., Any]:
      return jax.jit(function, static_argnames=static)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
      check_keywords(function.__name__, kwargs, names)
      check(dict(zip(names, args, strict=False)) | kwargs)
      static = static_argnames
      if isinstance(kwargs.get("epsilon"), jax.core.Tracer):
        static = tuple(name for name in static if name != "epsilon")

      def canonical(name: str, value: Any) -> Any:
        if name in static:
          return option(name, value)
        return as_array(name, value)

      # If there are too many arguments, the function itself raises.
      named = zip(names, args, strict=False)
      try:
        return compiled(static)(
          *(canonical(name, value) for name, value in named),
          *args[len(names) :],
          **{name: canonical(name, value) for name, value in kwargs.items()},
        )
      except NotImplementedError as error:
        if kwargs.get("axis_index_groups") is None:
          raise
        raise NotImplementedError(
          f"{function.__name__} got axis_index_groups"
          f"={kwargs['axis_index_groups']}. JAX supports no groups along the"
          f" axis {kwargs.get('axis_name')!r} of jax.vmap, nor in a"
          " jax.shard_map that checks varying axes. Use jax.shard_map with"
          " check_vma=False, or split the axis in two and name the one to"
          " average over."
        ) from error

    return call  # type: ignore[return-value]

  return decorate


def option(name: str, value: Any) -> Any:
  """Returns a static argument in hashable form."""
  if isinstance(value, jax.core.Tracer):
    raise TypeError(
      f"{name} must be known while tracing, got {value}. Pass a Python value:"
      " add the argument that it comes from to static_argnames of jax.jit, or"
      " bind it with functools.partial. To choose at run time, use"
      " jax.lax.cond."
    )
  if isinstance(value, np.generic | np.ndarray | jax.Array):
    value = value.tolist()
  if isinstance(value, Iterable) and not isinstance(value, str):
    return tuple(option(name, item) for item in value)
  return value


def as_array(name: str, value: Any) -> Any:
  """Returns an argument as an array; trees of arrays stay as they are.

  Raises:
    TypeError: it does not convert to an array.
  """
  if isinstance(value, np.ndarray):
    if value.dtype.kind in "OSUMm":
      raise TypeError(f"{name} must hold numbers, got {value.dtype}.")
    if not value.dtype.isnative:
      # JAX ignores the byte order and would read other numbers.
      return value.astype(value.dtype.newbyteorder("="))
    return value
  if value is None or isinstance(value, jax.Array | np.generic):
    return value
  if isinstance(value, tuple) and hasattr(value, "_fields"):
    return type(value)(
      *(
        as_array(f"{name}.{field}", item)
        for field, item in zip(value._fields, value, strict=True)
      )
    )
  if isinstance(value, float | int | complex):
    return value  # Weakly typed, as in jax.numpy.
  try:
    return jnp.asarray(value)
  except (TypeError, ValueError) as error:
    raise TypeError(
      f"{name} must be an array or convert to one, got"
      f" {type(value).__name__}: {value!r:.60}."
    ) from error


def check_floating(x: jax.Array, function: str) -> None:
  """Raises TypeError unless `x` is a real or complex floating array."""
  if not hasattr(x, "dtype"):
    raise TypeError(f"{function} needs an array x, got {type(x).__name__}.")
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    raise TypeError(
      f"{function} needs a floating or complex x, got {x.dtype}{list(x.shape)}."
      " Convert it first, for example with x.astype(jnp.float32)."
    )


def check_epsilon(epsilon: float | jax.Array) -> None:
  """Raises unless `epsilon` is a positive, finite scalar.

  An integer is refused: whoever passes one means a number of features.
  The value of a traced `epsilon` is unknown and not checked.
  """
  if isinstance(epsilon, jax.Array):
    if epsilon.shape != ():
      raise ValueError(
        f"epsilon must be a scalar, got shape {epsilon.shape}. Pass one number"
        " for the whole array."
      )
    return
  if not hasattr(epsilon, "__float__"):
    raise TypeError(
      f"epsilon must be one number such as 1e-6, got {epsilon!r:.60}."
    )
  if not _TINY <= epsilon < math.inf:
    raise ValueError(
      f"epsilon must be {'finite' if epsilon > 0 else 'positive'}, got"
      f" {epsilon}. It prevents a division by zero in constant groups. To make"
      " it negligible, use a tiny value such as 1e-12. float32 treats values"
      f" below {_TINY:.2g} as zero."
    )
  if isinstance(epsilon, int):
    raise ValueError(
      f"epsilon={epsilon} is an integer. It is a small number such as 1e-6,"
      " which is added to the variance. Sizes are taken from x: do not pass a"
      f" number of features. If you mean this epsilon, write {float(epsilon)}."
    )


def check_parameters(
  x: jax.Array,
  axes: tuple[int, ...],
  origin: str,
  **parameters: jax.Array | None,
) -> None:
  """Raises unless each parameter is None, or floating with the right shape.

  Args:
    x: The array that the parameters belong to.
    axes: Axes of `x` that they vary along, sorted. Their sizes are the shape.
    origin: The option that named the axes, for the message.
    **parameters: The parameters by name.
  """
  shape = tuple(x.shape[axis] for axis in axes)
  for name, value in parameters.items():
    if value is None:
      continue
    if value.shape != shape:
      raise ValueError(
        f"{name} must have shape {shape}, the sizes of {origin} in x with"
        f" shape {x.shape}, got {value.shape}. Reshape it, or name the axes of"
        " x that it varies along."
      )
    if not jnp.issubdtype(value.dtype, jnp.inexact):
      raise TypeError(
        f"{name} must be floating, got {value.dtype}. Convert it first, for"
        " example with astype(jnp.float32)."
      )
    if jnp.iscomplexobj(value) and not jnp.iscomplexobj(x):
      raise TypeError(
        f"{name} is {value.dtype} but x is {x.dtype}, so its imaginary part"
        " would be lost. Use its real part, or a complex x."
      )


def canonical_axes(axes: Axes, ndim: int, name: str) -> tuple[int, ...]:
  """Returns `axes` sorted and non-negative, each of them once.

  Raises:
    TypeError: an axis is not an integer.
    ValueError: an axis is out of range or repeated, or there is none.
  """
  given = tuple(axes) if isinstance(axes, Iterable) else (axes,)
  if not all(hasattr(axis, "__index__") for axis in given):
    raise TypeError(
      f"{name} must be an integer, or several, got {axes!r}. Axes of x are"
      " counted from 0, or from the end: -1 is the last."
    )
  given = tuple(operator.index(axis) for axis in given)
  if ndim == 0:
    raise ValueError(
      f"x has no axes, but {name}={axes} names one. Pass an array"
      " instead of a number."
    )
  for axis in given:
    if not -ndim <= axis < ndim:
      raise ValueError(
        f"{name}={axes} is out of range for an x with {ndim} axes: use"
        f" {-ndim} to {ndim - 1}."
      )
  canonical = tuple(sorted(axis % ndim for axis in given))
  if len(set(canonical)) < len(canonical):
    raise ValueError(
      f"{name}={axes} names an axis twice for an x with {ndim} axes. Name each"
      " axis once."
    )
  if not canonical:
    raise ValueError(f"{name} is empty: name at least one axis.")
  return canonical


def complement(axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
  """Returns the axes that are not in `axes`."""
  return tuple(axis for axis in range(ndim) if axis not in axes)


def canonical_mask(
  mask: ArrayLike | None, shape: tuple[int, ...]
) -> jax.Array | None:
  """Returns a boolean mask of x's rank; each axis has x's size or one.

  Raises:
    TypeError: the mask is not boolean.
    ValueError: it does not broadcast to `shape`.
  """
  if mask is None:
    return None
  mask = jnp.asarray(mask)
  if mask.dtype != jnp.bool_:
    raise TypeError(
      f"mask must be boolean (True counts), got {mask.dtype}. Write for"
      " example mask=(mask != 0)."
    )
  padded = (1,) * (len(shape) - mask.ndim) + mask.shape
  if len(padded) != len(shape) or any(
    size not in (1, full) for size, full in zip(padded, shape, strict=True)
  ):
    raise ValueError(
      f"mask has shape {mask.shape}, which does not broadcast to x's {shape}."
      " Add axes of size one where it does not vary, for example"
      " mask[..., None]."
    )
  return mask.reshape(padded)


def mapped_size(axis_name: AxisName) -> int:
  """Returns the size of a mapped axis, or of several together."""
  return jax.lax.psum(1, axis_name)


def check_axis_name(axis_name: AxisName | None) -> None:
  """Raises NameError unless every axis name is bound by a mapping.

  Raises TypeError for the number of an axis.
  """
  if axis_name is None:
    return
  if isinstance(axis_name, int):
    raise TypeError(
      f"axis_name must be the name of a mapped axis, got {axis_name}, which is"
      " an axis of x. Pass it as one of the axes to average over."
    )
  try:
    mapped_size(axis_name)
  except NameError as error:
    raise NameError(
      f"axis_name={axis_name!r} is not bound here. Call inside jax.vmap(...,"
      f" axis_name={axis_name!r}) or jax.shard_map over a mesh with that axis,"
      " or leave axis_name=None: under jax.jit the statistics of a sharded"
      " array are global without it."
    ) from error


def statistics_dtype(dtype: jnp.dtype) -> jnp.dtype:
  """Returns the dtype of the statistics: float32 or wider."""
  return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
