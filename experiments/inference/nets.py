"""The ConvNet with its batch norms and with them folded."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Batch
from experiments.lab.latency import Programs
from experiments.lab.models.nets import ConvNet
from experiments.lab.models.norms import norm_factory
from experiments.lab.training.engine import Engine
from normjax.linen import fold

ARMS = ("unfolded", "folded")
SIZES = (1, 64)  # Batches that are timed.
_CHUNK = 500  # Images that are answered at once.

Variables = Mapping[str, Any]
Pair = dict[str, tuple[Any, Variables]]  # Net and variables, by arm.
Sizes = Mapping[str, Mapping[str, int]]  # By arm; see `sizes`.


def convnet(hidden: Sequence[int]) -> ConvNet:
  """Returns the net with batch norms."""
  return ConvNet(norm=norm_factory("bn"), hidden=(*hidden,))


def train(engine: Engine, seed: int, steps: int) -> dict[str, jax.Array]:
  """Returns the variables of a trained net, `{"params/Conv_0/kernel": ...}`."""
  state, _ = engine.train(engine.init([seed]), steps)
  variables = jax.tree.map(lambda leaf: leaf[0], state.variables)
  return traverse_util.flatten_dict(variables, sep="/")


def pair(model: ConvNet, flat: Mapping[str, Any], inputs: Any) -> Pair:
  """Returns the net as it is, and folded.

  Args:
    model: The net.
    flat: Its variables, from `train`.
    inputs: An example.
  """
  variables = traverse_util.unflatten_dict(
    {name: jnp.asarray(value) for name, value in flat.items()}, sep="/"
  )
  folded = fold(model, variables, inputs, train=False)
  return {"unfolded": (model, variables), "folded": folded}


@functools.cache
def compiled(net: Any) -> Any:
  """Returns the function that users compile; equal nets share it."""
  return jax.jit(functools.partial(net.apply, train=False))


def programs(
  hidden: Sequence[int], flat: Mapping[str, Any], inputs: np.ndarray
) -> Programs:
  """Returns the programs to time: a call of each net at each batch size.

  Args:
    hidden: Widths of the net.
    flat: Its variables, from `train`.
    inputs: Images, as many as the largest batch or more.
  """
  nets = pair(convnet(hidden), flat, inputs[:1])

  def call(arm: str, size: int) -> Callable[[], jax.Array]:
    net, variables = nets[arm]
    return functools.partial(
      compiled(net), variables, jnp.asarray(inputs[:size])
    )

  return {
    f"batch {size}": {arm: call(arm, size) for arm in ARMS} for size in SIZES
  }


def logits(nets: Pair, images: Images[Batch]) -> dict[str, np.ndarray]:
  """Returns the logits `[n, classes]` of all test images, by arm."""
  test = images.test
  parts = [
    images.prepare(test.inputs[at : at + _CHUNK])
    for at in range(0, test.num_examples, _CHUNK)
  ]
  return {
    arm: np.concatenate([compiled(net)(own, part) for part in parts])
    for arm, (net, own) in nets.items()
  }


def compared(
  logits: Mapping[str, np.ndarray], labels: np.ndarray
) -> dict[str, float]:
  """Returns how the answers of the two nets differ.

  Args:
    logits: `[n, classes]`, by arm.
    labels: The right classes, `[n]`.

  Returns:
    The largest "difference" of logits over the largest logit of the unfolded
    net, the number of images whose class has "changed", and the "error" of the
    unfolded net in percent.

  >>> unfolded = np.array([[4.0, -8.0], [1.0, 2.0]])
  >>> found = compared(
  ...   {"unfolded": unfolded, "folded": unfolded + [[0, 0], [2, 0]]},
  ...   np.array([0, 0]))
  >>> {name: float(value) for name, value in found.items()}
  {'difference': 0.25, 'changed': 1.0, 'error': 50.0}
  """
  unfolded, folded = (logits[arm] for arm in ARMS)
  classes = unfolded.argmax(axis=-1)
  return {
    "difference": np.abs(folded - unfolded).max() / np.abs(unfolded).max(),
    "changed": (folded.argmax(axis=-1) != classes).sum(),
    "error": 100 * (classes != labels).mean(),
  }


def sizes(net: Any, variables: Variables, inputs: Any) -> dict[str, int]:
  """Returns the size of a net's variables, and of its compiled programs.

  Args:
    net, variables: From `pair`.
    inputs: As in `programs`.
  """
  leaves = jax.tree.leaves(variables)
  found = {
    "arrays": len(leaves),
    "numbers": sum(leaf.size for leaf in leaves),
    "bytes": sum(leaf.nbytes for leaf in leaves),
  }
  for size in SIZES:
    program = compiled(net).lower(variables, inputs[:size]).compile()
    found[f"operations, batch {size}"] = round(program.cost_analysis()["flops"])
  return found


def surplus(found: Sizes, hidden: Sequence[int]) -> int:
  """Returns by how much what folding removes differs from four a channel."""
  removed = found["unfolded"]["numbers"] - found["folded"]["numbers"]
  return abs(removed - 4 * sum(hidden))
