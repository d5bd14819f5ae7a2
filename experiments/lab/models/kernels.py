"""Changes to the kernels of a model, found by name."""

from collections.abc import Callable
from typing import Any

import jax

PyTree = Any
Path = tuple[Any, ...]


def is_kernel(path: Path) -> bool:
  """Returns whether a parameter is a kernel, given its path in the tree."""
  return path[-1].key == "kernel"


def scaled(
  params: PyTree,
  factor: jax.typing.ArrayLike,
  chosen: Callable[[Path], bool] = is_kernel,
) -> PyTree:
  """Returns the parameters, with the chosen ones multiplied by a factor."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * factor if chosen(path) else leaf, params
  )
