"""Flax NNX modules of descriptions: parameters, statistics and modes.

A module keeps the options of its description as attributes, which can be set.
In each call it makes the description anew from them. It does not inherit from
it, because tools of Flax such as `nnx.tabulate` call every public method of a
module with arrays.
"""

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import TraceContextError
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import ArrayLike

from normjax.descriptions.constructors import documentation
from normjax.descriptions.norm import Norm, RunningNorm, Shape
from normjax.descriptions.parameters import boolean, widened
from normjax.functional.arguments import option
from normjax.functional.keywords import check_keywords

_Module = TypeVar("_Module", bound="NormModule")
# The modules of descriptions, which `shell` completes.
_MODULES: dict[type[Norm], "type[NormModule]"] = {}
_NONE: Mapping[str, Any] = MappingProxyType({})

# Options of Linen's modules that NNX's do not have.
_LINEN_ONLY = {"force_float32_reductions"}
# What NNX's modules do by default, where Linen's ask.
_DEFAULTS = {"use_running_average": False}

_ARGUMENTS = """
  num_features: Number of features. A tuple of numbers gives the parameters
    this shape, where there are several axes of features.
  promote_dtype: Called as in `flax.nnx`, in place of the rule for dtypes.
  rngs: Makes the parameters, scale before bias.
  scale_metadata, bias_metadata: Metadata of the parameters' variables.
"""


class NormModule(nnx.Module):
  """What the modules of all norms have in common; `shell` completes them."""

  _description: type[Norm]

  if TYPE_CHECKING:
    # `shell` makes the constructor; its arguments become the attributes.
    def __init__(self, *args: Any, **kwargs: Any): ...
    def __getattr__(self, name: str) -> Any: ...


class Shell(NormModule):
  """A module of a description of a norm without state."""

  def __call__(
    self, x: ArrayLike, *, mask: ArrayLike | None = None
  ) -> jax.Array:
    """Normalizes `x`.

    Args:
      x: Array of the shape that the function of the norm takes.
      mask: Broadcasts to `x`; True counts. Masked places come out as `bias`.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.
    """
    norm = described(self)
    x, parameters, _ = _promoted(self, *_operands(self, norm, x))
    dtype = norm.result_dtype(x, parameters)
    y = norm.normalize(
      widened(x, dtype),
      parameters,
      mask=boolean(mask),
      axis_name=getattr(self, "axis_name", None),
    )
    return y.astype(dtype)


class RunningShell(NormModule):
  """What modules of norms with running statistics have in common.

  The statistics are variables of type `nnx.BatchStat`.
  """

  def _normalized(
    self,
    x: Any,
    use_running_average: bool | None,
    mask: ArrayLike | None,
    **arguments: Any,
  ) -> jax.Array:
    """Normalizes `x`; in training, updates the running statistics.

    Args:
      x, use_running_average, mask: Of the call.
      **arguments: What else the description takes, such as `domain`.
    """
    mode = use_running_average
    mode = self.use_running_average if mode is None else mode
    if mode is None:
      raise ValueError(
        f"{type(self).__name__} does not know whether this is training. Call"
        " model.train() or model.eval() before, or pass use_running_average."
      )
    evaluates = option("use_running_average", mode)
    norm: Any = described(self)
    x, parameters = _operands(self, norm, x)
    declared = norm.statistics(norm.feature_shape(x), _statistics_dtype(norm))
    kept = {name: getattr(self, name) for name in declared}
    statistics = {
      name: _reshaped(variable.get_value(), declared[name].shape)
      for name, variable in kept.items()
    }
    x, parameters, statistics = _promoted(self, x, parameters, statistics)
    dtype = norm.result_dtype(x, parameters)
    if self.dtype is None:  # NNX promotes by the statistics too.
      dtype = _wider(dtype, *(s.dtype for s in jax.tree.leaves(statistics)))
    y, updates = norm.normalize_running(
      widened(x, dtype),
      parameters,
      statistics,
      use_running_average=evaluates,
      mask=boolean(mask),
      axis_name=getattr(self, "axis_name", None),
      **arguments,
    )
    if not evaluates:
      _assign(kept, updates)
    return y.astype(dtype)

  def set_view(self, use_running_average: bool | None = None) -> None:
    """Sets the mode; `nnx.view` calls it.

    Args:
      use_running_average: False in training, True in evaluation.
    """
    if use_running_average is not None:
      self.use_running_average = use_running_average

  def set_mode(
    self, use_running_average: bool | None = None, **unused: Any
  ) -> dict[str, Any]:
    """As `set_view`, for `nnx.set_mode` of older versions of Flax."""
    self.set_view(use_running_average)
    return unused


class BatchShell(RunningShell):
  """A module of a description of a norm with running statistics."""

  def __call__(
    self,
    x: ArrayLike,
    use_running_average: bool | None = None,
    *,
    mask: ArrayLike | None = None,
  ) -> jax.Array:
    """Normalizes `x`; in training, updates the running statistics.

    Args:
      x: Array `[batch, ..., channels]`, or with the channels elsewhere.
      use_running_average: False in training, True in evaluation; None means
        the attribute of the same name, which `train()` and `eval()` set.
      mask: Broadcasts to `x`; True counts. Masked places come out as `bias`,
        also in evaluation, where Flax normalizes them.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.

    Raises:
      ValueError: training with one value per channel.
      TraceContextError: training in a function that JAX transforms, while the
        module is no argument of it.
    """
    return self._normalized(x, use_running_average, mask)


def described(module: NormModule) -> Norm:
  """Returns the description of a module, with its attributes as options."""
  description = module._description
  return description(
    **{name: getattr(module, name) for name in _options(description)}
  )


def row_argument(module: nnx.Module) -> str:
  """Returns which argument of a call names a row of statistics, or ""."""
  description = getattr(module, "_description", None)
  return getattr(description, "row_argument", "")


def _options(description: type[Norm]) -> tuple[str, ...]:
  """Returns the names of the options that NNX's modules have."""
  names = (field.name for field in dataclasses.fields(description))
  return tuple(name for name in names if name not in _LINEN_ONLY)


def _operands(
  module: NormModule, norm: Norm, x: ArrayLike
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns `x`, and the parameters in the shapes that the function takes."""
  x = jnp.asarray(x)
  features = norm.feature_shape(x)
  # One number may count the features of several axes.
  if _shape(module.num_features) not in (features, (math.prod(features),)):
    raise ValueError(
      f"{type(module).__name__} was made for num_features="
      f"{module.num_features}, but x of shape {x.shape} has features"
      f" {features} along {norm.features}={getattr(norm, norm.features, -1)}."
    )
  parameters = {
    name: _reshaped(getattr(module, name).get_value(), declared.shape)
    for name, declared in norm.parameters(features).items()
  }
  return x, parameters


def _promoted(
  module: NormModule,
  x: jax.Array,
  parameters: Mapping[str, jax.Array],
  statistics: Mapping[str, Any] = _NONE,
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
  """Returns all three, by the user's rule for dtypes if there is one.

  As in Flax, it gets `(x, mean, var, scale, bias)`, without what the norm never
  has, and None for what it does not use.
  """
  parameters, statistics = dict(parameters), dict(statistics)
  if module.promote_dtype is promote_dtype:
    return x, parameters, statistics
  given: dict[str, Any] = {
    name: statistics[name] for name in ("mean", "var") if name in statistics
  }
  for name in "scale", "bias":
    if hasattr(module, name):
      given[name] = parameters.get(name)
  x, *values = module.promote_dtype((x, *given.values()), dtype=module.dtype)
  for name, value in zip(given, values, strict=True):
    if name in statistics:
      statistics[name] = value
    elif name in parameters:
      parameters[name] = value
  return x, parameters, statistics


def _shape(num_features: int | Sequence[int]) -> Shape:
  """Returns the shape of the features.

  Raises:
    TypeError: it is no shape.
  """
  several = isinstance(num_features, tuple | list)
  sizes: Any = num_features if several else [num_features]
  if not sizes or not all(
    isinstance(n, Integral) and int(n) > 0 for n in sizes
  ):
    raise TypeError(
      "num_features must be the number of features of x, a positive integer,"
      f" got {num_features!r:.60}."
    )
  return tuple(map(int, sizes))


def _reshaped(value: Any, shape: Shape) -> Any:
  """Returns an array, or a tree of arrays, in a shape."""
  return jax.tree.map(
    lambda x: x if x.shape == shape else x.reshape(shape), value
  )


def _assign(
  variables: Mapping[str, nnx.Variable[Any]], values: Mapping[str, Any]
) -> None:
  """Puts new running statistics into the variables of the same names.

  They keep shape and dtype, so that they can be carried by a scan; but a mean
  becomes complex if it must.

  Raises:
    TraceContextError: the variables are of another trace.
  """
  try:
    for name, value in values.items():
      old = variables[name].get_value()
      variables[name].set_value(jax.tree.map(_like, value, old))
  except TraceContextError as error:
    error.add_note(
      "Training updates the running statistics. Make the model an argument of"
      " the function that is transformed, and use nnx.jit, nnx.vmap, nnx.grad"
      " instead of those of jax. Or evaluate: call model.eval() before."
    )
    raise


def _like(new: jax.Array, old: jax.Array) -> jax.Array:
  new = jax.lax.stop_gradient(new).reshape(old.shape)
  complex_now = jnp.iscomplexobj(new) and not jnp.iscomplexobj(old)
  return new if complex_now else new.astype(old.dtype)


def _initialize(
  self: Any,
  num_features: int | Sequence[int],
  *,
  promote_dtype: Callable[..., Any],
  rngs: nnx.Rngs,
  metadata: Mapping[str, Mapping[str, Any]],
  **options: Any,
) -> None:
  """Sets the attributes, and makes the variables."""
  if not hasattr(rngs, "params"):
    raise TypeError(
      f"{type(self).__name__} needs rngs, such as rngs=nnx.Rngs(0), got"
      f" {rngs!r:.60}."
    )
  self.num_features = num_features
  self.promote_dtype = promote_dtype
  for name, value in options.items():
    setattr(self, name, value)
  norm = described(self)
  features = _shape(num_features)
  if isinstance(norm, RunningNorm):
    statistics = norm.statistics(features, _statistics_dtype(norm))
    for name, (make, shape, dtype, _) in statistics.items():
      setattr(self, name, nnx.BatchStat(make(shape, dtype)))
  parameters = norm.parameters(features)
  for name, (init, shape, dtype) in parameters.items():
    value = init(rngs.params(), shape, dtype)
    setattr(self, name, nnx.Param(value, **metadata.get(name, {})))
  for name in metadata.keys() - parameters.keys():
    setattr(self, name, nnx.data(None))


def _statistics_dtype(norm: Any) -> Any:
  """Returns float32, or what parameters or result have if that is wider."""
  dtype = jnp.float32 if norm.dtype is None else norm.dtype
  return _wider(jnp.float32, norm.param_dtype, dtype)


def _wider(*dtypes: Any) -> Any:
  """Returns what dtypes promote to, also if the user made promotion strict."""
  with jax.numpy_dtype_promotion("standard"):
    return functools.reduce(jnp.promote_types, dtypes)


def signature(
  description: type[Norm], positional: Sequence[str] = ()
) -> inspect.Signature:
  """Returns the arguments of the constructor of a description's module.

  Args:
    description: Its fields are options, which are given by name.
    positional: Names of options that can be given by position too.
  """
  parameter = inspect.Parameter
  by_position, by_name = parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY
  options = [
    parameter(
      field.name,
      by_position if field.name in positional else by_name,
      default=_DEFAULTS.get(field.name, field.default)
      if field.default is not dataclasses.MISSING
      else parameter.empty,
      annotation=field.type,
    )
    for field in dataclasses.fields(description)
    if field.name not in _LINEN_ONLY
  ]
  others = [
    parameter("promote_dtype", by_name, default=promote_dtype),
    parameter("rngs", by_name, annotation=nnx.Rngs),
    *(
      parameter(name, by_name, default=_NONE)
      for name in _metadata(description).values()
    ),
  ]
  first = parameter("num_features", by_position, annotation=int)
  return inspect.Signature(
    [first, *sorted([*options, *others], key=lambda option: option.kind)]
  )


def _metadata(description: type[Norm]) -> dict[str, str]:
  """Returns the arguments with metadata, by the names of the parameters."""
  fields = {field.name for field in dataclasses.fields(description)}
  return {
    name: f"{name}_metadata"
    for name in ("bias", "scale")
    if f"use_{name}" in fields
  }


def shell(
  description: type[Norm], *positional: str
) -> Callable[[type[_Module]], type[_Module]]:
  """Completes a module of a description; a class decorator.

  Gives it a constructor with the options of the description, which explains the
  habits of other libraries, and a docstring with that of the description.

  Args:
    description: Of the norm.
    *positional: Names of options that can be given by position too.
  """

  def complete(module: type[_Module]) -> type[_Module]:
    module._description = description
    arguments = signature(description, positional)

    def init(self: NormModule, *args: Any, **kwargs: Any) -> None:
      check_keywords(module.__name__, kwargs, arguments.parameters)
      try:
        given = arguments.bind(*args, **kwargs)
      except TypeError as error:
        raise TypeError(f"{module.__name__}: {error}") from None
      given.apply_defaults()
      options = given.arguments
      metadata = {
        name: options.pop(argument)
        for name, argument in _metadata(description).items()
      }
      _initialize(self, metadata=metadata, **options)

    init.__signature__ = arguments  # type: ignore[attr-defined]
    module.__init__ = init  # type: ignore[method-assign]
    text = documentation(module, description)
    for name in _LINEN_ONLY:  # Its own entry, or its place in a list.
      text = re.sub(rf"\n  {name}: .*(?:\n    .*)*", "", text)
      text = re.sub(rf"\b{name},\s+", "", text)
    module.__doc__ = text.replace("\nAttributes:\n", f"\nArgs:{_ARGUMENTS}", 1)
    _MODULES.setdefault(description, module)
    return module

  return complete


def module_of(description: type[Norm]) -> type[NormModule]:
  """Returns the NNX module of a description; makes one if there is none."""
  if description not in _MODULES:
    kind = BatchShell if issubclass(description, RunningNorm) else Shell
    shell(description)(type(description.__name__, (kind,), {}))
  return _MODULES[description]
