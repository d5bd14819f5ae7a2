"""Sources of training batches."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from experiments.lab.errors import RefusedError

PyTree = Any


class Source(Protocol):
  """Gives the batch of every step, for one seed.

  A source plans a whole period, such as an epoch, and takes each batch from the
  plan. Both functions are traced and depend only on their arguments, so a
  resumed run sees the same batches.

  Attributes:
    data: Arrays on the device. The engine passes them to `batch`, because
      compiled functions must not hold them as constants.
    size: Number of examples in a batch.
    period: Number of steps in a plan.
  """

  @property
  def size(self) -> int: ...

  @property
  def data(self) -> PyTree: ...

  @property
  def period(self) -> int: ...

  def plan(self, key: jax.Array, number: jax.Array) -> PyTree:
    """Returns the plan of period `number`, counted from 0."""

  def batch(self, plan: PyTree, step: jax.Array, data: PyTree) -> PyTree:
    """Returns the batch of a step, counted from the start of its period."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shuffled:
  """Epochs of shuffled minibatches.

  The remainder of an epoch after its last full batch is dropped.

  Attributes:
    data: Examples; they are the first axis of every array.
    size: Number of examples in a batch.
    ordered: Whether to take the examples in order instead of shuffling them.
  """

  data: PyTree
  size: int
  ordered: bool = False

  def __post_init__(self) -> None:
    if self.period == 0:
      raise RefusedError(
        f"A batch of {self.size} is more than the {self._count} training"
        " examples; choose a smaller batch_size."
      )

  @property
  def _count(self) -> int:
    return len(jax.tree.leaves(self.data)[0])

  @property
  def period(self) -> int:
    return self._count // self.size

  def plan(self, key: jax.Array, number: jax.Array) -> jax.Array:
    """Returns the indices of the examples of each batch, `[period, size]`."""
    order = jnp.arange(self._count)
    if not self.ordered:
      order = jax.random.permutation(jax.random.fold_in(key, number), order)
    return order[: self.period * self.size].reshape(self.period, self.size)

  def batch(self, plan: jax.Array, step: jax.Array, data: PyTree) -> PyTree:
    # Indices even if in order: when several processes hold shares of the data,
    # a slice would gather all of the data.
    return jax.tree.map(lambda array: array[plan[step]], data)


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
  """Batches that are drawn or generated independently at every step.

  Attributes:
    draw: `draw(key, data, size)` returns a batch.
    data: Data to draw from; None if `draw` generates the batch.
    size: Number of examples in a batch.
  """

  draw: Callable[[jax.Array, PyTree, int], PyTree]
  data: PyTree
  size: int
  period: int = 2**31 - 1

  def plan(self, key: jax.Array, number: jax.Array) -> jax.Array:
    del number  # There is only one period.
    return key

  def batch(self, plan: jax.Array, step: jax.Array, data: PyTree) -> PyTree:
    return self.draw(jax.random.fold_in(plan, step), data, self.size)
