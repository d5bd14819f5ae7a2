"""The loss around the parameters of a net: along the gradient, and curvature.

All quantities are for one minibatch with the norms in training mode, as in a
training step.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from experiments.lab.data.batch import Batch, Prepare
from experiments.lab.training import losses

PyTree = Any
Loss = Callable[[PyTree, Batch], jax.Array]

# Multiples of the learning rate; Santurkar et al., 2018, use a similar range.
MULTIPLES = np.geomspace(0.5, 4, 8).astype(np.float32)


def make_loss(
  model: nn.Module,
  variables: Mapping[str, PyTree],
  prepare: Prepare = lambda inputs: inputs,
) -> Loss:
  """Returns `loss(params, batch)`, the mean cross-entropy of a minibatch.

  Args:
    model: As in `Engine`.
    variables: Variables of the model, of which "params" and the values of batch
      statistics are not used.
    prepare: Converts the inputs of a batch to the model's inputs.
  """
  of_batch = losses.cross_entropy(prepare)

  def loss(params: PyTree, batch: Batch) -> jax.Array:
    now = {**variables, "params": params}
    return of_batch(model, now, batch, jax.random.key(0), True)[0]

  return loss


def probe(
  loss: Loss, params: PyTree, batch: Batch, learning_rate: jax.Array
) -> dict[str, jax.Array]:
  """Measures the loss along the gradient of a minibatch.

  Args:
    loss: From `make_loss`.
    params: Where to start.
    batch: The minibatch.
    learning_rate: The steps are `MULTIPLES` times this.

  Returns:
    Scalars:
      * "range", the largest minus the smallest loss;
      * "change", the largest |change of the gradient|;
      * "beta", the largest ratio of this change to the length of the step;
      * "scaled_beta", beta times the squared length of the parameters, because
        the scale of weights before a norm is arbitrary;
      * "cosine", between a layer's gradients before and after the step of the
        layers below it, averaged over all layers except the first.
  """
  gradient = jax.grad(loss)(params, batch)
  flat, unravel = ravel_pytree(params)
  direction, _ = ravel_pytree(gradient)
  length = jnp.linalg.norm(direction)

  def at(multiple: jax.Array) -> tuple[jax.Array, jax.Array]:
    moved = unravel(flat - multiple * learning_rate * direction)
    value, there = jax.value_and_grad(loss)(moved, batch)
    return value, jnp.linalg.norm(ravel_pytree(there)[0] - direction)

  values, changes = jax.lax.map(at, jnp.asarray(MULTIPLES))
  beta = (changes / (MULTIPLES * learning_rate * length)).max()
  return {
    "range": values.max() - values.min(),
    "change": changes.max(),
    "beta": beta,
    "scaled_beta": beta * jnp.sum(flat * flat),
    "cosine": _cosine(loss, params, gradient, batch, learning_rate),
  }


def _layer(path: tuple[Any, ...]) -> int:
  """Returns the number in a name such as BatchNorm_3."""
  return int(path[0].key.rpartition("_")[2])


def _cosine(
  loss: Loss,
  params: PyTree,
  gradient: PyTree,
  batch: Batch,
  learning_rate: jax.Array,
) -> jax.Array:
  kernels = [name for name in params if name.startswith("Dense")]
  kernels.sort(key=lambda name: int(name.rpartition("_")[2]))

  def of_layer(layer: jax.Array) -> jax.Array:
    moved = jax.tree_util.tree_map_with_path(
      lambda path, p, g: jnp.where(
        _layer(path) < layer, p - learning_rate * g, p
      ),
      params,
      gradient,
    )
    after = jax.grad(loss)(moved, batch)
    cosines = jnp.stack(
      [
        optax.losses.cosine_similarity(
          *(tree[name]["kernel"].ravel() for tree in (after, gradient)),
          epsilon=1e-12,
        )
        for name in kernels
      ]
    )
    return cosines[layer]

  return jax.lax.map(of_layer, jnp.arange(1, len(kernels))).mean()


class Sharpness:
  """The largest eigenvalue of the Hessian, with the Lanczos method.

  Products with the Hessian are forward-over-reverse derivatives, compiled once.
  """

  def __init__(self, loss: Loss, params: PyTree):
    """Compiles nothing yet.

    Args:
      loss: From `make_loss`.
      params: Parameters with the structure and shapes of those to measure.
    """
    _, unravel = ravel_pytree(params)

    @jax.jit
    def product(flat: jax.Array, vector: jax.Array, batch: Batch) -> jax.Array:
      gradient = jax.grad(lambda flat: loss(unravel(flat), batch))
      return jax.jvp(gradient, (flat,), (vector,))[1]

    self._product = product

  def __call__(self, params: PyTree, batch: Batch) -> float:
    """Returns the eigenvalue at `params`, accurate to about one percent.

    It is NaN where the training diverged, so that the Hessian is not finite.
    """
    from scipy.sparse import linalg  # Slow to import.

    flat, _ = ravel_pytree(params)
    operator = linalg.LinearOperator(
      (flat.size, flat.size),
      matvec=lambda v: np.asarray(
        self._product(flat, jnp.asarray(v.ravel(), flat.dtype), batch)
      ),
      dtype=np.float32,
    )
    start = np.random.default_rng(0).normal(size=flat.size).astype(np.float32)
    if not np.isfinite(operator.matvec(start)).all():
      return math.nan
    (largest,) = linalg.eigsh(
      operator, k=1, which="LA", tol=1e-2, v0=start, return_eigenvectors=False
    )
    return float(largest)
