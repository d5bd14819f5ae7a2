"""The training engine, which all studies share.

The differences between studies are arguments: losses, optimizers, a source of
batches. A step (`step.take_step`) computes gradients and updates; a stretch is
many steps in one compiled function; lanes are many trainings at once.

Every array of a state has a leading axis of lanes. A lane is a seed, or a
learning rate and a seed. It has its own parameters, data order, dropout and
batch statistics. Its numbers do not depend on the other lanes, up to rounding:
XLA may add in another order when the number of lanes changes.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from experiments.lab.data.batch import Examples
from experiments.lab.errors import RefusedError
from experiments.lab.models import kernels, norms
from experiments.lab.training import (
  devices,
  hyperparams,
  lanes,
  memory,
  step,
)
from experiments.lab.training.batches import Source
from experiments.lab.training.evaluation import Evaluator
from experiments.lab.training.step import Records, TrainState, Update, Watch

PyTree = Any


class Engine:
  """The compiled functions of a training: initialize, train, evaluate."""

  def __init__(
    self,
    model: nn.Module,
    updates: Update | Sequence[Update],
    source: Source,
    *,
    sample: PyTree,
    watch: Watch | None = None,
    eval_size: int = 500,
    gain: float = 1.0,
    scan: bool = True,
    apart: bool = False,
    mesh: Mesh | None = None,
  ):
    """Sets up the engine; compiles nothing yet.

    Args:
      model: Initialized by `model.init(key, sample, train=False)`.
      updates: The updates of a step, in this order. Two networks that train
        against each other are two updates of one model.
      source: Source of batches. Its data are on the device; with a mesh, on all
        devices (`devices.replicate`) or shared among them (`devices.share`).
      sample: Inputs of the model; only their shapes and dtypes matter.
      watch: Its result is recorded after every step.
      eval_size: Batch size of evaluation. Every example counts once, whatever
        the batch size.
      gain: Factor of the initial kernels.
      scan: Whether a stretch is one compiled function. If not, each step is one
        call, with the same results: on CPUs, convolutions in a compiled loop
        are ten times slower (https://github.com/jax-ml/jax/issues/12868). The
        lanes are then unrolled, because vmap would merge their convolutions
        into a grouped one, which takes twice as long on CPUs.
      apart: Whether lanes are computed one after the other where they would be
        unrolled. Then programs are those of one lane, and compiled once;
        unrolled, they and the time to compile them grow with the lanes.
      mesh: Devices that share every batch; None for one device. A state must be
        on all of them.
    """
    self.model = model
    self.updates = (updates,) if isinstance(updates, Update) else (*updates,)
    self.source = source
    self.mesh = mesh
    self._eval_size = devices.multiple(eval_size, mesh)
    self._sample = sample
    self._watch = watch or (lambda before, after, gradients: {})
    self._gain = gain
    self._scan = scan
    self._apart = apart and not scan
    self._evaluator = Evaluator(
      self.updates[0].loss, scan=scan, apart=self._apart, mesh=mesh
    )
    self._longest = 0  # Steps of the longest stretch so far.
    self._planned: tuple[bytes, PyTree] = (b"", None)
    self._init = devices.jit(
      jax.vmap(self.init_lane),
      mesh,
      # It runs only once, so optimizing for a second does not pay.
      compiler_options={"xla_backend_optimization_level": 0},
    )
    self._make_plan = devices.jit(
      jax.vmap(self._plan_lane, in_axes=(0, None, 0)), mesh
    )
    self._take_batch = self.compiled(source.batch, in_axes=(0, None, None))
    self._advance = devices.jit(
      self._advance_lanes, mesh, static_argnums=0, donate_argnums=1
    )
    self._take_step = devices.jit(
      lanes.unrolled(self._step_lane, in_axes=(0, 0, None, None)),
      mesh,
      donate_argnums=0,
    )

  def init(self, seeds: Sequence[int], **values: Sequence[float]) -> TrainState:
    """Returns the state of every lane before the first step.

    Args:
      seeds: Equal seeds give equal kernels, batches and dropout, for any norm
        and any hyperparameters.
      **values: Hyperparameters of optimizers from `hyperparams.swept`, such as
        `learning_rate`: one value per group of lanes. A group has all seeds,
        and its lanes are adjacent.

    Raises:
      RefusedError: The model cannot be built, or does not fit into memory.
    """
    (groups,) = {len(group) for group in values.values()} or {1}
    numbers = np.asarray([*seeds] * groups, np.uint32)
    try:
      shapes = self._init.eval_shape(numbers)  # type: ignore[attr-defined]
    except ValueError as error:
      why = norms.error_text(error, "its widths")
      raise RefusedError(f"This net cannot be built: {why}") from error
    memory.check(shapes)
    init: Callable[..., TrainState] = self._init
    if self._apart:
      init = lanes.one_by_one(init, in_axes=(0,))
    state = init(numbers)
    opt_state = state.opt_state
    for name, group in values.items():
      per_lane = devices.replicate(lanes.per_lane(group, len(seeds)), self.mesh)
      opt_state = hyperparams.with_values(opt_state, name, per_lane)
    return dataclasses.replace(state, opt_state=opt_state)

  def on(self, source: Source) -> "Engine":
    """Returns an engine with other data; both share what is compiled.

    Args:
      source: Differs from that of this engine in its arrays only, and in the
        number of lanes that have their own.

    Raises:
      ValueError: It has other batches, or another number of them.
    """
    kinds = [(type(s), s.size, s.period) for s in (self.source, source)]
    if kinds[0] != kinds[1]:
      raise ValueError(
        f"The source is {kinds[1]}, expected {kinds[0]}; make another Engine."
      )
    engine = copy.copy(self)
    engine.source = source
    engine._planned = (b"", None)  # Equal keys have other plans.
    return engine

  def check(self, count: int = 1) -> TrainState:
    """Traces a step to find errors, without computing anything.

    The data of the source may be shapes (`jax.ShapeDtypeStruct`).

    Args:
      count: Number of lanes that are to be trained.

    Returns:
      Shapes and dtypes of the state of one lane.

    Raises:
      TypeError, ValueError: Whatever the model, norm or source raises.
      RefusedError: The lanes do not fit into memory.
    """

    def first_step(data: PyTree, own: PyTree) -> TrainState:
      state = self.init_lane(jnp.zeros((), jnp.uint32))
      zero = jnp.zeros((), jnp.int32)
      plan = self._plan_lane(state.key, zero, lanes.one(own, 0))
      return self._step_lane(state, plan, zero, data)[0]

    with nn.intercept_methods(norms.check_statistics):
      state = jax.eval_shape(first_step, self.source.data, self.source.own)
    memory.check(state, count)
    return state

  def train(self, state: TrainState, steps: int) -> tuple[TrainState, Records]:
    """Trains for more steps.

    Args:
      state: Donated: use the returned one.
      steps: Number of steps. Recompiles only if it is the largest so far.

    Returns:
      The new state, and the records of every step.

    Raises:
      ValueError: The source has examples of another number of lanes.
    """
    if steps < 1:
      raise RefusedError(
        "There is nothing to train: not a single step. Use more examples or"
        " steps, or a smaller batch."
      )
    at = int(np.asarray(state.step)[0])
    end = at + steps
    self._longest = max(self._longest, min(steps, self.source.period))
    parts = []
    while at < end:
      number, start = divmod(at, self.source.period)
      count = min(end - at, self.source.period - start)
      plan = self._plan(state.key, number)
      state, records = self._stretch(state, plan, start, count)
      parts.append(records)
      at += count
    return state, jax.tree.map(
      lambda *leaves: np.concatenate(leaves, axis=1), *parts
    )

  def next_batch(self, state: TrainState) -> PyTree:
    """Returns the batch of each lane's next step, with an axis of lanes."""
    at = int(np.asarray(state.step)[0])
    number, start = divmod(at, self.source.period)
    plan = self._plan(state.key, number)
    return self._take_batch(plan, start, self.source.data)

  def evaluate(
    self,
    variables: PyTree,
    examples: Examples,
    *,
    size: int | None = None,
    train: bool = False,
    model: nn.Module | None = None,
  ) -> dict[str, np.ndarray]:
    """Returns the metrics `[lanes]` of all examples, each counted once.

    Args:
      variables: Variables of the model, with a leading axis of lanes.
      examples: A `Batch`, which all lanes share, or `Members`: each lane is
        evaluated on its own examples.
      size: Batch size; by default `eval_size`. The last batch may be smaller.
      train: Whether the model is in training mode, in which batch norm uses the
        statistics of each batch of this size.
      model: Replaces the engine's model.

    Returns:
      Means by name, float64.

    Raises:
      ValueError: The variables and the members have different numbers of lanes.
    """
    size = size or self._eval_size
    return self._evaluator.evaluate(
      model or self.model, variables, examples, size=size, train=train
    )

  def reestimate(
    self, variables: PyTree, source: Source, batches: int = 0
  ) -> PyTree:
    """Returns the variables with batch statistics re-estimated for them.

    See `normjax.linen.reestimate`.

    Args:
      variables: Variables of the model, with a leading axis of lanes. Without
        batch statistics they are returned unchanged.
      source: Source of the batches. All lanes get the same ones, unless each
        lane has its own examples (`Members`).
      batches: Number of batches; 0 means a period.

    Raises:
      ValueError: The variables and the members have different numbers of lanes.
    """
    return self._evaluator.reestimate(
      self.model, variables, source, batches or source.period
    )

  def compiled(
    self, function: Callable[..., PyTree], in_axes: lanes.InAxes
  ) -> Callable[..., PyTree]:
    """Compiles a function of one lane for all lanes; see `lanes.vmapped`."""
    return devices.jit(lanes.vmapped(function, in_axes), self.mesh)

  def init_lane(self, seed: jax.Array) -> TrainState:
    """Returns the initial state of a seed, without an axis of lanes."""
    state = step.init_state(self.model, self.updates, seed, self._sample)
    if self._gain == 1:
      return state
    params = kernels.scaled(state.params, self._gain)
    return dataclasses.replace(state, params=params)

  def gradient(self, state: TrainState, batch: PyTree) -> PyTree:
    """Returns the gradient of the first loss, for one lane."""
    return step.gradient(self.model, self.updates[0], state, batch)[0]

  def _plan_lane(
    self, key: jax.Array, number: jax.Array, own: PyTree
  ) -> PyTree:
    plan_key, _ = jax.random.split(key)
    return self.source.plan(plan_key, number, own)

  def _step_lane(
    self, state: TrainState, plan: PyTree, number: jax.Array, data: PyTree
  ) -> tuple[TrainState, Records]:
    batch = self.source.batch(plan, number, data)
    batch = devices.split(batch, self.mesh)
    state, records = step.take_step(
      self.model, self.updates, self._watch, state, batch
    )
    return devices.join(state, self.mesh), records

  def _plan(self, keys: jax.Array, number: int) -> PyTree:
    """Returns the plan of a period; consecutive stretches reuse it."""
    known = np.asarray(jax.random.key_data(keys)).tobytes() + b"%d" % number
    if known != self._planned[0]:
      lanes.check(self.source.own, len(keys))
      self._planned = known, self._make_plan(keys, number, self.source.own)
    return self._planned[1]

  def _stretch(
    self, state: TrainState, plan: PyTree, start: int, count: int
  ) -> tuple[TrainState, Records]:
    """Takes `count` steps of a period, starting at its step `start`."""
    if self._scan:
      state, records = self._advance(
        self._longest, state, plan, start, count, self.source.data
      )
      return state, jax.tree.map(lambda r: np.asarray(r)[:, :count], records)
    if self._apart and len(state.step) > 1:
      return lanes.one_by_one(self._stretch, (0, 0, None, None))(
        state, plan, start, count
      )
    steps = []
    for number in range(start, start + count):
      state, records = self._take_step(state, plan, number, self.source.data)
      steps.append(records)
    return state, jax.tree.map(lambda *r: np.stack(r, axis=1), *steps)

  def _advance_lanes(
    self,
    length: int,
    state: TrainState,
    plan: PyTree,
    start: jax.Array,
    count: jax.Array,
    data: PyTree,
  ) -> tuple[TrainState, Records]:
    """Takes `count` steps, with space for the records of `length` steps."""

    def advance(state: TrainState, plan: PyTree, *shared: Any) -> Any:
      start, count, data = shared
      _, shapes = jax.eval_shape(self._step_lane, state, plan, start, data)
      room = jax.tree.map(
        lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), shapes
      )

      def one(number: jax.Array, carry: tuple[TrainState, Records]) -> Any:
        state, records = carry
        state, new = self._step_lane(state, plan, start + number, data)
        return state, jax.tree.map(
          lambda old, leaf: old.at[number].set(leaf), records, new
        )

      return jax.lax.fori_loop(0, count, one, (state, room))

    in_axes = (0, 0, None, None, None)
    return lanes.vmapped(advance, in_axes)(state, plan, start, count, data)
