"""The batch norms of Linen models, and in which mode they run."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flax import linen as nn
from flax.linen.module import InterceptorContext

from normjax.lifecycle.selection import (
  Path,
  Which,
  canonical,
  check_choice,
  selects,
)


def is_batch_norm(context: InterceptorContext) -> bool:
  """Whether a batch norm of any library is called, and not initialized.

  It has running statistics and two modes. A module around a batch norm may have
  a field of that name too.
  """
  return (
    context.method_name == "__call__"
    and hasattr(context.module, "use_running_average")
    and context.module.has_variable("batch_stats", "mean")
  )


def norm_paths(stats: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
  """Yields the paths of everything in `batch_stats` that has a `mean`."""
  if "mean" in stats:
    yield path
  for name, value in stats.items():
    if isinstance(value, Mapping):
      yield from norm_paths(value, (*path, name))


def chosen_paths(stats: Mapping[str, Any], which: Which) -> set[Path]:
  """Returns the paths of the norms in `batch_stats` that `which` selects.

  Raises:
    TypeError: `which` is a class, or of another type.
    ValueError: it, or an item of it, selects none.
  """
  paths = [*norm_paths(stats)]
  which = canonical(which)
  chosen = {path for path in paths if selects(which, path)}
  check_choice(which, "these variables", paths, chosen=bool(chosen))
  return chosen


def arguments(
  context: InterceptorContext, args: Any, kwargs: Any
) -> inspect.BoundArguments:
  """Returns the arguments of an intercepted call by name."""
  return inspect.signature(context.orig_method).bind(*args, **kwargs)


def called_in_mode(
  use_running_average: bool,
  next_fun: Callable[..., Any],
  args: Any,
  kwargs: Any,
  context: InterceptorContext,
) -> Any:
  """Calls a batch norm in a mode, whatever the field and the call say."""
  mode = "use_running_average"
  given = arguments(context, args, kwargs)
  if given.arguments.get(mode) is not None:
    given.arguments[mode] = use_running_average
    return next_fun(*given.args, **given.kwargs)
  with field_set(context.module, mode, use_running_average):
    return next_fun(*args, **kwargs)


@contextlib.contextmanager
def field_set(module: nn.Module, name: str, value: Any) -> Iterator[None]:
  """Sets a field of a module for the time of a call."""
  before = getattr(module, name)
  # A module of a running model is a copy of the user's; it refuses `setattr`.
  object.__setattr__(module, name, value)
  try:
    yield
  finally:
    object.__setattr__(module, name, before)
