"""The interface of `benchmarks.norms` to the layers of any JAX library."""

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
    apply: Takes x, parameters (scale and, except in RMS norm, bias; float32
      `[channels]`) and running statistics; returns y and new statistics.
    statistics: Initial running statistics; empty except in batch norm.
  """

  apply: Callable[[jax.Array, Params, Statistics], tuple[jax.Array, Statistics]]
  statistics: Statistics = ()


# Makes a layer, by norm. Returns None if the library has none for the layout.
Layers = Mapping[str, Callable[[Case], Layer | None]]


def stateless(function: Callable[..., jax.Array]) -> Layer:
  """Returns a layer that calls `function(x, *params)`."""
  return Layer(lambda x, params, stats: (function(x, *params), stats))


def running_statistics(case: Case) -> tuple[jax.Array, jax.Array]:
  """Returns the mean and variance that batch norm starts from."""
  inputs = make_inputs(case)
  return jnp.asarray(inputs.mean), jnp.asarray(inputs.var)
