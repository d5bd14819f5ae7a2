"""Points in the plane, in two classes that are not linearly separable."""

import jax.numpy as jnp
import numpy as np

from experiments.lab.data.batch import Batch

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


def grid(around: Batch, side: int) -> np.ndarray:
  """Returns a grid of points `[side * side, 2]` that covers `around`."""
  inputs = np.asarray(around.inputs)
  low, high = inputs.min(axis=0) - 0.3, inputs.max(axis=0) + 0.3
  axes = [np.linspace(low[i], high[i], side, dtype="f") for i in range(2)]
  return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
