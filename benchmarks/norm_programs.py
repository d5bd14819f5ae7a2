"""The compiled programs that `benchmarks.norms` times, for any JAX library."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.norm_cases import Case, make_inputs
from benchmarks.norm_layer import Layer, Statistics
from experiments.lab.timing import Run

# What a step computes: the output; the output and all gradients; the output and
# its tangent.
MODES = ("forward", "grad", "jvp")
# All steps in one compiled loop, or one compiled call per step.
TIMINGS = ("loop", "call")

# Arrays of the input's size that any algorithm must read or write in a step.
# forward: x and y. grad: also x, dy and dx. jvp: x, dx, y and dy.
FLOOR_ARRAYS = {"forward": 2, "grad": 5, "jvp": 4}


class _Arguments(NamedTuple):
  x: jax.Array
  cotangent: jax.Array
  params: tuple[jax.Array, ...]
  statistics: Statistics


# The arrays that a step returns, and running statistics for the next step.
Results = tuple[Any, Statistics]


def _arguments(case: Case, layer: Layer) -> _Arguments:
  inputs = make_inputs(case)
  return _Arguments(
    jnp.asarray(inputs.x, case.dtype),
    jnp.asarray(inputs.cotangent, case.dtype),
    tuple(map(jnp.asarray, inputs.params)),
    # Copied, because the loop donates them.
    jax.tree.map(jnp.copy, layer.statistics),
  )


def _step(mode: str, layer: Layer, arguments: _Arguments) -> Results:
  x, cotangent, params, statistics = arguments

  def apply(
    x: jax.Array, params: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, Statistics]:
    y, new_statistics = layer.apply(x, params, statistics)
    return y.astype(x.dtype), new_statistics

  if mode == "forward":
    return apply(x, params)
  if mode == "grad":
    y, vjp, statistics = jax.vjp(apply, x, params, has_aux=True)
    return (y, vjp(cotangent)), statistics
  y, tangent, statistics = jax.jvp(
    apply, (x, params), (cotangent, params), has_aux=True
  )
  return (y, tangent), statistics


def make_call(mode: str, case: Case, layer: Layer) -> Callable[[], Results]:
  """Returns a function without arguments: a compiled step on the case's inputs.

  Args:
    mode: One of `MODES`.
    case: The case, which determines the inputs.
    layer: The layer to run.

  Returns:
    A function that returns a pair: y, or `(y, (dx, gradients of the
    parameters))`, or `(y, tangent)`; and the new running statistics.
  """
  arguments = _arguments(case, layer)
  compiled = jax.jit(functools.partial(_step, mode, layer))
  return lambda: compiled(arguments)


def make_loop(
  mode: str, case: Case, layer: Layer
) -> tuple[Callable[..., Results], Results, _Arguments]:
  """Returns a compiled loop over steps that allocates no memory.

  The loop carries the results. Each step overwrites those of the step before,
  and does nothing else in addition.

  Returns:
    A function of `(results, arguments, steps)`, which donates `results`, and
    the first two of its arguments.
  """
  first = _arguments(case, layer)

  def body(arguments: _Arguments, i: jax.Array, before: Results) -> Results:
    now = arguments._replace(statistics=before[1])
    # The compiler must not see that all steps compute the same. Otherwise it
    # would move what depends only on the arguments, such as the gradient of the
    # bias, out of the loop.
    now, _ = lax.optimization_barrier((now, i))
    return _step(mode, layer, now)

  @functools.partial(jax.jit, donate_argnums=0)
  def loop(
    results: Results, arguments: _Arguments, steps: jax.Array
  ) -> Results:
    return lax.fori_loop(0, steps, functools.partial(body, arguments), results)

  outputs, _ = jax.eval_shape(functools.partial(_step, mode, layer), first)
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), outputs)
  return loop, (zeros, first.statistics), first._replace(statistics=())


def make_run(mode: str, timing: str, case: Case, layer: Layer) -> Run:
  """Returns a program to time.

  Args:
    mode: One of `MODES`.
    timing: One of `TIMINGS`.
    case: The case, which determines the inputs.
    layer: The layer to run.
  """
  if timing == "call":
    call = make_call(mode, case, layer)

    def run(steps: int) -> None:
      for _ in range(steps):
        jax.block_until_ready(call())

  else:
    loop, results, arguments = make_loop(mode, case, layer)

    def run(steps: int) -> None:
      nonlocal results
      results = jax.block_until_ready(
        loop(results, arguments, jnp.int32(steps))
      )

  return run


def make_copy(case: Case) -> Run:
  """Returns a loop whose steps read one array like x and write another.

  It measures the bandwidth of the memory, or of the cache if the array fits.
  """
  x = jnp.asarray(make_inputs(case).x, case.dtype)

  @functools.partial(jax.jit, donate_argnums=0)
  def loop(y: jax.Array, x: jax.Array, steps: jax.Array) -> jax.Array:
    # The factor differs in every step, so that it stays in the loop.
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
    copy_seconds: Seconds to read one array and write another.
    seconds: Seconds of the step.

  >>> copy_share("grad", 2.0, 10.0)
  0.5
  """
  return FLOOR_ARRAYS[mode] / 2 * copy_seconds / seconds
