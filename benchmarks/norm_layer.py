"""A normalization layer of any JAX library, as `benchmarks.norms` sees it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.norm_cases import Case, make_inputs

Params = Sequence[jax.Array]
Statistics = Any  # Running statistics in the library's own structure.


class Layer(NamedTuple):
  """A norm as a pure function.

  Attributes:
    apply: Takes x, parameters (scale and, but for RMS norm, bias, float32
      `[channels]`) and running statistics; returns y and new statistics.
    statistics: Running statistics to start from; empty but for batch norm.
  """

  apply: Callable[[jax.Array, Params, Statistics], tuple[jax.Array, Statistics]]
  statistics: Statistics = ()


# By norm. Returns None for a layout that the library does not offer.
Layers = Mapping[str, Callable[[Case], Layer | None]]


def stateless(function: Callable[..., jax.Array]) -> Layer:
  """Returns the layer of `function(x, *params)`."""
  return Layer(lambda x, params, stats: (function(x, *params), stats))


def running_statistics(case: Case) -> tuple[jax.Array, jax.Array]:
  """Returns the mean and variance that batch norm starts from."""
  inputs = make_inputs(case)
  return jnp.asarray(inputs.mean), jnp.asarray(inputs.var)
