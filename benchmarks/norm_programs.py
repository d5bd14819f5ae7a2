"""The compiled programs that `benchmarks.norms` times, for any JAX library."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.norm_cases import Case, make_inputs
from benchmarks.norm_libraries import Layer, Statistics
from benchmarks.timing import Run

# What a step produces: the output; the output and all gradients; the output
# and its tangent.
MODES = ("forward", "grad", "jvp")
# Steps within one compiled loop, or a plain compiled call each.
TIMINGS = ("loop", "call")

# Arrays of the input's size that a step must move whatever the algorithm: x
# and y forward; x, dy and dx backward on top; x, dx, y and dy in forward mode.
FLOOR_ARRAYS = {"forward": 2, "grad": 5, "jvp": 4}


class _Arguments(NamedTuple):
  x: jax.Array
  cotangent: jax.Array
  params: tuple[jax.Array, ...]
  statistics: Statistics


class _Step(NamedTuple):
  """What a step produces.

  Attributes:
    last: The array of x's size that is produced last.
    others: Everything else.
    statistics: Running statistics for the next step.
  """

  last: jax.Array
  others: Any
  statistics: Statistics


def _arguments(case: Case, layer: Layer) -> _Arguments:
  inputs = make_inputs(case)
  x, cotangent = (
    jnp.asarray(value, case.dtype) for value in (inputs.x, inputs.cotangent)
  )
  # Copies, since the loop gives its statistics away.
  statistics = jax.tree.map(jnp.copy, layer.statistics)
  return _Arguments(
    x, cotangent, jax.tree.map(jnp.asarray, inputs.params), statistics
  )


def _step(mode: str, layer: Layer, of: _Arguments) -> _Step:
  x, cotangent, params, statistics = of

  def apply(
    x: jax.Array, params: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, Statistics]:
    y, new_statistics = layer.apply(x, params, statistics)
    return y.astype(x.dtype), new_statistics

  if mode == "forward":
    y, statistics = apply(x, params)
    return _Step(y, y, statistics)
  if mode == "grad":
    y, vjp, statistics = jax.vjp(apply, x, params, has_aux=True)
    dx, dparams = vjp(cotangent)
    return _Step(dx, (y, dparams), statistics)
  y, tangent, statistics = jax.jvp(
    apply, (x, params), (cotangent, params), has_aux=True
  )
  return _Step(tangent, y, statistics)


def call(mode: str, case: Case, layer: Layer) -> Callable[[], _Step]:
  """Returns a compiled call without arguments, of a step on its inputs."""
  arguments = _arguments(case, layer)
  compiled = jax.jit(functools.partial(_step, mode, layer))
  return lambda: compiled(arguments)


def _call_run(mode: str, case: Case, layer: Layer) -> Run:
  step = call(mode, case, layer)

  def run(steps: int) -> None:
    for _ in range(steps):
      jax.block_until_ready(step())

  return run


def _loop_run(mode: str, case: Case, layer: Layer) -> Run:
  """Returns steps within one compiled loop, which allocates nothing.

  All of a step's outputs are carried, each overwriting that of the step before.
  To make the steps depend on one another, one multiply-add moves x along the
  last output by too little to matter.
  """
  arguments = _arguments(case, layer)

  def body(
    _: jax.Array, carry: tuple[_Step, jax.Array, tuple[jax.Array, ...]]
  ) -> Any:
    before, cotangent, params = carry
    # Ties the cotangent to x: what depends on it alone, such as the gradient
    # of the bias, would otherwise be computed once, before the loop.
    x, cotangent_now = lax.optimization_barrier((before.last, cotangent))
    now = _Arguments(x, cotangent_now, params, before.statistics)
    step = _step(mode, layer, now)
    moved = x + jnp.asarray(1e-6, x.dtype) * step.last
    return step._replace(last=moved), cotangent, params

  @functools.partial(jax.jit, donate_argnums=0)
  def loop(
    carry: _Step,
    cotangent: jax.Array,
    params: tuple[jax.Array, ...],
    steps: jax.Array,
  ) -> _Step:
    return lax.fori_loop(0, steps, body, (carry, cotangent, params))[0]

  shapes = jax.eval_shape(functools.partial(_step, mode, layer), arguments)
  carry = _Step(
    arguments.x,
    jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.others),
    arguments.statistics,
  )

  def run(steps: int) -> None:
    nonlocal carry
    carry = jax.block_until_ready(
      loop(carry, arguments.cotangent, arguments.params, jnp.int32(steps))
    )

  return run


def make_run(mode: str, timing: str, case: Case, layer: Layer) -> Run:
  """Returns a program to time.

  Args:
    mode: One of `MODES`.
    timing: One of `TIMINGS`.
    case: Whose inputs it runs on.
    layer: What it runs.
  """
  return (_loop_run if timing == "loop" else _call_run)(mode, case, layer)


def make_copy(case: Case) -> Run:
  """Returns a loop whose steps read one array like x and write another.

  This is what the machine's memory, or its caches where the array fits in,
  allows for an array of that size.
  """
  x = jnp.asarray(make_inputs(case).x, case.dtype)

  @functools.partial(jax.jit, donate_argnums=0)
  def loop(y: jax.Array, x: jax.Array, steps: jax.Array) -> jax.Array:
    # Another factor in every step, lest it be done once, before the loop.
    return lax.fori_loop(0, steps, lambda i, _: x * i.astype(x.dtype), y)

  y = jnp.zeros_like(x)

  def run(steps: int) -> None:
    nonlocal y
    y = jax.block_until_ready(loop(y, x, jnp.int32(steps)))

  return run


def copy_share(mode: str, copy_seconds: float, seconds: float) -> float:
  """Returns the share of the copy bandwidth that a step reaches.

  Args:
    mode: One of `MODES`.
    copy_seconds: To read an array and to write another.
    seconds: Of the step.

  >>> copy_share("grad", 2.0, 10.0)
  0.5
  """
  return FLOOR_ARRAYS[mode] / 2 * copy_seconds / seconds


class Memory(NamedTuple):
  """Bytes that a gradient needs beside its arguments and results.

  Attributes:
    temporary: Of forward and backward pass in one program, at the peak.
    checkpointed: The same with every layer under `jax.checkpoint`.
    kept: What the forward pass, a program of its own, leaves for the backward
      one: its results but for the output.
  """

  temporary: int
  checkpointed: int
  kept: int


def memory(case: Case, layer: Layer, depth: int = 8) -> Memory | None:
  """Returns what a chain of (norm -> ReLU) needs, from the compiled program.

  Args:
    case: Of every norm in the chain.
    layer: Of every norm in the chain, each with parameters of its own.
    depth: Number of norms.

  Returns:
    None where the backend does not tell.
  """
  inputs = make_inputs(case)
  x, cotangent = (
    jax.ShapeDtypeStruct(inputs.x.shape, case.dtype) for _ in range(2)
  )
  like = lambda tree: jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree
  )
  params = (like(inputs.params),) * depth
  statistics = (like(layer.statistics),) * depth

  def block(
    x: jax.Array, params: Any, statistics: Any
  ) -> tuple[jax.Array, Statistics]:
    y, new = layer.apply(x, params, statistics)
    return jax.nn.relu(y.astype(x.dtype)), new

  def chain(
    block: Callable[..., Any], statistics: Any, x: jax.Array, params: Any
  ) -> tuple[jax.Array, Any]:
    new = []
    for of, running in zip(params, statistics, strict=True):
      x, updated = block(x, of, running)
      new.append(updated)
    return x, new

  def forward(
    block: Callable[..., Any], x: Any, params: Any, stats: Any
  ) -> Any:
    return jax.vjp(
      functools.partial(chain, block, stats), x, params, has_aux=True
    )

  def gradient(
    block: Callable[..., Any], x: Any, params: Any, stats: Any, cotangent: Any
  ) -> Any:
    y, vjp, new = forward(block, x, params, stats)
    return y, vjp(cotangent), new

  def analysis(function: Callable[..., Any], *args: Any) -> Any:
    return jax.jit(function).lower(*args).compile().memory_analysis()

  together = analysis(
    functools.partial(gradient, block), x, params, statistics, cotangent
  )
  rematerialized = analysis(
    functools.partial(gradient, jax.checkpoint(block)),
    x,
    params,
    statistics,
    cotangent,
  )
  alone = analysis(functools.partial(forward, block), x, params, statistics)
  if None in (together, rematerialized, alone):
    return None
  y_bytes = math.prod(x.shape) * x.dtype.itemsize
  return Memory(
    together.temp_size_in_bytes,
    rematerialized.temp_size_in_bytes,
    alone.output_size_in_bytes - y_bytes,
  )
