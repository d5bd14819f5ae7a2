"""Constructors that explain the habits of other libraries."""

import functools
import inspect
from numbers import Integral
from typing import Any, TypeVar

from flax import linen as nn

from normjax.functional.keywords import check_keywords

_Module = TypeVar("_Module", bound=nn.Module)


def explained(module: type[_Module]) -> type[_Module]:
  """Adds checks to the constructor of a module; a class decorator.

  Unknown fields raise with their names here. The first argument may be neither
  a size, as in PyTorch, nor `x`: it would become an epsilon, for example.

  The constructor is wrapped, because Flax generates it: a module cannot define
  its own. Subclasses get another one, without these checks.
  """
  init = module.__init__
  fields = inspect.signature(module).parameters
  first = next(iter(fields.values()))

  @functools.wraps(init)
  def checked(self: nn.Module, *args: Any, **kwargs: Any) -> None:
    check_keywords(module.__name__, kwargs, fields)
    if args:
      _check_first(module.__name__, first, args[0])
    init(self, *args, **kwargs)

  module.__init__ = checked  # type: ignore[method-assign]
  return module


def _check_first(module: str, field: inspect.Parameter, value: Any) -> None:
  """Raises TypeError if the first argument is a size or `x`."""
  got = f"as the first argument of {module}, which is {field.name!r}"
  if getattr(value, "ndim", 0):
    raise TypeError(
      f"Got an array {got}. Create the module, then call it: {module}()(x)."
    )
  # If the default is an integer, as of num_groups, an integer is meant.
  if _is_size(value) and not isinstance(field.default, int):
    raise TypeError(
      f"Got {value!r} {got}. Sizes are taken from x: leave it out, and give"
      " options by name."
    )


def _is_size(value: Any) -> bool:
  """Whether it is a number of channels, or the shape of an example."""
  if isinstance(value, list | tuple):
    return all(map(_is_size, value))
  return isinstance(value, Integral) and not isinstance(value, bool)
