"""Batch statistics of the whole training set, for fixed parameters.

Running averages contain statistics of earlier parameters. One more pass over
the data gives the statistics of the final ones: Wu & Johnson, 2021,
https://arxiv.org/abs/2105.07576, section 3.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct, traverse_util

PyTree = Any


@struct.dataclass
class Pooled:
  """Statistics of the batches so far, which all have the same size.

  Attributes:
    count: Number of batches.
    average: Mean of every statistic over the batches.
    spread: For each mean, the sum over batches of its squared deviations from
      the average; unused for other statistics.
  """

  count: jax.Array
  average: PyTree
  spread: PyTree


def start(batch_stats: PyTree) -> Pooled:
  """Returns the state before the first batch.

  Args:
    batch_stats: Gives structure, shapes and dtypes.
  """
  zeros = jax.tree.map(jnp.zeros_like, batch_stats)
  # Two trees, because an array must not be donated twice.
  return Pooled(jnp.zeros(()), zeros, jax.tree.map(jnp.zeros_like, zeros))


def add(pooled: Pooled, batch_stats: PyTree) -> Pooled:
  """Adds the statistics of one batch (Welford's update)."""
  count = pooled.count + 1
  average = jax.tree.map(
    lambda old, new: old + (new - old) / count, pooled.average, batch_stats
  )
  spread = jax.tree.map(
    lambda total, old, mean, new: total + (new - old) * (new - mean),
    pooled.spread,
    pooled.average,
    average,
    batch_stats,
  )
  return Pooled(count, average, spread)


def finish(pooled: Pooled) -> PyTree:
  """Returns the statistics of all batches taken together.

  Returns:
    A tree like the statistics of a batch. Every `var` is the mean of the
    batches' variances plus the variance of their means (the sibling `mean`).
  """
  average = traverse_util.flatten_dict(pooled.average)
  spread = traverse_util.flatten_dict(pooled.spread)
  for path in average:
    mean = (*path[:-1], "mean")
    if path[-1] == "var" and mean in spread:
      average[path] = average[path] + spread[mean] / pooled.count
  return traverse_util.unflatten_dict(average)
