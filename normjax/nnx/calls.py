"""How tools see the calls of the modules of an NNX model."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

from normjax.lifecycle.selection import (
  Path,
  Which,
  canonical,
  check_choice,
  selects,
)

# What is called instead of a module: intercept(module, call, args, kwargs),
# where call(*args, **kwargs) is the call of the module itself.
Intercept = Callable[..., Any]


def modules(model: nnx.Module) -> Iterator[tuple[Path, nnx.Module]]:
  """Yields all modules of a model with their paths, each once."""
  for path, module in nnx.iter_modules(model):
    yield tuple(map(str, path)), module


def is_batch_norm(module: Any) -> bool:
  """Whether a module is a batch norm of any library.

  It has running statistics and two modes.
  """
  mean = getattr(module, "mean", None)
  return hasattr(module, "use_running_average") and isinstance(
    mean, nnx.BatchStat
  )


def statistics(module: nnx.Module) -> dict[str, nnx.Variable[Any]]:
  """Returns the variables with running statistics of a norm, by name."""
  return {
    name: variable
    for name, variable in vars(module).items()
    if isinstance(variable, nnx.BatchStat)
  }


def value(module: Any, name: str) -> Any:
  """Returns the value of a module's variable, or None if there is none."""
  variable = getattr(module, name, None)
  return variable.get_value() if isinstance(variable, nnx.Variable) else None


def batch_norms(
  model: nnx.Module, which: Which = None, *, missing_ok: bool = False
) -> dict[Path, nnx.Module]:
  """Returns the batch norms of a model that `which` selects, by their paths.

  Raises:
    TypeError: `which` is of another type.
    ValueError: it, or an item of it, selects none, unless this is meant.
  """
  if not isinstance(model, nnx.Module):
    raise TypeError(
      f"model must be an nnx.Module, got {type(model).__name__}. The tools of"
      " normjax.nnx get the model first; those of normjax.linen do not."
    )
  if isinstance(which, nnx.Module):
    raise TypeError(
      "Batch norms are chosen by a pattern of their path, a class or a"
      f" function, got a module, {type(which).__name__}. Give it in place of"
      " the model, as in frozen(model.encoder)."
    )
  chosen = canonical(which)
  norms = {
    path: module for path, module in modules(model) if is_batch_norm(module)
  }
  found = {
    path: module
    for path, module in norms.items()
    if selects(chosen, path, module)
  }
  if norms and not missing_ok:
    check_choice(chosen, type(model).__name__, [*norms], chosen=bool(found))
  return found


def intercepted(module: nnx.Module, intercept: Intercept) -> type[nnx.Module]:
  """Lets a function see the calls of a module; returns the class of before.

  The module gets a subclass of its class, so what `nnx.jit` has compiled is
  traced anew: the class is a part of the structure of the model.
  """
  before = type(module)
  object.__setattr__(module, "__class__", _intercepting(before, intercept))
  return before


def restore(module: nnx.Module, before: type[nnx.Module]) -> None:
  """Undoes `intercepted`."""
  object.__setattr__(module, "__class__", before)


def restore_all(model: nnx.Module) -> None:
  """Undoes `intercepted` in a copy of a model, made where calls are seen."""
  for _, module in modules(model):
    while _INTERCEPT in vars(type(module)):
      restore(module, type(module).__mro__[1])


def _intercepting(
  cls: type[nnx.Module], intercept: Intercept
) -> type[nnx.Module]:
  """Returns a subclass, always the same one for a function of a module.

  So what is compiled for it is found again. A partial may hold a model, which
  must not be kept.
  """
  if isinstance(intercept, functools.partial):
    return _subclass(cls, intercept)
  return _kept_subclass(cls, intercept)


def _subclass(cls: type[nnx.Module], intercept: Intercept) -> type[nnx.Module]:
  def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
    call = functools.partial(cls.__call__, self)
    return intercept(self, call, args, kwargs)

  contents = {
    "__call__": __call__,
    "__module__": cls.__module__,
    _INTERCEPT: staticmethod(intercept),
  }
  return type(cls.__name__, (cls,), contents)


_kept_subclass = functools.cache(_subclass)


# What a class made here intercepts calls with.
_INTERCEPT = "_intercept"


def intercepts(module: nnx.Module, intercept: Intercept) -> bool:
  """Whether a function sees the calls of a module."""
  return any(
    getattr(cls, _INTERCEPT, None) is intercept for cls in type(module).__mro__
  )


def arguments(
  call: Callable[..., Any], args: Any, kwargs: Any
) -> inspect.BoundArguments:
  """Returns the arguments of an intercepted call by name."""
  return inspect.signature(call).bind(*args, **kwargs)


def called_in_mode(
  module: Any,
  use_running_average: bool,
  call: Callable[..., Any],
  args: Any,
  kwargs: Any,
) -> Any:
  """Calls a batch norm in a mode, whatever the attribute and the call say."""
  mode = "use_running_average"
  given = arguments(call, args, kwargs)
  if mode in given.signature.parameters:
    given.arguments[mode] = use_running_average
    return call(*given.args, **given.kwargs)
  # The call of a subclass does not take the mode: its attribute decides.
  before = getattr(module, mode)
  setattr(module, mode, use_running_average)
  try:
    return call(*args, **kwargs)
  finally:
    setattr(module, mode, before)
