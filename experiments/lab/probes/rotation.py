"""How fast the weights before a norm rotate when their length is stationary."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lab.data.arrays import Images
from experiments.lab.probes import invariance
from experiments.lab.training import lanes
from experiments.lab.training.classification import classifier
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.step import TrainState

MOMENTUM, B1 = 0.9, 0.9

# Learning rate r and weight decay d. The lengths converge with a time constant
# of about 1 / (2 r d) steps, 250 in the slowest cell. Some cells have the same
# product of other factors.
CELLS: Mapping[str, tuple[tuple[float, float], ...]] = {
  "sgd": ((0.1, 0.02), (0.2, 0.01), (0.1, 0.04), (0.2, 0.02), (0.2, 0.04)),
  "momentum": ((0.02, 0.05), (0.02, 0.2), (0.04, 0.1)),
  "adamw": ((1e-3, 2.0), (2e-3, 1.0), (2e-3, 2.0), (4e-3, 1.0)),
}


def optimizer(kind: str) -> Callable[..., optax.GradientTransformation]:
  mask = functools.partial(
    jax.tree_util.tree_map_with_path,
    lambda path, _: invariance.is_invariant(path),
  )

  def make(
    learning_rate: float, weight_decay: float
  ) -> optax.GradientTransformation:
    if kind == "adamw":
      return optax.adamw(
        learning_rate, b1=B1, weight_decay=weight_decay, mask=mask
      )
    return optax.chain(
      optax.add_decayed_weights(weight_decay, mask),
      optax.sgd(learning_rate, MOMENTUM if kind == "momentum" else None),
    )

  return make


def predicted(kind: str, rate: float, decay: float) -> float:
  """Returns the angle per step in equilibrium, in radians.

  Reference: Kosson et al., 2024, https://arxiv.org/abs/2305.17212; the formulas
  were derived again.
  """
  share = {
    "sgd": 1.0,
    "momentum": 1 / (1 + MOMENTUM),
    "adamw": (1 - B1) / (1 + B1),
  }[kind]
  return float(np.sqrt(2 * rate * decay * share))


def watch(
  before: TrainState, after: TrainState, gradients: object
) -> dict[str, jax.Array]:
  """Returns mean length and mean squared angle of the first layer's units."""
  del gradients
  old, new = (state.params["Dense_0"]["kernel"] for state in (before, after))
  lengths = [jnp.linalg.norm(w, axis=0, keepdims=True) for w in (old, new)]
  # The chord, because the arc cosine of a small angle is inaccurate.
  chord = new / lengths[1] - old / lengths[0]
  return {
    "length": lengths[0].mean(),
    "turn": jnp.square(chord).sum(axis=0).mean(),
  }


def train(
  kind: str,
  images: Images,
  *,
  seeds: Sequence[int],
  steps: int,
  batch_size: int,
) -> dict[str, np.ndarray]:
  """Trains every cell.

  Args:
    kind: The optimizer, a key of `CELLS`.
    images: Images of all lanes, or those of the seeds for every cell:
      `pool.split(seeds, len(CELLS[kind]))`.
    seeds: Seeds of the lanes.
    steps, batch_size: Number of steps, and of examples in each.

  Returns:
    "turn" and "length", `[cells, seeds, steps]`; see `watch`.
  """
  rates, decays = zip(*CELLS[kind], strict=True)
  engine = classifier(
    invariance.model(epsilon=1e-5),
    swept(optimizer(kind), "weight_decay"),
    images,
    batch_size=batch_size,
    watch=watch,
  )
  state = engine.init(seeds, learning_rate=rates, weight_decay=decays)
  _, records = engine.train(state, steps)
  return lanes.by_rate(records.watched, len(rates))


def measured(part: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns the RMS angle over the last third of steps, `[cells, seeds]`."""
  turn = part["turn"]
  return np.sqrt(turn[..., -(turn.shape[-1] // 3) :].mean(axis=-1))
