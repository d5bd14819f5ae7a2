"""The two tasks: rows of images, and sums of two marked numbers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.lab.data.arrays import Pool
from experiments.lab.data.batch import Batch
from experiments.lab.errors import RefusedError

PyTree = Any

GUESSING = (1 / 6) ** 0.5  # Root mean square error of the mean sum, 1.


def read_by(pool: Pool, pixels: int) -> Pool:
  """Returns a pool whose images are sequences `[n, t, f]` for the model.

  Args:
    pool: Images.
    pixels: Number of pixels that a step sees; 0 means a row.

  Raises:
    RefusedError: The pixels of an image are no multiple of this.
  """
  _, rows, columns, channels = pool.examples.inputs.shape
  features = pixels * channels or columns * channels
  if rows * columns * channels % features:
    raise RefusedError(
      f"--pixels={pixels} does not divide the {rows * columns} pixels of an"
      " image; choose a divisor, or 0 for rows."
    )
  return pool._replace(
    prepare=lambda x: pool.prepare(x).reshape(len(x), -1, features)
  )


class Lengths(NamedTuple):
  """Lengths of sequences: every one from the shortest on is equally likely."""

  shortest: int
  longest: int


def draw_sums(
  key: jax.Array, lengths: Lengths, size: int, steps: int = 0
) -> Batch:
  """Draws sequences of the adding problem.

  A sequence has numbers from 0 to 1, of which one in its first half and one in
  its second half are marked. The target is the sum of these two. The padding
  holds numbers and marks too; only the mask tells it.

  Args:
    key: Key of all that is random.
    lengths: Lengths of the sequences.
    size: Number of sequences, n.
    steps: Number of steps with the padding, t; 0 means the longest length.

  Returns:
    Inputs `[n, t, 2]`, the numbers and their marks; targets `[n]`; the mask
    `[n, t]`.

  Reference: Hochreiter & Schmidhuber, 1997, section 5.4.
  """
  keys = jax.random.split(key, 4)
  shape = size, steps or lengths.longest
  length = jax.random.randint(
    keys[0], (size, 1), lengths.shortest, lengths.longest + 1
  )
  half = length // 2
  first = jax.random.randint(keys[1], (size, 1), 0, half)
  second = jax.random.randint(keys[2], (size, 1), half, length)
  place = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
  mask = place < length
  numbers = jax.random.uniform(keys[3], shape)
  marked = (place == first) | (place == second)
  sums = jnp.sum(numbers, axis=1, where=marked)
  marks = jnp.where(mask, marked, True).astype(jnp.float32)
  return Batch(jnp.stack([numbers, marks], axis=2), sums, mask=mask)


def squared_error(
  model: nn.Module,
  variables: PyTree,
  batch: Batch,
  key: jax.Array,
  train: bool,
) -> tuple[jax.Array, PyTree, dict[str, jax.Array]]:
  """Returns the mean squared error of the answers `[n, 1]`; see `losses`."""
  del key  # Nothing is dropped.
  answers, updates = model.apply(
    variables, batch.inputs, batch.mask, train=train, mutable=["batch_stats"]
  )
  error = jnp.sum(jnp.square(answers[:, 0] - batch.targets))
  count = jnp.float32(len(batch.targets))
  return error / count, updates, {"loss": error, "count": count}
