"""Running statistics that are kept many times: for domains, for time steps.

They are stacked along a new first axis. A call uses and updates one row.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from normjax.functional.arguments import as_array
from normjax.functional.running import Stats

# Statistics or parameters, whose first axis is that of the rows.
_Rows = TypeVar("_Rows")


def check_index(name: str, given: Mapping[str, Any]) -> None:
  """Raises unless an argument is one integer of at least zero.

  Args:
    name: The argument. The value of a traced one is not checked.
    given: The arguments of the call.
  """
  index = as_array(name, given.get(name))
  if not hasattr(index, "dtype"):
    index = np.asarray(index)
  if index.ndim or not jnp.issubdtype(index.dtype, jnp.integer):
    raise TypeError(
      f"{name} must be one integer, got"
      f" {index.dtype}{list(index.shape)}. It chooses the running statistics of"
      " the whole call, and may be traced."
    )
  if not isinstance(index, jax.core.Tracer) and np.asarray(index) < 0:
    raise ValueError(f"{name} must not be negative, got {index}.")


def checked_rows(
  function: str, rows: str, stats: Stats | None, features: int
) -> Stats:
  """Returns statistics if they have rows.

  Args:
    function: The name of the norm, for the message.
    rows: What the rows are, for the message.
    stats: The statistics.
    features: Number of feature axes of the norm.

  Raises:
    ValueError: there are none, or they have no rows or different numbers.
  """
  if stats is None:
    raise ValueError(
      f"{function} needs running statistics, got stats=None. Start with"
      f" normjax.BatchStats(jnp.zeros(({rows}, channels)), jnp.ones(({rows},"
      " channels)))."
    )
  shapes = {name: np.shape(value) for name, value in stats._asdict().items()}
  numbers = {shape[:1] for shape in shapes.values()}
  without = len(shapes["mean"]) <= features
  if without or numbers & {(), (0,)} or len(numbers) > 1:
    raise ValueError(
      f"{function} needs statistics of shape [{rows}, channels], got"
      f" {shapes}. Stack those of all {rows} along a new first axis."
    )
  return stats


def row(rows: _Rows, index: int | jax.Array) -> _Rows:
  """Returns one row of every array; past the end, the last one."""
  return jax.tree.map(
    lambda array: lax.dynamic_index_in_dim(array, index, keepdims=False), rows
  )


def with_row(stats: _Rows, index: int | jax.Array, new: _Rows) -> _Rows:
  """Returns statistics in which one row, chosen alike, is replaced."""
  return jax.tree.map(
    lambda rows, row: lax.dynamic_update_index_in_dim(rows, row, index, 0),
    stats,
    new,
  )
