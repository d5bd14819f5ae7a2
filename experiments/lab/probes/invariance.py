"""What stays the same when the weights before a norm are scaled."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Batch
from experiments.lab.models import kernels
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.probes import landscape
from experiments.lab.training.classification import classifier
from experiments.lab.training.hyperparams import swept

PyTree = Any

# Of `trajectory_error`: powers of two, which do not change the rounding. With
# other numbers a ReLU may switch, and then the losses differ for any norm.
FACTORS = (1.0, 0.125, 8.0)


def is_invariant(path: tuple[Any, ...]) -> bool:
  """Returns whether a parameter is a kernel followed by a norm."""
  return path[-1].key == "kernel" and path[0].key in ("Dense_0", "Dense_1")


def model(norm: str = "bn", epsilon: float = 1e-12) -> MLP:
  """Returns a net with two hidden layers, each followed by a norm."""
  return MLP(norm=norm_factory(norm, epsilon=epsilon), hidden=(100, 100))


def scaled(params: PyTree, factor: jax.typing.ArrayLike) -> PyTree:
  """Multiplies each kernel before a norm by `factor`."""
  return kernels.scaled(params, factor, is_invariant)


def gradient_errors(
  net: MLP, batch: Batch, factor: float, units: bool = False
) -> dict[str, float]:
  """Compares the gradient at a W with 1/a times the gradient at W.

  Args:
    net: Result of `model`.
    batch: Batch of the loss.
    factor: The number a.
    units: Whether only every second unit is scaled; a norm over features is not
      invariant to that.

  Returns:
    "error", the relative error of the whole gradient, and "cosine", the largest
    |cosine| between a unit's weights and its gradient.
  """
  variables = net.init(jax.random.key(0), batch.inputs, train=False)
  loss = landscape.make_loss(net, variables)

  @jax.jit
  def gradient(params: PyTree) -> PyTree:
    return jax.grad(loss)(params, batch)

  width = net.hidden[0]
  factors = np.full((1, width), factor, np.float32)
  if units:
    factors[:, ::2] = 1
  before = variables["params"]
  after = scaled(before, jnp.asarray(factors))
  old, new = (_kernels(gradient(params)) for params in (before, after))
  weights = _kernels(before)
  error = np.sqrt(
    sum(((factors * b - a) ** 2).sum() for a, b in zip(old, new, strict=True))
    / sum((a**2).sum() for a in old)
  )
  cosines = [
    np.abs((w * g).sum(axis=0))
    / np.maximum(np.linalg.norm(w, axis=0) * np.linalg.norm(g, axis=0), 1e-12)
    for w, g in zip(weights, old, strict=True)
  ]
  return {"error": float(error), "cosine": float(np.max(cosines))}


def _kernels(tree: PyTree) -> list[np.ndarray]:
  return [
    np.asarray(leaf, np.float64)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if is_invariant(path)
  ]


def trajectory_error(images: Images, steps: int, norm: str = "bn") -> float:
  """Returns the largest difference between losses from (W, r) and (a W, a^2 r).

  Args:
    images: Images of all lanes, or `pool.split([seed], len(FACTORS))`.
    steps: Number of steps.
    norm: Short name of the norm.
  """

  def optimizer(
    learning_rate: float, factor: jax.Array
  ) -> optax.GradientTransformation:
    return optax.chain(
      optax.sgd(learning_rate),
      optax.stateless(lambda updates, _: scaled(updates, factor**2)),
    )

  engine = classifier(
    model(norm), swept(optimizer, "factor"), images, batch_size=128
  )
  rates = (0.1,) * len(FACTORS)
  state = engine.init([0], learning_rate=rates, factor=FACTORS)
  params = jax.vmap(scaled)(state.params, jnp.asarray(FACTORS))
  _, records = engine.train(dataclasses.replace(state, params=params), steps)
  return float(np.abs(records.loss[1:] - records.loss[:1]).max())
