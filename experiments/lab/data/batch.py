"""Training data of any kind: inputs and targets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
# Converts stored inputs to the model's inputs.
Prepare = Callable[[Any], Any]


class Batch(NamedTuple):
  """A batch or a whole data set; the first axis of every array is examples.

  Attributes:
    inputs: Inputs of the model: images `[n, ...]`, tokens `[n, t]`, features
      `[n, t, f]`.
    targets: Integers, one for each example `[n]` or for each position `[n, t]`.
    counted: Which targets count in the loss, booleans shaped like the targets;
      None means all.
    mask: `[n, t]`, False where a sequence is padded; None without padding.
  """

  inputs: Array
  targets: Array
  counted: Array | None = None
  mask: Array | None = None

  @property
  def num_examples(self) -> int:
    return len(self.targets)

  @property
  def total(self) -> int:
    """Number of targets that count."""
    if self.counted is None:
      return int(np.prod(self.targets.shape))
    return int(np.asarray(self.counted).sum())

  def first(self, count: int) -> "Batch":
    """Returns the first `count` examples."""
    return self.some(slice(count))

  def some(self, chosen: Any) -> "Batch":
    """Returns the examples at an index, a slice or an array of indices."""
    return jax.tree.map(lambda array: array[chosen], self)


class Choice(NamedTuple):
  """Some examples of a pool; leading axes may be lanes or batches.

  Attributes:
    indices: Indices into the pool, `[..., n]`.
    targets: Targets that replace those of the pool, shaped like `indices`; None
      means those of the pool.
  """

  indices: Array
  targets: Array | None = None

  def some(self, chosen: Any) -> "Choice":
    """Returns a part of the choice, by an index of the first axis."""
    return jax.tree.map(lambda array: array[chosen], self)

  def of(self, pool: Any) -> Any:
    """Returns the chosen examples of a pool, `[..., n, ...]`.

    Args:
      pool: A `Batch`; without other targets, any tree of arrays whose first
        axis is examples.
    """
    found = jax.tree.map(lambda array: array[self.indices], pool)
    if self.targets is None:
      return found
    return found._replace(targets=self.targets)


class Members(NamedTuple):
  """The examples of every lane, drawn from one pool.

  Attributes:
    pool: All examples, which the lanes share.
    chosen: int32 `[lanes, n]`, the indices of each lane's examples.
    targets: `[lanes, n]`, which replace the targets of the pool; None means
      those of the pool.
  """

  pool: Batch
  chosen: Array
  targets: Array | None = None

  @property
  def num_examples(self) -> int:
    """Number of examples of a lane."""
    return self.chosen.shape[1]

  @property
  def total(self) -> np.ndarray:
    """Number of targets of each lane that count, `[lanes]`."""
    counted = self.pool.counted
    if counted is None:
      counted = np.ones(self.pool.targets.shape, bool)
    chosen = np.asarray(counted)[np.asarray(self.chosen)]
    return chosen.reshape(len(chosen), -1).sum(axis=1)

  def first(self, count: int) -> "Members":
    """Returns the first `count` examples of each lane."""
    return self.some(slice(count))

  @property
  def choice(self) -> Choice:
    """What each lane has of its own, with a leading axis of lanes."""
    return Choice(self.chosen, self.targets)

  def some(self, chosen: Any) -> "Members":
    """Returns the examples of each lane at a slice or an array of indices."""
    own = self.choice.some((slice(None), chosen))
    return Members(self.pool, *own)

  def lane(self, number: int) -> Batch:
    """Returns the examples of one lane."""
    return self.choice.some(number).of(self.pool)


Examples = Batch | Members


def parts(examples: Any) -> tuple[Any, Choice | None]:
  """Returns what all lanes share, and what each lane has of its own.

  Args:
    examples: `Members`, or examples that all lanes share: a `Batch` or any
      other tree of arrays.

  Returns:
    The pool and the choice of each lane, with a leading axis of lanes; without
    `Members`, the examples and None.
  """
  if isinstance(examples, Members):
    return examples.pool, examples.choice
  return examples, None
