"""Evaluation on every example once, and re-estimation of batch statistics."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from experiments.lab.data.batch import Batch
from experiments.lab.models.norms import without_memory
from experiments.lab.training import batch_statistics, devices, lanes, losses
from experiments.lab.training.batches import Source
from experiments.lab.training.losses import Loss

PyTree = Any


class Evaluator:
  """The compiled functions for evaluation and re-estimation."""

  def __init__(self, loss: Loss, *, scan: bool, mesh: Mesh | None):
    """Sets up the evaluator; compiles nothing yet.

    Args:
      loss: Computes the metrics.
      scan, mesh: As in `Engine`.
    """
    self._loss = loss
    self._scan = scan
    self._mesh = mesh
    self._over_lanes = lanes.vmapped if scan else lanes.unrolled
    self._of_all = devices.jit(
      self._of_all_lanes, mesh, static_argnums=(0, 1, 2)
    )
    self._of_batch = devices.jit(
      self._of_batch_lanes, mesh, static_argnums=(0, 1)
    )

  def evaluate(
    self,
    model: nn.Module,
    variables: PyTree,
    examples: Batch,
    *,
    size: int,
    train: bool,
  ) -> dict[str, np.ndarray]:
    """Returns the mean metrics `[lanes]`; see `Engine.evaluate`."""
    if self._scan:
      sums = self._of_all(model, train, size, variables, examples)
    else:
      sums = jax.tree.map(
        lambda *parts: sum(parts),
        *(
          self._of_batch(
            model, train, variables, examples.some(slice(start, start + size))
          )
          for start in range(0, len(examples.targets), size)
        ),
      )
    if (np.asarray(sums["count"]) != examples.total).any():
      raise AssertionError(
        f"Counted {sums['count']} of {examples.total} targets."
      )
    return losses.means(sums)

  def reestimate(
    self, model: nn.Module, variables: PyTree, source: Source, batches: int
  ) -> PyTree:
    """Returns variables with new statistics; see `Engine.reestimate`."""
    if "batch_stats" not in variables:
      return variables
    forgetful = without_memory(model)
    key = devices.replicate(jax.random.key(0), self._mesh)

    def add(
      pooled: batch_statistics.Pooled,
      variables: PyTree,
      plan: PyTree,
      step: jax.Array,
      data: PyTree,
    ) -> batch_statistics.Pooled:
      batch = devices.split(source.batch(plan, step, data), self._mesh)
      variables = {**variables, "batch_stats": pooled.average}
      no_key = jax.random.key(0)  # Nothing is dropped.
      _, changed, _ = self._loss(forgetful, variables, batch, no_key, True)
      return batch_statistics.add(pooled, changed["batch_stats"])

    in_axes = (0, 0, None, None, None)
    add_batch = devices.jit(
      self._over_lanes(add, in_axes), self._mesh, donate_argnums=0
    )
    make_plan = devices.jit(source.plan, self._mesh)
    start, finish = (
      devices.jit(jax.vmap(function), self._mesh)
      for function in (batch_statistics.start, batch_statistics.finish)
    )
    pooled = start(variables["batch_stats"])
    for number in range(batches):
      period, step = divmod(number, source.period)
      if step == 0:
        plan = make_plan(key, period)
      pooled = add_batch(pooled, variables, plan, step, source.data)
    return {**variables, "batch_stats": finish(pooled)}

  def _of_all_lanes(
    self,
    model: nn.Module,
    train: bool,
    size: int,
    variables: PyTree,
    examples: Batch,
  ) -> dict[str, jax.Array]:
    whole, rest = divmod(len(examples.targets), size)

    def of_lane(variables: PyTree, examples: Batch) -> dict[str, jax.Array]:
      sums = functools.partial(self._sums, model, train, variables)

      def add(number: jax.Array, total: PyTree) -> PyTree:
        batch = jax.tree.map(
          lambda array: jax.lax.dynamic_slice_in_dim(
            array, number * size, size
          ),
          examples,
        )
        return jax.tree.map(jnp.add, total, sums(batch))

      shapes = jax.eval_shape(sums, examples.first(size))
      total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
      if whole:
        total = jax.lax.fori_loop(0, whole, add, total)
      if rest:
        last = sums(examples.some(slice(whole * size, None)))
        total = jax.tree.map(jnp.add, total, last)
      return total

    return lanes.vmapped(of_lane, in_axes=(0, None))(variables, examples)

  def _of_batch_lanes(
    self, model: nn.Module, train: bool, variables: PyTree, batch: Batch
  ) -> dict[str, jax.Array]:
    sums = functools.partial(self._sums, model, train)
    return lanes.unrolled(sums, in_axes=(0, None))(variables, batch)

  def _sums(
    self, model: nn.Module, train: bool, variables: PyTree, batch: Batch
  ) -> dict[str, jax.Array]:
    batch = devices.split(batch, self._mesh)
    key = jax.random.key(0)
    return self._loss(model, variables, batch, key, train)[2]
