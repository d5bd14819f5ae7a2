"""The memory that programs of `benchmarks.norms` need, as compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax

from benchmarks.norm_cases import Case, make_inputs
from benchmarks.norm_layer import Layer, Params, Statistics

DEPTH = 8  # Norms in a chain.


class Memory(NamedTuple):
  """Peak bytes of a gradient, not counting arguments and results.

  Attributes:
    chain: For eight times (norm -> ReLU), forward and backward in one program.
    chain_checkpoint: The same with every (norm -> ReLU) in `jax.checkpoint`.
    scan: The same eight as a scan over their parameters. There the compiler can
      neither save memory that differentiation needs, nor undo `checkpoint`.
    scan_checkpoint: The scan with every (norm -> ReLU) in `jax.checkpoint`.
  """

  chain: int
  chain_checkpoint: int
  scan: int
  scan_checkpoint: int


def measure(case: Case, layer: Layer) -> Memory | None:
  """Returns the memory of a chain, or None if the backend does not report it.

  The numbers come from the compiled program, which is not run.

  Args:
    case: The case of every norm in the chain.
    layer: The layer of every norm in the chain. Each has its own parameters.
  """

  def block(
    x: jax.Array, own: tuple[Params, Statistics]
  ) -> tuple[jax.Array, Statistics]:
    y, statistics = layer.apply(x, *own)
    return jax.nn.relu(y.astype(x.dtype)), statistics

  peaks = [
    _peak(case, layer, chain, each)
    for chain in (_unrolled, lax.scan)
    for each in (block, jax.checkpoint(block))
  ]
  return None if None in peaks else Memory(*peaks)  # type: ignore[arg-type]


def _unrolled(
  block: Callable[..., Any], x: jax.Array, stacked: Any
) -> tuple[jax.Array, Any]:
  """`lax.scan` without a loop; returns the statistics as a list."""
  results = []
  for i in range(DEPTH):
    x, statistics = block(x, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
    results.append(statistics)
  return x, results


def _peak(
  case: Case,
  layer: Layer,
  chain: Callable[..., tuple[jax.Array, Any]],
  block: Callable[..., Any],
) -> int | None:
  def gradient(
    x: jax.Array, params: Params, statistics: Statistics, cotangent: jax.Array
  ) -> Any:
    y, vjp, new = jax.vjp(
      lambda x, params: chain(block, x, (params, statistics)),
      x,
      params,
      has_aux=True,
    )
    return y, vjp(cotangent), new

  def stacked(tree: Any) -> Any:
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct((DEPTH, *leaf.shape), leaf.dtype), tree
    )

  inputs = make_inputs(case)
  x = jax.ShapeDtypeStruct(inputs.x.shape, case.dtype)
  program = jax.jit(gradient).lower(
    x, stacked(inputs.params), stacked(layer.statistics), x
  )
  analysis = program.compile().memory_analysis()
  return None if analysis is None else analysis.temp_size_in_bytes
