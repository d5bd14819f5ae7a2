"""Measures where the time of an epoch of the MNIST study goes.

    python -m benchmarks.mnist_profile [--rounds=7] [--out=profile.json]

Times the study's compiled epoch (784-128-LN-ReLU-10, batches of 64, Adam 1e-3),
the same epoch without one of its parts, and single parts in a loop. All take
turns in one process. The difference between the epoch with and without a part
is what the part costs. The matrix products alone are a lower bound. The images
are noise of MNIST's shape, which takes the same time.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax import lax

from benchmarks import mnist
from experiments.lab import timing
from experiments.lab.data import images as data
from experiments.lab.runs import files
from experiments.lab.tables import table

STEPS = mnist.EXAMPLES // mnist.BATCH_SIZE
WHOLE = "the whole epoch"
PRODUCTS = "matrix products alone"


def epoch(
  train: data.Split, norm: str, optimizer: optax.GradientTransformation
) -> timing.Run:
  """Returns the study's epoch."""
  engine = mnist.study_engine(norm, optimizer, train)
  state = engine.init([0])

  def run(epochs: int) -> None:
    nonlocal state
    for _ in range(epochs):
      state, _ = engine.train(state, engine.source.period)

  return run


def loop(step: Callable[[jax.Array, Any], Any], carry: Any) -> timing.Run:
  """Returns a compiled loop with as many steps as an epoch.

  Args:
    step: `step(number, carry) -> carry`.
    carry: The initial value.
  """
  compiled = jax.jit(
    lambda carry: lax.fori_loop(0, STEPS, step, carry), donate_argnums=0
  )

  def run(epochs: int) -> None:
    nonlocal carry
    for _ in range(epochs):
      carry = jax.block_until_ready(compiled(carry))

  return run


def matrix_products() -> timing.Run:
  """Returns the five products of a step: two forward, three backward."""
  key = iter(jax.random.split(jax.random.key(0), 4))
  normal = lambda *shape: jax.random.normal(next(key), shape)
  pixels = normal(mnist.BATCH_SIZE, 784)
  labels = normal(mnist.BATCH_SIZE, mnist.CLASSES)

  def step(_: jax.Array, weights: list[jax.Array]) -> list[jax.Array]:
    first, second = weights
    hidden = pixels @ first
    error = hidden @ second - labels
    # So small that the weights do not change.
    d_second = 1e-9 * (hidden.T @ error)
    d_first = 1e-9 * (pixels.T @ (error @ second.T))
    return [first - d_first, second - d_second]

  shapes = [(784, mnist.HIDDEN), (mnist.HIDDEN, mnist.CLASSES)]
  return loop(step, [0.01 * normal(*shape) for shape in shapes])


def data_alone(train: data.Split) -> timing.Run:
  """Returns a loop that only fetches the minibatches of a shuffled epoch."""
  order = jax.random.permutation(jax.random.key(0), mnist.EXAMPLES)
  order = order[: STEPS * mnist.BATCH_SIZE].reshape(STEPS, -1)
  images = jnp.asarray(train.images)

  def step(number: jax.Array, _: jax.Array) -> jax.Array:
    batch = mnist.prepare(images[order[number]])
    return batch.reshape(mnist.BATCH_SIZE, -1)

  return loop(step, jnp.zeros((mnist.BATCH_SIZE, 784)))


def optimizer_alone(optimizer: optax.GradientTransformation) -> timing.Run:
  """Returns the optimizer's updates of the study's parameters."""
  few = mnist.synthetic(mnist.BATCH_SIZE)
  state = mnist.study_engine("ln", optimizer, few).init([0])
  params = jax.tree.map(lambda leaf: leaf[0], state.params)

  def step(_: jax.Array, carry: Any) -> Any:
    params, state = carry
    updates, state = optimizer.update(params, state, params)
    return optax.apply_updates(params, updates), state

  return loop(step, (params, optimizer.init(params)))


def programs() -> dict[str, timing.Run]:
  """Returns the programs to time, by name."""
  adam = optax.adam(mnist.LEARNING_RATE)
  train = mnist.synthetic(mnist.EXAMPLES)
  return {
    WHOLE: epoch(train, "ln", adam),
    "without the norm": epoch(train, "none", adam),
    "with SGD for Adam": epoch(train, "ln", optax.sgd(1e-3)),
    PRODUCTS: matrix_products(),
    "fetching minibatches alone": data_alone(train),
    "Adam alone": optimizer_alone(adam),
  }


def report(seconds: dict[str, list[float]]) -> str:
  """Returns a table of the time per epoch and per step, and its share."""
  rounds = {name: np.asarray(values) for name, values in seconds.items()}
  rows = []
  for name, values in rounds.items():
    spread = timing.Spread.of(seconds[name])
    rows.append(
      [
        name,
        f"{spread.median:.3f}",
        f"{spread.low:.3f} to {spread.high:.3f}",
        f"{1e6 * spread.median / STEPS:.0f}",
        f"{np.median(values / rounds[WHOLE]):.2f}",
      ]
    )
  return table(
    rows, ["program", "epoch (s)", "quartiles", "step (us)", "share"]
  )


def main(argv: list[str], rounds: int, out: str | None) -> None:
  if len(argv) > 1:
    sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
  print(
    f"{STEPS} steps of {mnist.BATCH_SIZE} examples, JAX {jax.__version__},"
    f" {os.cpu_count()} cores."
  )
  seconds = timing.interleaved(programs(), seconds=0.5, rounds=rounds)
  print(f"\n{report(seconds)}")
  if out is not None:
    files.write_json(out, {"seconds_per_epoch": seconds})


if __name__ == "__main__":
  rounds_flag = flags.DEFINE_integer(
    "rounds", 7, "Timed samples of each program.", lower_bound=1
  )
  out_flag = flags.DEFINE_string("out", None, "JSON file for all numbers.")
  app.run(lambda argv: main(argv, rounds_flag.value, out_flag.value))
