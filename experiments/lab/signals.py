"""What flows through a net, layer by layer: values and gradients."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import landscape
from experiments.lab.models import MLP
from experiments.lab.train_step import Examples

PyTree = Any


def activation_inputs(
  model: MLP, variables: PyTree, inputs: jax.Array, *, train: bool
) -> list[jax.Array]:
  """Returns what each activation is applied to, first layer first.

  Args:
    model: With its norms before the activations.
    variables: Of the model.
    inputs: What it takes.
    train: Whether the norms are in training mode.
  """
  _, state = model.apply(
    variables,
    inputs,
    train=train,
    capture_intermediates=True,
    mutable=["intermediates", "batch_stats"],
  )
  outputs = {
    # The norm of layer 3 is called BatchNorm_3, say.
    int(name.rpartition("_")[2]): entry["__call__"][0]
    for name, entry in state["intermediates"].items()
    if name != "__call__" and not name.startswith(("Dense", "Dropout"))
  }
  return [outputs[layer] for layer in sorted(outputs)]


def at_init(
  model: MLP, seeds: Sequence[int], batch: Examples
) -> dict[str, np.ndarray]:
  """Returns signals of a fresh net in training mode, each `[seeds, layers]`.

  Args:
    model: With its norms before the activations.
    seeds: One number each.
    batch: Prepared inputs and their labels.

  Returns:
    "gradient", the norm of the loss's gradient by the kernel of each hidden
    layer, and "spread", the standard deviation of the activations' inputs.
  """

  def of_seed(seed: jax.Array) -> dict[str, jax.Array]:
    variables = model.init(jax.random.key(seed), batch.inputs, train=False)
    loss = landscape.make_loss(
      model, variables.get("batch_stats", {}), prepare=lambda inputs: inputs
    )
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
    jax.vmap(of_seed),
    # Runs once: optimizing it takes longer.
    compiler_options={"xla_backend_optimization_level": 0},
  )
  found = compiled(np.asarray(seeds, np.uint32))
  return {name: np.asarray(values) for name, values in found.items()}
