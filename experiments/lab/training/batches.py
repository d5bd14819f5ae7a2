"""Sources of training batches."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from experiments.lab.data.batch import Choice, parts
from experiments.lab.errors import RefusedError

PyTree = Any


class Source(Protocol):
  """Gives the batch of every step, for one lane.

  A source plans a whole period, such as an epoch, and takes each batch from the
  plan. Both functions are traced and depend only on their arguments, so a
  resumed run sees the same batches.

  Attributes:
    data: Arrays on the device, which the lanes share. The engine passes them to
      `batch`, because compiled functions must not hold them as constants.
    own: Arrays with a leading axis of lanes: what each lane has of its own. The
      engine passes those of a lane to `plan`. None if there is no such thing.
    size: Number of examples in a batch.
    period: Number of steps in a plan.
  """

  @property
  def size(self) -> int: ...

  @property
  def data(self) -> PyTree: ...

  @property
  def own(self) -> PyTree: ...

  @property
  def period(self) -> int: ...

  def plan(
    self, key: jax.Array, number: jax.Array, own: PyTree = None
  ) -> PyTree:
    """Returns the plan of period `number`, counted from 0."""

  def batch(self, plan: PyTree, step: jax.Array, data: PyTree) -> PyTree:
    """Returns the batch of a step, counted from the start of its period."""


def kind(source: Source) -> Hashable:
  """Returns what decides on the programs of a source: all but its numbers.

  >>> kind(Shuffled(jnp.zeros(8), 2)) == kind(Shuffled(jnp.ones(8), 2))
  True
  >>> kind(Shuffled(jnp.zeros(8), 2)) == kind(Shuffled(jnp.zeros(9), 2))
  False
  """
  leaves, tree = jax.tree.flatten(vars(source))
  static = (
    (leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf
    for leaf in leaves
  )
  return type(source), tree, tuple(static)


@dataclasses.dataclass(frozen=True, eq=False)
class Shuffled:
  """Epochs of shuffled minibatches.

  The remainder of an epoch after its last full batch is dropped.

  Attributes:
    data: Examples that all lanes share, the first axis of every array; or
      `Members`, whose lanes are those of the state.
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
  def own(self) -> Choice | None:
    return parts(self.data)[1]

  @property
  def _count(self) -> int:
    if self.own is not None:
      return self.own.indices.shape[1]
    return len(jax.tree.leaves(self.data)[0])

  @property
  def period(self) -> int:
    return self._count // self.size

  def plan(
    self, key: jax.Array, number: jax.Array, own: Choice | None = None
  ) -> Choice:
    """Returns the examples of each batch, `[period, size]`."""
    order = jnp.arange(self._count)
    if not self.ordered:
      order = jax.random.permutation(jax.random.fold_in(key, number), order)
    order = order[: self.period * self.size].reshape(self.period, self.size)
    return Choice(order) if own is None else own.some(order)

  def batch(self, plan: Choice, step: jax.Array, data: PyTree) -> PyTree:
    # Indices even if in order: when several processes hold shares of the data,
    # a slice would gather all of the data.
    return plan.some(step).of(parts(data)[0])


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
  own: None = None

  def plan(
    self, key: jax.Array, number: jax.Array, own: None = None
  ) -> jax.Array:
    del number, own  # There is only one period, the same for all lanes.
    return key

  def batch(self, plan: jax.Array, step: jax.Array, data: PyTree) -> PyTree:
    return self.draw(jax.random.fold_in(plan, step), data, self.size)
