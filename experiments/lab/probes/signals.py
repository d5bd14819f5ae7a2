"""Activations and gradients of a net, layer by layer."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.data.batch import Array, Batch
from experiments.lab.models.nets import MLP
from experiments.lab.probes import landscape

PyTree = Any


def around_norms(
  model: MLP, variables: PyTree, inputs: Array, *, train: bool
) -> list[tuple[jax.Array, jax.Array]]:
  """Returns input and output of every norm, first layer first.

  Args:
    model: Model with its norms before the activations.
    variables: Variables of the model.
    inputs: Inputs of the model.
    train: Whether the norms are in training mode.
  """
  _, state = model.apply(
    variables,
    inputs,
    train=train,
    capture_intermediates=True,
    mutable=["intermediates", "batch_stats"],
  )
  found = state["intermediates"]
  outputs = {
    # The norm of layer 3 has a name such as BatchNorm_3.
    int(name.rpartition("_")[2]): entry["__call__"][0]
    for name, entry in found.items()
    if name != "__call__" and not name.startswith(("Dense", "Dropout"))
  }
  return [
    (found[f"Dense_{layer}"]["__call__"][0], outputs[layer])
    for layer in sorted(outputs)
  ]


def activation_inputs(
  model: MLP, variables: PyTree, inputs: Array, *, train: bool
) -> list[jax.Array]:
  """Returns the inputs of the activations, first layer first.

  Args:
    model, variables, inputs, train: As in `around_norms`.
  """
  return [
    output for _, output in around_norms(model, variables, inputs, train=train)
  ]


def at_init(
  model: MLP, seeds: Sequence[int], batch: Batch
) -> dict[str, np.ndarray]:
  """Returns signals at initialization in training mode, each `[seeds, layers]`.

  Args:
    model: Model with its norms before the activations.
    seeds: Seeds of the initializations.
    batch: Prepared inputs and their labels.

  Returns:
    "gradient", the length of the loss's gradient with respect to the kernel of
    each hidden layer, and "spread", the standard deviation of the activations'
    inputs.
  """

  def of_seed(seed: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    variables = model.init(jax.random.key(seed), batch.inputs, train=False)
    loss = landscape.make_loss(model, variables)
    gradients = jax.grad(loss)(variables["params"], batch)
    inputs = activation_inputs(model, variables, batch.inputs, train=True)
    return {
      "gradient": jnp.stack(
        [
          jnp.linalg.norm(gradients[f"Dense_{layer}"]["kernel"])
          for layer in range(len(model.hidden))
        ]
      ),
      "spread": jnp.stack([layer.std() for layer in inputs]),
    }

  compiled = jax.jit(
    jax.vmap(of_seed, in_axes=(0, None)),
    # It runs only once, so optimizing does not pay.
    compiler_options={"xla_backend_optimization_level": 0},
  )
  found = compiled(np.asarray(seeds, np.uint32), batch)
  return {name: np.asarray(values) for name, values in found.items()}


def variance_shift(model: MLP, inputs: jax.Array, variables: Any) -> jax.Array:
  """Compares the variance of the second norm's input with its running variance.

  Args:
    model: Model with batch norms before the activations.
    inputs: Inputs of the model, from a test set.
    variables: Variables of the model.

  Returns:
    The mean of max(r, 1/r) over the norm's units, where r is the variance of
    the unit's input over `inputs` in evaluation mode, divided by its running
    variance.
  """
  _, state = model.apply(
    variables,
    inputs,
    train=False,
    capture_intermediates=True,
    mutable=["intermediates"],
  )
  (before,) = state["intermediates"]["Dense_1"]["__call__"]
  (running,) = (
    stats["var"]
    for name, stats in variables["batch_stats"].items()
    if name.endswith("_1")
  )
  ratio = before.var(axis=0) / running
  return jnp.maximum(ratio, 1 / ratio).mean()
