"""Whether a training can fit into memory, estimated before it starts."""

import math
import os
from typing import Any

import jax

from experiments.lab.errors import RefusedError
from experiments.lab.training.step import TrainState

PyTree = Any


def check(state: TrainState, lanes: int = 1) -> None:
  """Raises RefusedError if a training takes more memory than there is.

  Counts what every training must hold: parameters, their gradients, and the
  state of the optimizer.

  Args:
    state: Arrays, or their shapes and dtypes.
    lanes: Number of trainings with such a state.
  """
  needed = lanes * (2 * _size(state.params) + _size(state.opt_state))
  available = memory()
  if needed > available:
    raise RefusedError(
      "The parameters, their gradients and the optimizer take"
      f" {needed / 1e9:,.1f} GB, but there are {available / 1e9:,.1f} GB of"
      " memory; use a smaller net, or fewer seeds."
    )


def memory() -> float:
  """Returns the bytes of memory of a device; infinite if unknown.

  For a CPU it is that of the machine, even if a container has less.
  """
  stats = jax.local_devices()[0].memory_stats()
  if stats:
    return float(stats.get("bytes_limit", math.inf))
  return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _size(tree: PyTree) -> int:
  """Returns the number of bytes of all arrays."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
