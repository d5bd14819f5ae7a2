"""Which of a model's batch norms are meant, and in which mode they run."""

import fnmatch
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from flax import linen as nn
from flax.linen.module import InterceptorContext

Path = tuple[str, ...]
# A pattern of paths, a class of modules, a function of a path, or several.
Which = str | type[nn.Module] | Callable[[Path], bool] | Collection[Any] | None


def is_batch_norm(module: nn.Module) -> bool:
  """Whether a module has the two modes of batch norm, of any library."""
  return hasattr(module, "use_running_average")


def canonical(which: Which) -> Any:
  """Returns `which` in hashable form.

  Raises:
    TypeError: it is of another type.
  """
  if which is None or isinstance(which, str) or callable(which):
    return which
  if isinstance(which, Collection) and not isinstance(which, Mapping):
    return tuple(canonical(item) for item in which)
  raise TypeError(
    "Batch norms are chosen by a pattern of their path such as 'encoder/*', a"
    " class of modules, a function of the path, or several of these; got"
    f" {which!r:.60}."
  )


def selects(which: Any, path: Path, module: nn.Module | None = None) -> bool:
  """Returns whether `which`, in canonical form, selects a batch norm.

  Args:
    which: None selects all.
    path: Where the norm is in the model.
    module: The norm; None if only its variables are known.

  Raises:
    TypeError: `which` is a class, but the module is not known.
  """
  if which is None:
    return True
  if isinstance(which, tuple):
    return any(selects(item, path, module) for item in which)
  if isinstance(which, str):
    ends = range(1, len(path) + 1) if path else [0]
    return any(fnmatch.fnmatchcase("/".join(path[:end]), which) for end in ends)
  if not isinstance(which, type):
    return bool(which(path))
  if module is None:
    raise TypeError(
      f"Variables do not tell of which class a norm is, got {which.__name__}."
      " Choose norms by their paths, such as 'encoder/*'."
    )
  return isinstance(module, which)


def norm_paths(
  batch_stats: Mapping[str, Any], path: Path = ()
) -> Iterator[Path]:
  """Yields the paths of everything that keeps a running `mean`."""
  if "mean" in batch_stats:
    yield path
  for name, value in batch_stats.items():
    if isinstance(value, Mapping):
      yield from norm_paths(value, (*path, name))


def listed(paths: Collection[Path]) -> str:
  """Returns the names of batch norms, for a message."""
  return ", ".join(sorted({"/".join(path) or "itself" for path in paths}))


def called_in_mode(
  use_running_average: bool,
  next_fun: Callable[..., Any],
  args: tuple[Any, ...],
  kwargs: dict[str, Any],
  context: InterceptorContext,
) -> Any:
  """Calls a batch norm in a mode, whatever the field and the call say."""
  bound = inspect.signature(context.orig_method).bind(*args, **kwargs)
  if bound.arguments.get("use_running_average") is not None:
    bound.arguments["use_running_average"] = use_running_average
    return next_fun(*bound.args, **bound.kwargs)
  module: Any = context.module
  given = module.use_running_average
  # A module of a running model is a copy of the user's; it refuses `setattr`.
  object.__setattr__(module, "use_running_average", use_running_average)
  try:
    return next_fun(*args, **kwargs)
  finally:
    object.__setattr__(module, "use_running_average", given)
