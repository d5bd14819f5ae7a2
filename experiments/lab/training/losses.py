"""Loss functions.

A loss is a function `loss(model, variables, batch, key, train)` that returns
`(loss, updates, metrics)`:
  * the number to differentiate,
  * the collections that the model changed, such as `{"batch_stats": ...}`,
  * sums over the batch by name, with their "count". The sums of all batches are
    added and divided once (see `means`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.lab.data.batch import Batch, Prepare
from experiments.lab.models.kernels import is_kernel

PyTree = Any
Loss = Callable[
  [nn.Module, PyTree, Any, jax.Array, bool],
  tuple[jax.Array, PyTree, dict[str, jax.Array]],
]


def means(sums: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Divides sums by their count.

  >>> means({"loss": np.array([6.0]), "count": np.array([4.0])})
  {'loss': array([1.5])}
  """
  count = np.asarray(sums["count"], np.float64)
  return {
    name: np.asarray(total) / count
    for name, total in sums.items()
    if name != "count"
  }


def guessing(classes: int) -> float:
  """Returns the cross-entropy of equal probabilities, in nats."""
  return math.log(classes)


def cross_entropy(
  prepare: Prepare = lambda inputs: inputs,
  *,
  l1: float = 0.0,
  l2: float = 0.0,
) -> Loss:
  """Returns the mean cross-entropy of a `Batch`, whose targets are classes.

  Args:
    prepare: Converts the inputs of a batch to the model's inputs.
    l1: Weight of the sum of absolute values of all kernels in the objective.
    l2: Weight of the sum of squares of all kernels. Both penalties exclude
      biases and the scale of norms, and are not part of the reported loss.

  Returns:
    The loss. The model is called as `model(inputs, train=...)`, with `mask=...`
    if the batch has a mask, and returns logits. Metrics: "loss", "accuracy".
  """

  def loss(
    model: nn.Module,
    variables: PyTree,
    batch: Batch,
    key: jax.Array,
    train: bool,
  ) -> tuple[jax.Array, PyTree, dict[str, jax.Array]]:
    masked: dict[str, Any] = {}
    if batch.mask is not None:
      masked["mask"] = batch.mask
    logits, updates = model.apply(
      variables,
      prepare(batch.inputs),
      **masked,
      train=train,
      rngs={"dropout": key},
      mutable=["batch_stats"],
    )
    sums = _sums(jnp.asarray(logits), batch)
    objective = sums["loss"] / jnp.maximum(sums["count"], 1)
    if l1 or l2:
      objective += _penalty(variables["params"], l1, l2)
    return objective, updates, sums

  return loss


def _sums(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
  logits = logits.astype(jnp.float32)
  targets = jnp.asarray(batch.targets)
  counted = batch.counted
  if counted is None:
    counted = jnp.ones(targets.shape, bool)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
  # `argmax` of NaN is class 0, which would be an answer.
  correct = jnp.where(jnp.isnan(losses), jnp.nan, correct)
  return {
    "loss": jnp.sum(losses, where=counted),
    "accuracy": jnp.sum(correct, where=counted),
    "count": jnp.sum(counted, dtype=jnp.float32),
  }


def _penalty(params: PyTree, l1: float, l2: float) -> jax.Array:
  total = jnp.zeros(())
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if is_kernel(path):
      total += l1 * jnp.abs(leaf).sum() + l2 * jnp.square(leaf).sum()
  return total
