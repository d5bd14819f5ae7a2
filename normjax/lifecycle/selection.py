"""Which of a model's batch norms are meant."""

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

Path = tuple[str, ...]
# A pattern of paths, a class of modules, a function of a path, or several.
Which = str | type[Any] | Callable[[Path], bool] | Collection[Any] | None


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


def selects(which: Any, path: Path, module: Any = None) -> bool:
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


def selects_path(which: Any, path: Path) -> bool:
  """Returns whether `which` selects a path; classes select none."""
  if isinstance(which, tuple):
    return any(selects_path(item, path) for item in which)
  return not isinstance(which, type) and selects(which, path)


def selecting_none(which: Any, paths: Collection[Path]) -> Any:
  """Returns the first item of `which` that selects no path; None without one.

  Args:
    which: In canonical form. Paths do not tell what its classes select.
    paths: Of the batch norms.
  """
  if isinstance(which, tuple):
    found = (selecting_none(item, paths) for item in which)
    return next((item for item in found if item is not None), None)
  if which is None or isinstance(which, type):
    return None
  return None if any(selects(which, path) for path in paths) else which


def listed(paths: Iterable[Path]) -> str:
  """Returns the names of batch norms, for a message."""
  return ", ".join(sorted("/".join(path) or "itself" for path in paths))


def nothing_chosen(which: Which, owner: str, paths: Collection[Path]) -> str:
  """Returns the message if none of the batch norms is chosen."""
  found = f"has {listed(paths)}" if paths else "has none"
  return (
    f"{which!r} chooses no batch norm of {owner}, which {found}. Name one of"
    " these, or a module around it."
  )


def check_choice(
  which: Any,
  owner: str,
  paths: Collection[Path],
  *,
  chosen: bool = True,
  advice: str = "",
) -> None:
  """Raises ValueError if `which`, or an item of it, chooses no batch norm.

  Args:
    which: In canonical form.
    owner: What has the norms, for the message.
    paths: Of the batch norms.
    chosen: Whether `which` as a whole chooses any.
    advice: The end of the message.
  """
  wrong = selecting_none(which, paths)
  if not chosen or wrong is not None:
    which = which if wrong is None else wrong
    raise ValueError(nothing_chosen(which, owner, paths) + advice)


def name_of(path: Path) -> str:
  """Returns the name of a module, for a message."""
  return "/".join(path) or "itself"
