"""Points in the plane, in two classes that are not linearly separable."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from experiments.lab.data.arrays import Images, Sizes
from experiments.lab.data.batch import Batch, Members

KINDS = ("moons", "spirals")


def draw(kind: str, count: int, seed: int) -> Batch:
  """Returns points `[count, 2]` and their classes.

  Args:
    kind: "moons", scikit-learn's two half circles with noise of 0.2, or
      "spirals", two arms of one and a half turns each.
    count: Number of points.
    seed: Seed of the random numbers.
  """
  if kind == "moons":
    from sklearn import datasets  # Slow to import.

    x, y = datasets.make_moons(count, noise=0.2, random_state=seed)
  else:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    turn = np.sqrt(rng.uniform(0.05, 1, count))  # Uniform along the arm.
    angle = 3 * np.pi * turn + np.pi * y
    x = 2 * turn[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x += rng.normal(0, 0.08, x.shape)
  return Batch(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))


def split(
  kind: str, sizes: Sizes, seeds: Sequence[int], rates: int = 1
) -> Images[Members]:
  """Draws points for training, validation and test for every seed.

  Args:
    kind: As in `draw`.
    sizes: Number of points of each set.
    seeds: Seeds, not negative.
    rates: Number of learning rates. The lanes of one rate are adjacent, seeds
      in order, as in `Engine.init`.
  """
  count = sum(sizes)
  drawn = [draw(kind, count, seed) for seed in seeds]
  pool = Batch(
    jnp.concatenate([points.inputs for points in drawn]),
    jnp.concatenate([points.targets for points in drawn]),
  )
  own = np.arange(len(seeds) * count).reshape(len(seeds), count)
  train, validation, test = (
    Members(pool, jnp.asarray(chosen))
    for chosen in np.split(
      np.tile(own, (rates, 1)).astype(np.int32), np.cumsum(sizes)[:-1], axis=1
    )
  )
  return Images(kind, train, test, 2, lambda x: x, validation)


def grid(around: Batch, side: int) -> np.ndarray:
  """Returns a grid of points `[side * side, 2]` that covers `around`."""
  inputs = np.asarray(around.inputs)
  low, high = inputs.min(axis=0) - 0.3, inputs.max(axis=0) + 0.3
  axes = [np.linspace(low[i], high[i], side, dtype="f") for i in range(2)]
  return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
