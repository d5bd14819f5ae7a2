"""Training of deep nets of sigmoids, with probes in between."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.lab import options, parsers, tuning
from experiments.lab.data.arrays import Pool
from experiments.lab.data.batch import Batch, Choice
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.probes import signals
from experiments.lab.study import Parts
from experiments.lab.training import classification, lanes
from experiments.lab.training.optimizers import OPTIMIZERS

# Half decades: 0.03 to 3, and 0.0003 to 0.03.
RATES: Mapping[str, Sequence[float]] = {
  "sgd": tuning.half_decades(-3, 1),
  "adam": tuning.half_decades(-7, -3),
}
GAIN = 4  # Advised for sigmoids, whose slope at 0 is a quarter.
PROBE = 500  # Number of images for the percentiles of activations.


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The arms."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "ln"),
    "Norms to compare; the first must be none. It and bn are also trained with"
    f" {GAIN} times the initial kernels.",
    parsers.NORMS_AFTER_NONE,
  )
  depths: tuple[int, ...] = option(
    (3, 8),
    "Numbers of hidden layers; claims are about the first two.",
    parsers.COUNTS,
  )
  width: int = option(100, "Width of each hidden layer.", parsers.COUNT)
  steps: int = option(1000, "Training steps.", parsers.COUNT)
  signal_depth: int = option(
    20,
    "Number of hidden layers of the nets that are measured before training.",
    parsers.COUNT,
  )
  probes: int = option(20, "Number of probes during training.", parsers.COUNT)


class Kind(NamedTuple):
  """A kind of net: its norm, and the factor of LeCun's initialization."""

  norm: str
  gain: int = 1

  def __str__(self) -> str:
    return self.norm if self.gain == 1 else f"{self.norm}, gain {self.gain}"

  def net(
    self,
    hidden: tuple[int, ...],
    activation: Callable[[jax.Array], jax.Array] = nn.sigmoid,
  ) -> MLP:
    """Returns the net with these widths of its hidden layers."""
    return MLP(
      norm=norm_factory(self.norm),
      hidden=hidden,
      activation=activation,
      kernel_init=nn.initializers.variance_scaling(
        self.gain**2, "fan_in", "truncated_normal"
      ),
    )


class Arm(NamedTuple):
  """What is trained."""

  kind: Kind
  depth: int
  optimizer: str


NONE, BN = Kind("none"), Kind("bn")
NONE_GAIN, BN_GAIN = Kind("none", GAIN), Kind("bn", GAIN)


def kinds(config: Config) -> list[Kind]:
  """Returns the kinds of net."""
  kinds = [*map(Kind, config.norm)]
  return kinds + [
    k for k in (NONE_GAIN, BN_GAIN) if k._replace(gain=1) in kinds
  ]


def binarized(pool: Pool) -> Pool:
  """Returns the pool with inputs of 0 and 1."""
  grey = pool.prepare
  return pool._replace(prepare=lambda x: (grey(x) > 0.5).astype(jnp.float32))


def train(
  arm: Arm,
  config: Config,
  pool: Pool,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  """Trains an arm.

  Returns:
    "error" and "loss" of the test set, `[rates, seeds, probes]`, "inputs",
    percentiles of the last sigmoids' inputs, `[rates, seeds, probes, 3,
    units]`, and "validation", the final loss, `[rates, seeds]`.
  """
  images = pool.split(seeds, len(rates))
  model = arm.kind.net((config.width,) * arm.depth)
  engine, state = classification.at_rates(
    model,
    OPTIMIZERS[arm.optimizer],
    images,
    batch_size=60,
    seeds=seeds,
    rates=rates,
    gain=config.gain,
  )

  def percentiles(variables: Any, own: Choice, pool: Batch) -> jax.Array:
    inputs = images.prepare(own.of(pool).inputs)
    last = signals.activation_inputs(model, variables, inputs, train=False)[-1]
    return jnp.percentile(last, jnp.array([15.0, 50.0, 85.0]), axis=0)

  look = engine.compiled(percentiles, in_axes=(0, 0, None))
  some = images.test.first(PROBE)
  errors, losses, spreads = [], [], []
  for _ in range(config.probes):
    state, _ = engine.train(state, config.steps // config.probes)
    metrics = engine.evaluate(state.variables, images.test)
    errors.append(100 * (1 - metrics["accuracy"]))
    losses.append(metrics["loss"])
    spreads.append(np.asarray(look(state.variables, some.choice, some.pool)))
  assert images.validation is not None
  validation = engine.evaluate(state.variables, images.validation)["loss"]
  found = {
    "error": np.stack(errors, axis=1),
    "loss": np.stack(losses, axis=1),
    "inputs": np.stack(spreads, axis=1),
    "validation": validation,
  }
  return lanes.by_rate(found, len(rates))


def drift(inputs: np.ndarray) -> np.ndarray:
  """Returns the change of medians between probes over the spread, `[seeds]`.

  Args:
    inputs: The percentiles, `[seeds, probes, 3, units]`.
  """
  low, median, high = np.moveaxis(inputs, 2, 0)
  moved = np.abs(np.diff(median, axis=1)).mean(axis=1)
  return (moved / (high - low).mean(axis=1)).mean(axis=-1)
