"""Evaluation on every example once, and re-estimation of batch statistics."""

import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from experiments.lab.data.batch import Batch, Choice, Examples, parts
from experiments.lab.training import devices, lanes, losses
from experiments.lab.training.batches import Source, kind
from experiments.lab.training.losses import Loss
from normjax import linen

PyTree = Any
_Functions = tuple[Callable[..., PyTree], Callable[..., PyTree]]


class Evaluator:
  """The compiled functions for evaluation and re-estimation."""

  def __init__(
    self, loss: Loss, *, scan: bool, mesh: Mesh | None, apart: bool = False
  ):
    """Sets up the evaluator; compiles nothing yet.

    Args:
      loss: Computes the metrics.
      scan, mesh, apart: As in `Engine`.
    """
    self._loss = loss
    self._scan = scan
    self._mesh = mesh
    self._apart = apart
    self._reestimating: dict[Hashable, _Functions] = {}
    self._over_lanes = lanes.vmapped if scan else lanes.unrolled
    self._of_all = devices.jit(
      self._of_all_lanes, mesh, static_argnums=(0, 1, 2)
    )
    self._of_batch = devices.jit(
      self._of_batch_lanes, mesh, static_argnums=(0, 1, 2)
    )
    if apart:
      in_axes = (None, None, None, 0, 0, None, None)
      self._of_batch = lanes.one_by_one(self._of_batch, in_axes)

  def evaluate(
    self,
    model: nn.Module,
    variables: PyTree,
    examples: Examples,
    *,
    size: int,
    train: bool,
  ) -> dict[str, np.ndarray]:
    """Returns the mean metrics `[lanes]`; see `Engine.evaluate`."""
    shared, own = parts(examples)
    lanes.check(own, len(jax.tree.leaves(variables)[0]))
    if self._scan:
      sums = self._of_all(model, train, size, variables, own, shared)
    else:
      count = examples.num_examples
      sums = jax.tree.map(
        lambda *batches: sum(batches),
        *(
          self._of_batch(
            model,
            train,
            min(size, count - start),
            variables,
            own,
            shared,
            start,
          )
          for start in range(0, count, size)
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
    lanes.check(source.own, len(jax.tree.leaves(variables)[0]))
    known = model, kind(source)
    if known not in self._reestimating:
      self._reestimating[known] = self._reestimation(model, source)
    make_plan, batch_of_lanes = self._reestimating[known]
    key = devices.replicate(jax.random.key(0), self._mesh)

    def steps() -> Iterator[tuple[PyTree, int]]:
      for number in range(batches):
        period, step = divmod(number, source.period)
        if step == 0:
          plan = make_plan(key, period, source.own)
        yield plan, step

    return linen.reestimate(
      lambda variables, at: batch_of_lanes(variables, *at, source.data),
      variables,
      steps(),
    )

  def _reestimation(self, model: nn.Module, source: Source) -> _Functions:
    """Returns what plans, and what gives the statistics of a batch."""
    make_plan, plan_axis = source.plan, None
    if source.own is not None:
      make_plan = lanes.vmapped(source.plan, in_axes=(None, None, 0))
      plan_axis = 0

    def batch_of_lane(
      variables: PyTree, plan: PyTree, step: jax.Array, data: PyTree
    ) -> PyTree:
      batch = devices.split(source.batch(plan, step, data), self._mesh)
      no_key = jax.random.key(0)  # Nothing is dropped.
      _, changed, _ = self._loss(model, variables, batch, no_key, False)
      return changed

    in_axes = (0, plan_axis, None, None)
    batch_of_lanes = devices.jit(
      self._over_lanes(batch_of_lane, in_axes), self._mesh
    )
    if self._apart:
      batch_of_lanes = lanes.one_by_one(batch_of_lanes, in_axes)
    return devices.jit(make_plan, self._mesh), batch_of_lanes

  def _of_all_lanes(
    self,
    model: nn.Module,
    train: bool,
    size: int,
    variables: PyTree,
    own: Choice | None,
    shared: Batch,
  ) -> dict[str, jax.Array]:
    def of_lane(
      variables: PyTree, own: Choice | None, shared: Batch
    ) -> dict[str, jax.Array]:
      def sums(size: int, start: int | jax.Array) -> dict[str, jax.Array]:
        return self._sums(model, train, size, variables, own, shared, start)

      def add(number: jax.Array, total: PyTree) -> PyTree:
        return jax.tree.map(jnp.add, total, sums(size, number * size))

      count = len(shared.targets if own is None else own.indices)
      whole, rest = divmod(count, size)
      shapes = jax.eval_shape(functools.partial(sums, size), 0)
      total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
      if whole:
        total = jax.lax.fori_loop(0, whole, add, total)
      if rest:
        total = jax.tree.map(jnp.add, total, sums(rest, whole * size))
      return total

    return lanes.vmapped(of_lane, (0, 0, None))(variables, own, shared)

  def _of_batch_lanes(
    self, model: nn.Module, train: bool, size: int, *args: Any
  ) -> dict[str, jax.Array]:
    sums = functools.partial(self._sums, model, train, size)
    return lanes.unrolled(sums, in_axes=(0, 0, None, None))(*args)

  def _sums(
    self,
    model: nn.Module,
    train: bool,
    size: int,
    variables: PyTree,
    own: Choice | None,
    shared: Batch,
    start: int | jax.Array,
  ) -> dict[str, jax.Array]:
    """Returns the sums over `size` examples of a lane, from `start` on."""
    chosen = start + jnp.arange(size)
    batch = shared.some(chosen) if own is None else own.some(chosen).of(shared)
    batch = devices.split(batch, self._mesh)
    key = jax.random.key(0)
    return self._loss(model, variables, batch, key, train)[2]
