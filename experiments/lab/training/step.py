"""One training step of one lane: losses, gradients, optimizers, statistics."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct

from experiments.lab.training import losses
from experiments.lab.training.losses import Loss

PyTree = Any


@struct.dataclass
class TrainState:
  """The state of a training, and the key of its random numbers.

  Attributes:
    step: Number of steps taken, int32.
    params: Parameters of the model.
    collections: Other collections of the model, such as "batch_stats".
    opt_state: State of each update's optimizer.
    key: Typed key, constant. Steps and periods fold their numbers into it.
  """

  step: jax.Array
  params: PyTree
  collections: dict[str, PyTree]
  opt_state: tuple[optax.OptState, ...]
  key: jax.Array

  @property
  def variables(self) -> dict[str, PyTree]:
    """The variables for `model.apply`."""
    return {"params": self.params, **self.collections}


class Update(NamedTuple):
  """A part of a step: one optimizer minimizes one loss.

  Attributes:
    loss: Loss as described in `losses`.
    optimizer: An optax optimizer.
    trains: Top-level names of the parameters to train; none means all.
  """

  loss: Loss
  optimizer: optax.GradientTransformation
  trains: tuple[str, ...] = ()


class Records(NamedTuple):
  """Records of a step; for a stretch of steps, arrays `[lanes, steps, ...]`.

  Attributes:
    sums: The metrics of the losses, before each update, and their "count".
    watched: Results of the engine's `watch`.
  """

  sums: dict[str, Any]
  watched: dict[str, Any]

  @property
  def loss(self) -> np.ndarray:
    """The mean loss of every batch, `[lanes, steps]`."""
    return self.sums["loss"] / self.sums["count"]

  def means(self) -> dict[str, np.ndarray]:
    """Returns the means over a stretch, `[lanes]`."""
    totals = {
      name: values.sum(axis=1, dtype=np.float64)
      for name, values in self.sums.items()
    }
    watched = {name: v.mean(axis=1) for name, v in self.watched.items()}
    return losses.means(totals) | watched


# Called with the states before and after a step, and the gradients.
Watch = Callable[[TrainState, TrainState, PyTree], dict[str, jax.Array]]


def init_state(
  model: nn.Module,
  updates: Sequence[Update],
  seed: jax.Array,
  sample: PyTree,
) -> TrainState:
  """Returns the initial state of a seed.

  Args:
    model: Initialized by `model.init(key, sample, train=False)`.
    updates: Updates of a step.
    seed: Integer. Equal seeds give equal kernels and an equal key.
    sample: Inputs of the model; only their shapes and dtypes matter.
  """
  init_key, key = jax.random.split(jax.random.key(seed))
  variables = dict(model.init(init_key, sample, train=False))
  params = variables.pop("params")
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    collections=variables,
    opt_state=tuple(
      update.optimizer.init(_trained(params, update)) for update in updates
    ),
    key=key,
  )


def take_step(
  model: nn.Module,
  updates: Sequence[Update],
  watch: Watch,
  state: TrainState,
  batch: PyTree,
) -> tuple[TrainState, Records]:
  """Returns the state after all updates, and the records of the step."""
  before = state
  gradients: dict[str, PyTree] = {}
  sums: dict[str, jax.Array] = {}
  opt_states = []
  for index, (update, opt_state) in enumerate(
    zip(updates, state.opt_state, strict=True)
  ):
    found, collections, metrics = gradient(model, update, state, batch, index)
    old = _trained(state.params, update)
    change, opt_state = update.optimizer.update(found, opt_state, old)
    new = optax.apply_updates(old, change)
    state = dataclasses.replace(
      state, params={**state.params, **new}, collections=collections
    )
    gradients |= found
    if twice := {*sums} & {*metrics} - {"count"}:
      raise ValueError(
        f"Two losses of a step have a metric {', '.join(sorted(twice))}; give"
        " them different names."
      )
    sums |= metrics
    opt_states.append(opt_state)
  state = dataclasses.replace(
    state, step=state.step + 1, opt_state=tuple(opt_states)
  )
  return state, Records(sums, watch(before, state, gradients))


def gradient(
  model: nn.Module,
  update: Update,
  state: TrainState,
  batch: PyTree,
  index: int = 0,
) -> tuple[dict[str, PyTree], dict[str, PyTree], dict[str, jax.Array]]:
  """Returns the gradient of an update's loss.

  Args:
    model, update: Model and loss to differentiate.
    state: State at which to differentiate.
    batch: Batch of the loss.
    index: Position of the update in the step, which is folded into its key.

  Returns:
    The gradients with respect to the parameters that the update trains, the
    new collections of the model, and the metrics.
  """
  _, key = jax.random.split(state.key)
  key = jax.random.fold_in(jax.random.fold_in(key, state.step), index)

  def objective(trained: PyTree) -> tuple[jax.Array, Any]:
    variables = {**state.variables, "params": {**state.params, **trained}}
    loss, changed, metrics = update.loss(model, variables, batch, key, True)
    return loss, ({**state.collections, **changed}, metrics)

  trained = _trained(state.params, update)
  found, (collections, metrics) = jax.grad(objective, has_aux=True)(trained)
  return found, collections, metrics


def _trained(params: Mapping[str, PyTree], update: Update) -> dict[str, PyTree]:
  if missing := {*update.trains} - {*params}:
    raise ValueError(
      f"An update trains {', '.join(sorted(missing))}, which the model does"
      f" not have; it has {', '.join(params)}."
    )
  return {name: params[name] for name in update.trains or params}
