"""What the inputs of the activations look like, and what a change does to them.

The inputs of one layer's activations are an array `[..., examples, units]`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.lab.data.batch import Batch, Choice, Members
from experiments.lab.models.nets import MLP
from experiments.lab.probes import signals

PyTree = Any

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "sigmoid": nn.sigmoid,
  "tanh": nn.tanh,
  "relu": nn.relu,
}
FLAT = 0.05  # Share of the steepest slope below which a unit is saturated.
CURVED = 2.0  # Beyond it, a sigmoid's slope is below 42% of its steepest.


def flat_share(activation: str, inputs: np.ndarray) -> np.ndarray:
  """Returns the share of inputs at which an activation has hardly any slope.

  For ReLU, it is the share of units that are zero for all examples: they are
  dead, and get no gradient. For sigmoid and tanh, it is the share of inputs at
  which the slope is below 5% of the steepest: these units are saturated.

  Args:
    activation: "sigmoid", "tanh" or "relu".
    inputs: Inputs of the activation, `[..., examples, units]`.

  Returns:
    Shares `[...]`, from 0 to 1.

  >>> inputs = np.array([[0.0, 1.0], [-9.0, 2.0], [4.0, -1.0]])
  >>> float(flat_share("sigmoid", inputs).round(3))  # Only -9 is far enough.
  0.167
  >>> float(flat_share("tanh", inputs).round(3))  # -9 and 4.
  0.333
  >>> float(flat_share("relu", np.array([[-1.0, -1.0], [-2.0, 3.0]])))
  0.5
  """
  if activation == "relu":
    return (inputs <= 0).all(axis=-2).mean(axis=-1)
  # The slope of the sigmoid s is s(1 - s), at most 1/4; tanh(z) = 2s(2z) - 1.
  z = inputs if activation == "sigmoid" else 2 * inputs
  decay = np.exp(-np.abs(z))
  return (4 * decay / (1 + decay) ** 2 < FLAT).mean(axis=(-2, -1))


def beyond_share(inputs: np.ndarray) -> np.ndarray:
  """Returns the share of inputs `[...]` that are below -2 or above 2.

  >>> float(beyond_share(np.array([[0.0, 2.5], [-3.0, 1.0]])))
  0.5
  """
  return (np.abs(inputs) > CURVED).mean(axis=(-2, -1))


def drift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
  """Returns how far the distributions of a layer's inputs have moved.

  Of every unit it takes the change of its mean and the change of its standard
  deviation over the examples, both in units of its old standard deviation, as
  the two sides of a right triangle. The result is the mean of the longest sides
  over all units.

  Args:
    before, after: Inputs of the activations, `[..., examples, units]`.

  >>> before = np.array([[-1.0], [1.0]])  # Mean 0, standard deviation 1.
  >>> float(drift(before, before + 2))
  2.0
  >>> float(drift(before, 5 * before + 3))
  5.0
  """
  mean, spread = before.mean(axis=-2), before.std(axis=-2)
  moved = after.mean(axis=-2) - mean, after.std(axis=-2) - spread
  tiny = np.finfo(np.float32).tiny  # For units that never changed.
  return (np.hypot(*moved) / np.maximum(spread, tiny)).mean(axis=-1)


def rescaled(
  params: Mapping[str, PyTree], key: jax.Array, layers: int, most: float
) -> PyTree:
  """Returns parameters with other scales of the units in the first layers.

  Every unit's kernel and bias get a factor of their own, evenly drawn as a
  logarithm from 1 / most to most.

  Args:
    params: Parameters of an `MLP`.
    key: Key of the factors.
    layers: Number of layers to change.
    most: Largest factor.
  """
  changed = dict(params)
  for layer in range(layers):
    dense = params[name := f"Dense_{layer}"]
    exponent = jax.random.uniform(
      jax.random.fold_in(key, layer), dense["bias"].shape, minval=-1, maxval=1
    )
    factor = jnp.asarray(most, jnp.float32) ** exponent
    changed[name] = {
      "kernel": dense["kernel"] * factor[None],
      "bias": dense["bias"] * factor,
    }
  return changed


def activation_inputs(
  model: nn.Module,
  variables: PyTree,
  examples: Members,
  prepare: Callable[[Any], Any],
) -> list[np.ndarray]:
  """Returns the inputs of every layer's activations, `[lanes, n, units]`.

  Args:
    model: An `MLP` with its norms before the activations.
    variables: Variables of the model, with a leading axis of lanes; they are
      used in evaluation mode.
    examples: Examples of every lane.
    prepare: Converts their inputs to the model's.
  """
  assert isinstance(model, MLP)
  found = _activation_inputs(
    model, prepare, variables, examples.choice, examples.pool
  )
  return [np.asarray(layer, np.float64) for layer in found]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _activation_inputs(
  model: MLP,
  prepare: Callable[[Any], Any],
  variables: PyTree,
  choice: Choice,
  pool: Batch,
) -> list[jax.Array]:
  def of_lane(variables: PyTree, own: Choice) -> list[jax.Array]:
    inputs = prepare(own.of(pool).inputs)
    return signals.activation_inputs(model, variables, inputs, train=False)

  return jax.vmap(of_lane)(variables, choice)
