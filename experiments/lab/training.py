"""Training of classifiers: one compiled epoch, many seeds, early stopping.

Every array of a run has a leading axis of seeds. A seed has its own
parameters, data order, dropout and batch statistics: it goes through the same
numbers whether it runs alone or with others, but for rounding, since XLA may
add in another order when the number of seeds changes.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from experiments.lab import batch_statistics, devices, seeds
from experiments.lab import stopping as early_stopping
from experiments.lab.batch_statistics import Pooled
from experiments.lab.stopping import Stopping
from experiments.lab.train_step import (
  Examples,
  Sums,
  TrainState,
  init_state,
  make_eval_step,
  make_train_step,
)

PyTree = Any


@struct.dataclass
class Progress:
  """All that a run needs to go on after an epoch, with a leading seed axis."""

  epoch: int
  state: TrainState
  stopping: Stopping


class EpochReport(NamedTuple):
  """What an epoch showed, each metric `[seeds]` and NaN for stopped seeds."""

  epoch: int
  seconds: float
  metrics: dict[str, np.ndarray]


class Trainer:
  """The compiled functions of a run: initialize, train, evaluate, stop.

  Where `scan` is true, an epoch is one compiled function: shuffle and scan
  over the minibatches, mapped over the seeds, with the state donated. Where it
  is false, each minibatch is a call of one compiled step, with the same
  results: convolutions inside a scan are some ten times slower on the CPU
  (https://github.com/jax-ml/jax/issues/12868). The seeds are then unrolled
  within the step: vmap would merge their convolutions into a grouped one,
  which takes more than twice as long there.
  """

  def __init__(
    self,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    prepare: Callable[[jax.Array], jax.Array],
    batch_size: int,
    patience: int,
    min_delta: float = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
    eval_batch_size: int = 500,
    scan: bool = True,
    mesh: Mesh | None = None,
  ):
    """Sets up; compiles nothing yet.

    Args:
      model, optimizer, prepare, l1, l2: As in `make_train_step`.
      batch_size: Examples in a training step. What is left of a shuffled
        epoch after the last full batch is dropped.
      patience: A seed stops after this many epochs without improvement.
      min_delta: What counts as one: a validation loss below the best by more
        than this.
      eval_batch_size: Examples at once in evaluation. Whatever the size,
        every example counts once.
      scan: Whether the loop over minibatches is compiled.
      mesh: Devices that share every batch; None for one. Progress must be on
        all of them (`devices.replicate`), data too, or shared among them
        (`devices.share`).
    """
    self.model = model
    self.optimizer = optimizer
    self.prepare = prepare
    self.batch_size = batch_size
    self.eval_batch_size = devices.multiple(eval_batch_size, mesh)
    self.scan = scan
    self.mesh = mesh
    self.train_step = make_train_step(
      model, optimizer, prepare=prepare, l1=l1, l2=l2
    )
    self.eval_step = make_eval_step(model, prepare=prepare)
    self.update_stopping = devices.jit(
      jax.vmap(
        functools.partial(
          early_stopping.update, patience=patience, min_delta=min_delta
        ),
        in_axes=(0, 0, 0, 0, None),
      ),
      mesh,
      donate_argnums=0,
    )
    self.over_seeds = over_seeds = seeds.vmapped if scan else seeds.unrolled
    self._init = devices.jit(
      jax.vmap(self._init_seed, in_axes=(0, None)),
      mesh,
      # Runs once: optimizing it takes a second, and gains nothing.
      compiler_options={"xla_backend_optimization_level": 0},
    )
    self._order = devices.jit(
      jax.vmap(self._order_seed, in_axes=(0, None, None)), mesh
    )
    self._train_epoch = devices.jit(
      seeds.vmapped(self._train_epoch_seed, in_axes=(0, None, None)),
      mesh,
      donate_argnums=0,
    )
    self._train_batch = devices.jit(
      over_seeds(self._train_batch_seed, in_axes=(0, 0, None, None)),
      mesh,
      donate_argnums=0,
    )
    self._evaluate = devices.jit(
      seeds.vmapped(self._evaluate_seed, in_axes=(0, 0, None)), mesh
    )
    self._evaluate_batch = devices.jit(
      over_seeds(self._evaluate_batch_seed, in_axes=(0, None, 0, 0, None)),
      mesh,
      donate_argnums=0,
    )

  def init(self, numbers: Sequence[int], inputs: jax.Array) -> Progress:
    """Returns the start of a run.

    Args:
      numbers: One per seed. Equal numbers give equal kernels, order and
        dropout, whatever norm the model uses.
      inputs: Any inputs `[n, ...]`; only their shape and dtype matter.
    """
    sample = np.zeros((1, *inputs.shape[1:]), inputs.dtype)
    state, stopping = self._init(np.asarray(numbers, np.uint32), sample)
    return Progress(0, state, stopping)

  def check(
    self, input_shape: Sequence[int], dtype: jax.typing.DTypeLike
  ) -> TrainState:
    """Traces a training step, so that the model can refuse; computes nothing.

    Args:
      input_shape: Of one example.
      dtype: Of the inputs.

    Returns:
      Shapes and dtypes of the state of one seed.

    Raises:
      TypeError, ValueError: Whatever the model has to object.
    """

    def first_step(
      inputs: jax.Array, labels: jax.Array
    ) -> tuple[TrainState, Sums]:
      sample = jnp.zeros((1, *input_shape), dtype)
      state, _ = self._init_seed(jnp.zeros((), jnp.uint32), sample)
      return self.train_step(state, Examples(inputs, labels))

    size = self.batch_size
    state, _ = jax.eval_shape(
      first_step,
      jax.ShapeDtypeStruct((size, *input_shape), dtype),
      jax.ShapeDtypeStruct((size,), jnp.int32),
    )
    return state

  def train_epoch(
    self, state: TrainState, epoch: int, train: Examples
  ) -> tuple[TrainState, Sums]:
    """Trains on every full minibatch of a fresh order.

    Args:
      state: With a leading seed axis. Donated: use the returned one.
      epoch: Its number decides on the order.
      train: On the device, shared by all seeds.

    Returns:
      The new state, and the metrics `[seeds]` of the minibatches when they
      were trained on.

    Raises:
      ValueError: There is no full minibatch.
    """
    if self.scan:
      return self._train_epoch(state, epoch, train)
    orders = self._order(state.key, epoch, train)
    carry = state, _zeros(*state.step.shape)
    for step in range(orders.shape[1]):
      carry = self._train_batch(carry, orders, step, train)
    return carry

  def evaluate(
    self, params: PyTree, batch_stats: PyTree, examples: Examples
  ) -> Sums:
    """Returns the metrics `[seeds]` of all examples, each counted once."""
    if self.scan:
      sums = self._evaluate(params, batch_stats, examples)
    else:
      sums = _zeros(len(jax.tree.leaves(params)[0]))
      for batch in range(self._evaluation_batches(examples)):
        sums = self._evaluate_batch(sums, batch, params, batch_stats, examples)
    if (np.asarray(sums.count) != len(examples.labels)).any():
      raise AssertionError(
        f"Counted {sums.count} of {len(examples.labels)} examples."
      )
    return sums

  def fit(
    self,
    progress: Progress,
    train: Examples,
    validation: Examples,
    *,
    epochs: int,
  ) -> Iterator[tuple[Progress, EpochReport]]:
    """Trains until every seed has stopped or `epochs` are over.

    Args:
      progress: Start or continuation of a run. It is donated, and so is every
        progress that this yields when the next one is asked for.
      train, validation: On the device, shared by all seeds.
      epochs: Number of epochs in all, the finished ones included.

    Yields:
      The progress after each epoch, and what the epoch showed. Stopped seeds
      are trained along with the others, but show nothing any more.
    """
    while progress.epoch < epochs and not np.all(progress.stopping.stopped):
      began = time.perf_counter()
      epoch = progress.epoch + 1
      running = ~np.asarray(progress.stopping.stopped)
      state, train_sums = self.train_epoch(progress.state, epoch, train)
      val_sums = self.evaluate(state.params, state.batch_stats, validation)
      stopping = self.update_stopping(
        progress.stopping,
        (state.params, state.batch_stats),
        train_sums,
        val_sums,
        epoch,
      )
      progress = Progress(epoch, state, stopping)
      metrics = {
        f"{split}_{name}": np.where(running, value, np.nan)
        for split, sums in (("train", train_sums), ("val", val_sums))
        for name, value in sums.means().items()
      }
      yield progress, EpochReport(epoch, time.perf_counter() - began, metrics)

  def reestimate_batch_stats(
    self,
    model: nn.Module,
    params: PyTree,
    batch_stats: PyTree,
    train: Examples,
  ) -> PyTree:
    """Returns batch statistics of the training set for given parameters.

    Args:
      model: A copy of the trainer's model, but without dropout and memory: in
        training, its batch statistics become those of the batch.
      params, batch_stats: With a leading seed axis.
      train: Its minibatches are taken in order; what is left after the last
        full one is not used.
    """

    def add_batch(
      pooled: Pooled, number: jax.Array, params: PyTree, inputs: jax.Array
    ) -> Pooled:
      # A slice would bring together all inputs, where processes share them.
      batch = inputs[number * self.batch_size + jnp.arange(self.batch_size)]
      _, updated = model.apply(
        {"params": params, "batch_stats": pooled.average},
        self.prepare(devices.split(batch, self.mesh)),
        train=True,
        mutable=["batch_stats"],
      )
      return batch_statistics.add(pooled, updated["batch_stats"])

    add = devices.jit(
      self.over_seeds(add_batch, in_axes=(0, None, 0, None)),
      self.mesh,
      donate_argnums=0,
    )
    start = devices.jit(jax.vmap(batch_statistics.start), self.mesh)
    pooled = start(batch_stats)
    for number in range(len(train.labels) // self.batch_size):
      pooled = add(pooled, number, params, train.inputs)
    return jax.vmap(batch_statistics.finish)(pooled)

  # What follows handles one seed.

  def _init_seed(
    self, seed: jax.Array, sample: jax.Array
  ) -> tuple[TrainState, Stopping]:
    state = init_state(self.model, self.optimizer, seed, self.prepare(sample))
    return state, early_stopping.start(state.params, state.batch_stats)

  def _order_seed(
    self, key: jax.Array, epoch: jax.Array, train: Examples
  ) -> jax.Array:
    """Returns the indices `[steps, batch_size]` of the epoch's minibatches."""
    count = len(train.labels)
    steps = count // self.batch_size
    if steps == 0:
      raise ValueError(
        f"A batch of {self.batch_size} is more than the {count} training"
        " examples; use a smaller batch_size."
      )
    shuffle_key, _ = jax.random.split(key)
    order = jax.random.permutation(
      jax.random.fold_in(shuffle_key, epoch), count
    )
    return order[: steps * self.batch_size].reshape(steps, self.batch_size)

  def _train_epoch_seed(
    self, state: TrainState, epoch: jax.Array, train: Examples
  ) -> tuple[TrainState, Sums]:
    order = self._order_seed(state.key, epoch, train)
    return jax.lax.fori_loop(
      0,
      len(order),
      lambda step, carry: self._train_batch_seed(carry, order, step, train),
      (state, _zeros()),
    )

  def _train_batch_seed(
    self,
    carry: tuple[TrainState, Sums],
    order: jax.Array,
    step: jax.Array,
    train: Examples,
  ) -> tuple[TrainState, Sums]:
    state, sums = carry
    batch = Examples(*(array[order[step]] for array in train))
    state, new = self.train_step(state, devices.split(batch, self.mesh))
    return devices.join(state, self.mesh), _add(sums, new)

  def _evaluation_batches(self, examples: Examples) -> int:
    return math.ceil(len(examples.labels) / self.eval_batch_size)

  def _evaluate_seed(
    self, params: PyTree, batch_stats: PyTree, examples: Examples
  ) -> Sums:
    return jax.lax.fori_loop(
      0,
      self._evaluation_batches(examples),
      lambda number, total: self._evaluate_batch_seed(
        total, number, params, batch_stats, examples
      ),
      _zeros(),
    )

  def _evaluate_batch_seed(
    self,
    total: Sums,
    number: jax.Array,
    params: PyTree,
    batch_stats: PyTree,
    examples: Examples,
  ) -> Sums:
    count = len(examples.labels)
    indices = number * self.eval_batch_size + jnp.arange(self.eval_batch_size)
    # The last batch is filled up with copies of the last example.
    batch = Examples(
      *(array[jnp.minimum(indices, count - 1)] for array in examples)
    )
    batch, valid = devices.split((batch, indices < count), self.mesh)
    sums = self.eval_step(params, batch_stats, batch, valid)
    return _add(total, sums)


def _zeros(*shape: int) -> Sums:
  # NumPy arrays, since one JAX array must not be donated three times.
  return Sums(
    loss=np.zeros(shape, np.float32),
    correct=np.zeros(shape, np.float32),
    count=np.zeros(shape, np.float32),
  )


def _add(sums: Sums, others: Sums) -> Sums:
  return jax.tree.map(jnp.add, sums, others)
