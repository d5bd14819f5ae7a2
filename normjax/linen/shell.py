"""Flax Linen modules of descriptions: parameters, statistics and modes."""

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from jax.typing import ArrayLike

from normjax.descriptions.constructors import check_arguments, documentation
from normjax.descriptions.norm import Norm, RunningNorm, is_description
from normjax.descriptions.parameters import boolean, widened
from normjax.functional.arguments import AxisName, option

_Module = TypeVar("_Module", bound=nn.Module)
# The modules of descriptions, which `shell` completes.
_MODULES: dict[type[Norm], type[nn.Module]] = {}


class Shell(nn.Module):
  """A module of a description of a norm without state.

  Modules inherit from a shell and from a description.
  """

  @nn.compact
  def __call__(
    self: Any, x: ArrayLike, *, mask: ArrayLike | None = None
  ) -> jax.Array:
    """Normalizes `x`.

    Args:
      x: Array of the shape that the function of the norm takes.
      mask: Broadcasts to `x`; True counts.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.
    """
    x = jnp.asarray(x)
    parameters = _parameters(self, x)
    dtype = self.result_dtype(x, parameters)
    y = self.normalize(
      widened(x, dtype),
      parameters,
      mask=boolean(mask),
      axis_name=mapped_axis(self),
    )
    return y.astype(dtype)


class RunningShell(nn.Module):
  """What modules of norms with running statistics have in common.

  The statistics are in the collection `batch_stats`. Training updates it, so it
  must be mutable.
  """

  def _normalized(
    self: Any,
    x: ArrayLike,
    use_running_average: bool | None,
    mask: ArrayLike | None,
    **arguments: Any,
  ) -> jax.Array:
    """Normalizes `x`; in training, updates the running statistics.

    Args:
      x, use_running_average, mask: Of the call.
      **arguments: What else the description takes, such as `domain`.
    """
    x = jnp.asarray(x)
    parameters = _parameters(self, x)
    features = self.feature_shape(x)
    evaluates = _evaluates(
      self, use_running_average, x.size, math.prod(features)
    )
    dtype = self.result_dtype(x, parameters)
    x = widened(x, dtype)
    kept = {
      name: self.variable("batch_stats", name, init, shape, dtype)
      for name, (init, shape, dtype, training_only) in self.statistics(
        features, x.dtype
      ).items()
      if not (training_only and evaluates)
      or self.is_initializing()
      or self.has_variable("batch_stats", name)
    }
    y, updates = self.normalize_running(
      x,
      parameters,
      {name: variable.value for name, variable in kept.items()},
      use_running_average=evaluates,
      mask=boolean(mask),
      axis_name=mapped_axis(self),
      **arguments,
    )
    if not evaluates and not self.is_initializing():
      _assign(kept, updates)
    return y.astype(dtype)


class BatchShell(RunningShell):
  """A module of a description of a norm with running statistics."""

  @nn.compact
  def __call__(
    self,
    x: ArrayLike,
    use_running_average: bool | None = None,
    *,
    mask: ArrayLike | None = None,
  ) -> jax.Array:
    """Normalizes `x`; in training, updates the running statistics.

    Initializing does not update them. It accepts any `x`, also one example.

    Args:
      x: Array `[batch, ..., channels]`, or with the channels elsewhere.
      use_running_average: Give either this or the field of the same name.
      mask: Broadcasts to `x`; True counts. Masked places come out as `bias`,
        also in evaluation, where Flax normalizes them.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.

    Raises:
      ValueError: training with one value per channel.
      ModifyScopeVariableError: training while `batch_stats` is not mutable.
    """
    return self._normalized(x, use_running_average, mask)


def _parameters(module: Any, x: jax.Array) -> dict[str, jax.Array]:
  """Declares the parameters; returns their values."""
  declared = module.parameters(module.feature_shape(x))
  return {
    name: module.param(name, *parameter) for name, parameter in declared.items()
  }


def mapped_axis(module: nn.Module) -> AxisName | None:
  """Returns the axis name, or None while initializing.

  Models are initialized outside of the mapping that binds the name.
  """
  # Norms of others, which `reestimate` knows too, may lack the field.
  name: AxisName | None = getattr(module, "axis_name", None)
  return None if module.is_initializing() else name


def _evaluates(
  module: Any, use_running_average: bool | None, size: int, channels: int
) -> bool:
  """Returns whether running statistics are used, by the field or the call.

  Args:
    module: A norm with running statistics.
    use_running_average: The argument of the call.
    size, channels: Numbers of values and of channels of its input.
  """
  mode = nn.merge_param(
    "use_running_average", module.use_running_average, use_running_average
  )
  if module.is_initializing() and size == channels:
    return True  # One value per channel is enough to initialize.
  return option("use_running_average", mode)


def _assign(
  variables: Mapping[str, nn.Variable], values: Mapping[str, Any]
) -> None:
  """Puts new running statistics into the variables of the same names.

  Raises:
    ModifyScopeVariableError: `batch_stats` is not mutable.
  """
  try:
    for name, value in values.items():
      variables[name].value = value
  except errors.ModifyScopeVariableError as error:
    error.add_note(
      "Training updates the running statistics. Make them mutable:\n"
      "  y, updates = model.apply(variables, x, mutable=['batch_stats'])\n"
      "  variables = {**variables, **updates}\n"
      "or evaluate with use_running_average=True."
    )
    raise


def shell(module: type[_Module]) -> type[_Module]:
  """Completes a module of a description; a class decorator.

  Its constructor explains the habits of other libraries. It is wrapped, because
  Flax generates it: a module cannot define its own. Subclasses get another one,
  without these checks. Its docstring has that of the description inside.
  """
  init = module.__init__
  fields = inspect.signature(module).parameters
  first = next(iter(fields.values()))

  @functools.wraps(init)
  def checked(self: nn.Module, *args: Any, **kwargs: Any) -> None:
    check_arguments(module.__name__, fields, first, args, kwargs)
    init(self, *args, **kwargs)

  module.__init__ = checked  # type: ignore[method-assign]
  description = described(module)
  module.__doc__ = documentation(module, description)
  _MODULES.setdefault(description, module)
  return module


def described(module: type) -> type[Norm]:
  """Returns the description of a module: its first base that is only that."""
  return next(filter(is_description, module.__mro__))


def module_of(description: type[Norm]) -> type[nn.Module]:
  """Returns the Linen module of a description; makes one if there is none."""
  if description not in _MODULES:
    kind = BatchShell if issubclass(description, RunningNorm) else Shell
    shell(type(description.__name__, (kind, description), {}))
  return _MODULES[description]
