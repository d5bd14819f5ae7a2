"""Constructors and docstrings that modules of all front ends have alike."""

import inspect
from collections.abc import Collection, Mapping
from numbers import Integral
from typing import Any

from normjax.functional.keywords import check_keywords


def check_arguments(
  module: str,
  accepted: Collection[str],
  first: inspect.Parameter,
  args: tuple[Any, ...],
  kwargs: Mapping[str, Any],
) -> None:
  """Raises TypeError if arguments are those of another library.

  Args:
    module: The name of the class.
    accepted: The names of its arguments.
    first: The first of them. It may be neither a size, as in PyTorch, nor `x`:
      that would become an epsilon, for example.
    args, kwargs: What the constructor got.
  """
  check_keywords(module, kwargs, accepted)
  if args:
    _check_first(module, first, args[0])


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


def documentation(module: type, description: type) -> str:
  """Returns the docstring of a module: its own and its description's.

  The first line of the description tells what the norm is, then the module's
  own text what is special to its front end. Its example comes last.
  """
  own, mark, example = inspect.cleandoc(
    vars(module).get("__doc__") or ""
  ).partition("\n\nExample:")
  first, _, rest = inspect.cleandoc(description.__doc__ or "").partition("\n\n")
  return "\n\n".join(filter(None, (first, own, rest))) + f"{mark}{example}\n"
