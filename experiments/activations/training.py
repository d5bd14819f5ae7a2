"""Trains one arm, and measures its activations."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.activations import probes
from experiments.lab.data.arrays import Images, Pool
from experiments.lab.data.batch import Members
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.probes import signals
from experiments.lab.study import Parts
from experiments.lab.training import classification
from experiments.lab.training.engine import Engine
from experiments.lab.training.step import TrainState

PyTree = Any

BATCH_SIZE = 64
SEEN = 1_000  # Test images whose activations are measured.
AT_INIT = 500  # Images whose gradient is taken before the training.
CHANGED_LAYERS, LARGEST_FACTOR = 2, 3.0
_KEY = 7  # The factors of the change; with a seed, those of that seed.


class Arm(NamedTuple):
  """A net: its activation, its norm, and the factor of its inputs.

  Attributes:
    activation: "sigmoid", "tanh" or "relu".
    norm: Short name of the norm.
    scale: Factor of the inputs.
    affine: Whether the norm has gain and bias.
  """

  activation: str
  norm: str
  scale: float = 1.0
  affine: bool = True

  def __str__(self) -> str:
    plain = "" if self.affine else "_plain"
    return f"{self.activation}_{self.norm}{plain}_{self.scale:g}"

  def model(self, hidden: Sequence[int], classes: int) -> MLP:
    """Returns the net."""
    options = {} if self.affine else {"use_scale": False, "use_bias": False}
    return MLP(
      norm=norm_factory(self.norm, **options),
      hidden=(*hidden,),
      activation=probes.ACTIVATIONS[self.activation],
      num_classes=classes,
    )


def scaled(pool: Pool, scale: float) -> Pool:
  """Returns the pool with a factor of the inputs of the model.

  The inputs are stored with it, so that all scales share a compiled program.
  """
  inputs = scale * pool.prepare(jnp.asarray(pool.examples.inputs))
  return pool._replace(
    examples=pool.examples._replace(inputs=inputs), prepare=lambda x: x
  )


def at_init(
  arm: Arm, hidden: Sequence[int], pool: Pool, seeds: Sequence[int]
) -> Parts:
  """Returns "gradient" and "spread", `[seeds, layers]`: `signals.at_init`."""
  batch = pool.prepared(AT_INIT)
  model = arm.model(hidden, pool.num_classes)
  return signals.at_init(model, seeds, batch)


def train(
  arm: Arm,
  hidden: Sequence[int],
  steps: int,
  gain: float,
  pool: Pool,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  """Returns the results `[rates, seeds, ...]` of an arm.

  Args:
    arm: The net.
    hidden: Width of each hidden layer.
    steps: Training steps.
    gain: Factor of the initial kernels.
    pool: Images from which each seed draws, with the arm's `scaled` inputs.
    rates, seeds: Learning rates, and seeds for each.

  Returns:
    As `classification.results`, and, after the training:
    "flat", "beyond": Shares of each hidden layer; see `probes`.
    "drift": How far the inputs of the last hidden layer's activations move when
    the first layers are changed, with re-estimated statistics.
    "changed", "changed_reestimated": The test error after the change in
    percent, with the old batch statistics and with re-estimated ones.
  """
  images = pool.split(seeds, len(rates))
  model = arm.model(hidden, images.num_classes)
  engine, state, _ = classification.train_at_rates(
    model,
    optax.adam,
    images,
    batch_size=BATCH_SIZE,
    seeds=seeds,
    rates=rates,
    steps=steps,
    gain=gain,
  )
  layers, found = _changed(engine, state, images, [*seeds] * len(rates))
  found["flat"] = np.stack(
    [probes.flat_share(arm.activation, layer) for layer in layers], axis=1
  )
  found["beyond"] = np.stack(
    [probes.beyond_share(layer) for layer in layers], axis=1
  )
  return classification.results(engine, state, images, len(rates), **found)


def _changed(
  engine: Engine,
  state: TrainState,
  images: Images[Members],
  seeds: Sequence[int],
) -> tuple[list[np.ndarray], Parts]:
  """Changes the first layers of a trained net.

  Args:
    engine, state, images: The training.
    seeds: Seed of every lane, which gives the factors.

  Returns:
    The inputs of the activations before the change, layer by layer, and what
    the change does.
  """
  keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
    jax.random.key(_KEY), jnp.asarray(seeds, jnp.uint32)
  )
  change = functools.partial(
    probes.rescaled, layers=CHANGED_LAYERS, most=LARGEST_FACTOR
  )
  params = jax.vmap(change)(state.params, keys)
  changed = dataclasses.replace(state, params=params)
  seen = images.test.first(SEEN)
  fresh = [
    classification.reestimated(engine, net, images.train)
    for net in (state, changed)
  ]
  before, after = (
    probes.activation_inputs(engine.model, net, seen, images.prepare)
    for net in fresh
  )
  return before, {
    "drift": probes.drift(before[-1], after[-1]),
    "changed": classification.error(engine, changed.variables, images.test),
    "changed_reestimated": classification.error(engine, fresh[1], images.test),
  }
