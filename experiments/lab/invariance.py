"""What does not change when the weights before a norm are scaled."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lab import landscape
from experiments.lab.models import MLP
from experiments.lab.sweep import Images, Sweep, norm_factory
from experiments.lab.train_step import Examples

PyTree = Any


def is_invariant(path: tuple[Any, ...]) -> bool:
  """Returns whether a parameter is a kernel with a norm behind it."""
  return path[-1].key == "kernel" and path[0].key in ("Dense_0", "Dense_1")


def model(norm: str = "bn", epsilon: float = 1e-12) -> MLP:
  """Returns a net with two hidden layers, each with a norm behind it."""
  return MLP(norm=norm_factory(norm, epsilon=epsilon), hidden=(100, 100))


def scaled(params: PyTree, factor: jax.typing.ArrayLike) -> PyTree:
  """Returns parameters with each kernel before a norm times `factor`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * factor if is_invariant(path) else leaf, params
  )


def gradient_errors(
  net: MLP, batch: Examples, factor: float, units: bool = False
) -> dict[str, float]:
  """Returns how far the gradient at a W is from 1/a of that at W.

  Args:
    net: What `model` returns.
    batch: To differentiate on.
    factor: The number a.
    units: Whether every second unit keeps its weights; a norm over features
      is not invariant to that.

  Returns:
    The relative error of the gradient as a vector, and the largest |cosine|
    between a unit's weights and its gradient.
  """
  variables = net.init(jax.random.key(0), batch.inputs, train=False)
  batch_stats = variables.get("batch_stats", {})
  loss = landscape.make_loss(net, batch_stats, prepare=lambda inputs: inputs)

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
  """Returns the largest difference of losses from (W, r) and (a W, a^2 r).

  The numbers a are powers of two, which change no rounding: another one may
  switch a ReLU, after which the losses part whatever the norm does.
  """

  def optimizer(
    learning_rate: float, factor: jax.Array
  ) -> optax.GradientTransformation:
    return optax.chain(
      optax.sgd(learning_rate),
      optax.stateless(lambda updates, _: scaled(updates, factor**2)),
    )

  factors = (1.0, 0.125, 8.0)
  sweep = Sweep(
    model(norm),
    optimizer,
    prepare=images.prepare,
    batch_size=128,
    hyperparams=("factor",),
  )
  rates = (0.1,) * len(factors)
  state = sweep.start([0], rates, images.train.inputs, factor=factors)
  params = jax.vmap(scaled)(state.params, jnp.asarray(factors))
  state = dataclasses.replace(state, params=params)
  orders = sweep.orders(state, images.train, steps)
  _, records = sweep.advance(state, orders, images.train)
  return float(np.abs(records["loss"][1:] - records["loss"][:1]).max())
