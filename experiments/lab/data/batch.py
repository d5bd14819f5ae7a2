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


def with_random_targets(
  examples: Batch, share: float, num_classes: int
) -> Batch:
  """Replaces a share of the targets by random ones, always the same."""
  rng = np.random.default_rng(0)
  targets = np.array(examples.targets)
  chosen = rng.permutation(len(targets))[: round(share * len(targets))]
  targets[chosen] = rng.integers(0, num_classes, len(chosen))
  return examples._replace(targets=jax.numpy.asarray(targets))
