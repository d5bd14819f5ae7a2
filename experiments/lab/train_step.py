"""A training step and an evaluation step, for one seed and one minibatch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct

PyTree = Any


class Examples(NamedTuple):
  """Inputs `[n, ...]` and integer labels `[n]`: a data set or a batch."""

  inputs: jax.Array
  labels: jax.Array


@struct.dataclass
class Sums:
  """Metrics before the division, float32: what batches add up to."""

  loss: jax.Array | np.ndarray
  correct: jax.Array | np.ndarray
  count: jax.Array | np.ndarray

  def means(self) -> dict[str, np.ndarray]:
    """Returns the mean loss and the accuracy."""
    count = np.asarray(self.count, np.float64)
    return {
      "loss": np.asarray(self.loss) / count,
      "accuracy": np.asarray(self.correct) / count,
    }


@struct.dataclass
class TrainState:
  """What a training step changes, and the key that its randomness stems from.

  Attributes:
    step: Steps taken, int32.
    params: Parameters of the model.
    batch_stats: Running statistics; empty where the norm keeps none.
    opt_state: State of the optimizer.
    key: Typed key, constant; steps and epochs fold their numbers into it.
  """

  step: jax.Array
  params: PyTree
  batch_stats: PyTree
  opt_state: optax.OptState
  key: jax.Array


def init_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  seed: jax.Array,
  sample: jax.Array,
) -> TrainState:
  """Returns the state that a seed starts from.

  Args:
    model, optimizer: As in `make_train_step`.
    seed: A number; equal numbers give equal kernels and an equal key.
    sample: What the model takes, of any batch size; the values do not matter.
  """
  init_key, key = jax.random.split(jax.random.key(seed))
  variables = model.init(init_key, sample, train=False)
  params = variables["params"]
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables.get("batch_stats", {}),
    opt_state=optimizer.init(params),
    key=key,
  )


def make_train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  prepare: Callable[[jax.Array], jax.Array],
  l1: float = 0.0,
  l2: float = 0.0,
) -> Callable[[TrainState, Examples], tuple[TrainState, Sums]]:
  """Returns `train_step(state, batch) -> (state, sums)` for one seed.

  Args:
    model: Called as `model(inputs, train=...)`, returns logits.
    optimizer: Of optax.
    prepare: Turns the inputs of a batch into what the model takes.
    l1: Weight of the sum of absolute values of all kernels in the objective.
    l2: Weight of their sum of squares. Like `l1`, it leaves biases and the
      scale of norms alone, and is no part of the reported loss.

  Returns:
    The step. Its sums are those of the cross-entropy, before the update.
  """

  def train_step(state: TrainState, batch: Examples) -> tuple[TrainState, Sums]:
    _, dropout_key = jax.random.split(state.key)
    rngs = {"dropout": jax.random.fold_in(dropout_key, state.step)}

    def objective(params: PyTree) -> tuple[Any, tuple[Sums, PyTree]]:
      logits, updated = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        prepare(batch.inputs),
        train=True,
        rngs=rngs,
        mutable=["batch_stats"],
      )
      sums = _sums(logits, batch.labels)
      loss = sums.loss / sums.count + _penalty(params, l1, l2)
      return loss, (sums, updated.get("batch_stats", {}))

    grads, (sums, batch_stats) = jax.grad(objective, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new_state = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
      key=state.key,
    )
    return new_state, sums

  return train_step


def make_eval_step(
  model: nn.Module, *, prepare: Callable[[jax.Array], jax.Array]
) -> Callable[[PyTree, PyTree, Examples, jax.Array], Sums]:
  """Returns `eval_step(params, batch_stats, batch, valid) -> sums`.

  Args:
    model, prepare: As in `make_train_step`.

  Returns:
    The step. It counts the examples where `valid`, booleans `[n]`, is true.
  """

  def eval_step(
    params: PyTree, batch_stats: PyTree, batch: Examples, valid: jax.Array
  ) -> Sums:
    logits = model.apply(
      {"params": params, "batch_stats": batch_stats},
      prepare(batch.inputs),
      train=False,
    )
    return _sums(jnp.asarray(logits), batch.labels, valid)

  return eval_step


def _sums(
  logits: jax.Array, labels: jax.Array, valid: jax.Array | None = None
) -> Sums:
  """Sums over the examples, or over those where `valid` `[n]` is true."""
  logits = logits.astype(jnp.float32)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
  if valid is None:
    valid = jnp.ones(labels.shape, bool)
  return Sums(
    loss=jnp.sum(loss, where=valid),
    correct=jnp.sum(correct, where=valid),
    count=jnp.sum(valid, dtype=jnp.float32),
  )


def _penalty(params: PyTree, l1: float, l2: float) -> jax.Array:
  total = jnp.zeros(())
  if l1 == 0 and l2 == 0:
    return total
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key == "kernel":
      total += l1 * jnp.abs(leaf).sum() + l2 * jnp.square(leaf).sum()
  return total
