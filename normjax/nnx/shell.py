"""Flax NNX modules of descriptions: parameters, statistics and modes."""

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import TraceContextError
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import ArrayLike

from normjax.descriptions.constructors import documentation
from normjax.descriptions.norm import Norm, RunningNorm, Shape, described
from normjax.descriptions.parameters import boolean, widened
from normjax.functional.arguments import option
from normjax.functional.keywords import check_keywords

_Module = TypeVar("_Module", bound=nnx.Module)
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


class Shell(nnx.Module):
  """A module of a description of a norm without state.

  Modules inherit from a shell and from a description.
  """

  def __call__(
    self: Any, x: ArrayLike, *, mask: ArrayLike | None = None
  ) -> jax.Array:
    """Normalizes `x`.

    Args:
      x: Array of the shape that the function of the norm takes.
      mask: Broadcasts to `x`; True counts. Masked places come out as `bias`.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.
    """
    x, parameters, _ = _promoted(self, *_operands(self, x))
    dtype = self.result_dtype(x, parameters)
    y = self.normalize(
      widened(x, dtype),
      parameters,
      mask=boolean(mask),
      axis_name=getattr(self, "axis_name", None),
    )
    return y.astype(dtype)


class RunningShell(nnx.Module):
  """What modules of norms with running statistics have in common.

  The statistics are variables of type `nnx.BatchStat`.
  """

  def _normalized(
    self: Any,
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
    x, parameters = _operands(self, x)
    declared = self.statistics(self.feature_shape(x), _statistics_dtype(self))
    kept = {name: getattr(self, name) for name in declared}
    statistics = {
      name: _reshaped(variable.get_value(), declared[name].shape)
      for name, variable in kept.items()
    }
    x, parameters, statistics = _promoted(self, x, parameters, statistics)
    dtype = self.result_dtype(x, parameters)
    if self.dtype is None:  # NNX promotes by the statistics too.
      dtype = _wider(dtype, *(s.dtype for s in jax.tree.leaves(statistics)))
    y, updates = self.normalize_running(
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

  def set_view(self: Any, use_running_average: bool | None = None) -> None:
    """Sets the mode; `nnx.view` calls it.

    Args:
      use_running_average: False in training, True in evaluation.
    """
    if use_running_average is not None:
      # Mypy cannot know that the description has this field.
      setattr(self, "use_running_average", use_running_average)  # noqa: B010

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


def _operands(
  module: Any, x: ArrayLike
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns `x`, and the parameters in the shapes that the function takes."""
  x = jnp.asarray(x)
  features = module.feature_shape(x)
  if math.prod(features) != math.prod(_shape(module.num_features)):
    raise ValueError(
      f"{type(module).__name__} was made for num_features="
      f"{module.num_features}, but x of shape {x.shape} has features"
      f" {features} along {module.features}"
      f"={getattr(module, module.features, -1)}."
    )
  parameters = {
    name: _reshaped(getattr(module, name).get_value(), declared.shape)
    for name, declared in module.parameters(features).items()
  }
  return x, parameters


def _promoted(
  module: Any,
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
  self.num_features = num_features
  self.promote_dtype = promote_dtype
  for name, value in options.items():
    setattr(self, name, value)
  features = _shape(num_features)
  if isinstance(self, RunningNorm):
    for name, (init, shape, dtype, _) in self.statistics(
      features, _statistics_dtype(self)
    ).items():
      setattr(self, name, nnx.BatchStat(init(shape, dtype)))
  parameters = self.parameters(features)
  for name, (init, shape, dtype) in parameters.items():
    value = init(rngs.params(), shape, dtype)
    setattr(self, name, nnx.Param(value, **metadata.get(name, {})))
  for name in metadata.keys() - parameters.keys():
    setattr(self, name, nnx.data(None))


def _statistics_dtype(module: Any) -> Any:
  """Returns float32, or what parameters or result have if that is wider."""
  dtype = jnp.float32 if module.dtype is None else module.dtype
  return _wider(jnp.float32, module.param_dtype, dtype)


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
  *positional: str,
) -> Callable[[type[_Module]], type[_Module]]:
  """Completes a module of a description; a class decorator.

  Gives it a constructor with the options of the description, which explains the
  habits of other libraries, and a docstring with that of the description.

  Args:
    *positional: Names of options that can be given by position too.
  """

  def complete(module: type[_Module]) -> type[_Module]:
    description = described(module)
    arguments = signature(description, positional)

    def init(self: nnx.Module, *args: Any, **kwargs: Any) -> None:
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
    module.__init__ = init  # type: ignore[assignment]
    text = documentation(module, description)
    for name in _LINEN_ONLY:  # Its own entry, or its place in a list.
      text = re.sub(rf"\n  {name}: .*(?:\n    .*)*", "", text)
      text = re.sub(rf"\b{name},\s+", "", text)
    module.__doc__ = text.replace("\nAttributes:\n", f"\nArgs:{_ARGUMENTS}", 1)
    return module

  return complete


def module_of(description: type[Norm]) -> type[nnx.Module]:
  """Makes an NNX module of a description."""
  kind = BatchShell if issubclass(description, RunningNorm) else Shell
  module = type(description.__name__, (kind, description), {})
  return shell()(module)
