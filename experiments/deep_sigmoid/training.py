"""Training of deep nets of sigmoids, with probes in between."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.lab import options, parsers
from experiments.lab.data.arrays import Images
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.probes import signals
from experiments.lab.statistics import best_rate
from experiments.lab.study import Parts
from experiments.lab.training import classification
from experiments.lab.training.hyperparams import swept

RATES: Mapping[str, tuple[float, ...]] = {"sgd": (0.1, 1), "adam": (1e-3, 3e-3)}
OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
  "sgd": optax.sgd,
  "adam": optax.adam,
}
PROBE = 500  # Number of images for the percentiles of activations.


@dataclasses.dataclass(frozen=True)
class Config(options.HalvedImageConfig):
  """The arms."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "ln"),
    "Norms to compare; the first must be none.",
    parsers.NORMS_AFTER_NONE,
  )
  depths: tuple[int, ...] = option(
    (3, 8), "Numbers of hidden layers.", parsers.COUNTS
  )
  steps: int = option(1000, "Training steps.", parsers.COUNT)
  signal_depth: int = option(
    20,
    "Number of hidden layers of the nets that are measured before training.",
    parsers.COUNT,
  )
  probes: int = option(20, "Number of probes during training.", parsers.COUNT)


def train(
  norm: str, depth: int, optimizer: str, config: Config, images: Images
) -> Parts:
  """Returns error, loss and percentiles over time, `[rates, seeds, probes]`."""
  model = MLP(
    norm=norm_factory(norm), hidden=(100,) * depth, activation=nn.sigmoid
  )
  engine = classification.classifier(
    model, swept(OPTIMIZERS[optimizer]), images, batch_size=60
  )
  rates = RATES[optimizer]
  state = engine.init(config.seed_numbers, learning_rate=rates)
  inputs = images.prepare(images.test.inputs[:PROBE])

  def percentiles(variables: Any) -> jax.Array:
    last = signals.activation_inputs(model, variables, inputs, train=False)[-1]
    return jnp.percentile(last, jnp.array([15.0, 50.0, 85.0]), axis=0)

  look = engine.compiled(percentiles, in_axes=(0,))
  errors, losses, spreads = [], [], []
  for _ in range(config.probes):
    state, records = engine.train(state, config.steps // config.probes)
    losses.append(records.loss.mean(axis=1))
    errors.append(classification.error(engine, state.variables, images.test))
    spreads.append(look(state.variables))
  shape = len(rates), config.seeds
  again = classification.reestimated(engine, state, images.train)
  again = classification.error(engine, again, images.test)
  return {
    "error": np.stack(errors, axis=-1).reshape(*shape, -1),
    "loss": np.stack(losses, axis=-1).reshape(*shape, -1),
    # [rates, seeds, probes, 3, units]
    "inputs": np.stack(spreads, axis=1).reshape(*shape, len(spreads), 3, -1),
    "reestimated": again.reshape(shape),
  }


def best(part: Parts, at: int = -1) -> int:
  """Returns the index of the rate with the lowest mean loss at a probe."""
  return best_rate(part["loss"][..., at])


def drift(inputs: np.ndarray) -> np.ndarray:
  """Returns the change of medians between probes over the spread, `[seeds]`.

  Args:
    inputs: The percentiles, `[seeds, probes, 3, units]`.
  """
  low, median, high = np.moveaxis(inputs, 2, 0)
  moved = np.abs(np.diff(median, axis=1)).mean(axis=1)
  return (moved / (high - low).mean(axis=1)).mean(axis=-1)
