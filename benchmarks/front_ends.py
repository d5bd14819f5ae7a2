r"""Compares the modules of Linen and NNX with the pure functions.

  python -m benchmarks.front_ends

A step of training of a net of four (dense, norm) layers: forward, backward,
SGD and, for batch norm, new running statistics. The programs run in turns in
one process. Times are ratios to the pure function, medians of the rounds with
quartiles. `nnx.jit` adds what it costs to take a model apart and put it
together at every call, whatever its modules are; `nnx` compiles the same step
by `jax.jit`, with the model taken apart once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import linen as nn
from flax import nnx

import normjax
import normjax.linen
import normjax.nnx
from experiments.lab import timing

_BATCH = flags.DEFINE_integer("batch", 256, "Examples in a batch.", 1)
_FEATURES = flags.DEFINE_integer("features", 256, "Features of a layer.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 20, "Samples of each program.", 2)
_DEPTH = 4
_RATE = 1e-3

# A net: from parameters, statistics and x to the loss and new statistics.
Net = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]


def step_of(net: Net) -> Callable[..., Any]:
  """Returns a step of training, compiled."""

  @jax.jit
  def step(params: Any, stats: Any, x: jax.Array) -> tuple[Any, Any]:
    grads, stats = jax.grad(net, has_aux=True)(params, stats, x)
    params = jax.tree.map(lambda p, g: p - _RATE * g, params, grads)
    return params, stats

  return step


def plain(norm: str, kernels: Sequence[jax.Array]) -> tuple[Net, Any, Any]:
  """Returns the net of pure functions, its parameters and its statistics."""
  size = kernels[0].shape[1]
  params = [(kernel, jnp.ones(size), jnp.zeros(size)) for kernel in kernels]
  stats = [normjax.BatchStats(jnp.zeros(size), jnp.ones(size)) for _ in kernels]

  def net(params: Any, stats: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    new = []
    for (kernel, scale, bias), old in zip(params, stats, strict=True):
      x = x @ kernel
      if norm == "bn":
        x, old = normjax.batch_norm(
          x, scale, bias, old, use_running_average=False
        )
      else:
        x = normjax.layer_norm(x, scale, bias)
      new.append(old)
      x = jax.nn.relu(x)
    return (x**2).mean(), new

  return net, params, stats


def linen(norm: str, kernels: Sequence[jax.Array]) -> tuple[Net, Any, Any]:
  """Returns the same net in Linen."""

  class Model(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
      for kernel in kernels:
        x = nn.Dense(kernel.shape[1], use_bias=False)(x)
        x = nn.relu(normjax.linen.make_norm(norm, train=True)(x))
      return (x**2).mean()

  model = Model()
  variables = model.init(jax.random.key(0), kernels[0][:2])

  def net(params: Any, stats: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    y, updates = model.apply(
      {"params": params, "batch_stats": stats}, x, mutable=["batch_stats"]
    )
    return y, updates.get("batch_stats", {})

  return net, variables["params"], variables.get("batch_stats", {})


class NnxModel(nnx.Module):
  """The same net in NNX."""

  def __init__(self, norm: str, kernels: Sequence[jax.Array]):
    rngs, size = nnx.Rngs(0), kernels[0].shape[1]
    self.dense = nnx.List(
      [nnx.Linear(size, size, use_bias=False, rngs=rngs) for _ in kernels]
    )
    self.norms = nnx.List(
      [normjax.nnx.make_norm(norm, size, rngs=rngs) for _ in kernels]
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the loss."""
    for dense, norm in zip(self.dense, self.norms, strict=True):
      x = nnx.relu(norm(dense(x)))
    return (x**2).mean()


def nnx_split(norm: str, kernels: Sequence[jax.Array]) -> tuple[Net, Any, Any]:
  """Returns the net in NNX as a function of its state."""
  model = NnxModel(norm, kernels)
  graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)

  def net(params: Any, stats: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    # New variables, of the trace in which they change.
    stats = jax.tree.map(lambda value: value, stats)
    model = nnx.merge(graph, params, stats)
    return model(x), nnx.state(model, nnx.BatchStat)

  return net, states[0], states[1]


def nnx_jit(norm: str, kernels: Sequence[jax.Array]) -> Callable[..., Any]:
  """Returns a step of the net in NNX, compiled by `nnx.jit`."""
  model = NnxModel(norm, kernels)

  @nnx.jit
  def step(model: NnxModel, x: jax.Array) -> None:
    grads = nnx.grad(lambda model: model(x))(model)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p, g: p - _RATE * g, params, grads))

  def run(x: jax.Array) -> Any:
    step(model, x)
    return model.dense[0].kernel.get_value()

  return run


def runs(
  norm: str, kernels: Sequence[jax.Array], x: jax.Array
) -> dict[str, timing.Run]:
  """Returns the programs by name."""
  found: dict[str, timing.Run] = {}
  for name, make in (
    ("functions", plain),
    ("linen", linen),
    ("nnx", nnx_split),
  ):
    net, params, stats = make(norm, kernels)
    step = step_of(net)

    def run(
      number: int, step: Any = step, params: Any = params, stats: Any = stats
    ) -> None:
      for _ in range(number):
        params, stats = step(params, stats, x)
      jax.block_until_ready((params, stats))

    found[name] = run
  compiled = nnx_jit(norm, kernels)

  def run_nnx(number: int) -> None:
    for _ in range(number):
      last = compiled(x)
    jax.block_until_ready(last)

  return {**found, "nnx.jit": run_nnx}


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Not a flag: {argv[1]}.")
  features = _FEATURES.value
  generator = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(generator.normal(size=shape), jnp.float32)
  kernels = [draw(features, features) / features**0.5 for _ in range(_DEPTH)]
  x = draw(_BATCH.value, features)
  print(f"{_DEPTH} layers, batch {_BATCH.value}, {features} features\n")
  print("| norm | functions, µs | linen | nnx | nnx.jit |")
  print("|:--|--:|--:|--:|--:|")
  for norm in "bn", "ln":
    programs = runs(norm, kernels, x)
    seconds = timing.interleaved(programs, seconds=0.2, rounds=_ROUNDS.value)
    base = np.array(seconds["functions"])
    cells = [f"{np.median(base) * 1e6:.0f}"]
    for name in "linen", "nnx", "nnx.jit":
      ratio = timing.Spread.of([*(np.array(seconds[name]) / base)])
      cells.append(f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})")
    print(f"| {norm} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
  app.run(main)
