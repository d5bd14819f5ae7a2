"""Training of transformers: one compiled stretch of steps, many seeds at once.

As in `training`, every array of a run has a leading axis of seeds, and a seed
goes through the same numbers alone or with others, but for rounding. Batches
are drawn, not taken from epochs: the number of a step decides on its batch, so
that a run that goes on after a kill draws what it would have drawn.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from experiments.lab import batch_statistics, devices, seeds, stopping
from experiments.lab.batch_statistics import Pooled
from experiments.lab.sequence_tasks import Array, Batch, Task
from experiments.lab.stopping import Stopping
from experiments.lab.train_step import Sums, TrainState, init_state
from experiments.lab.transformer import block_name
from experiments.lab.weight_decay import decay_mask

PyTree = Any

SCHEDULES = ("constant", "cosine")

# Vaswani et al., 2017, section 5.3. With 0.999 the second moment remembers the
# large gradients of the start for a thousand steps.
_B2 = 0.98

_TOKENS_AT_ONCE = 8192  # In evaluation, about.
_NEVER = 2**31 - 1


@struct.dataclass
class Stretch:
  """What a stretch of steps showed, each `[seeds]`.

  Attributes:
    sums: Loss of the batches when they were trained on.
    first_grad_norm, last_grad_norm: Norms of the gradient of the first and the
      last block, before clipping, summed over the steps.
  """

  sums: Sums
  first_grad_norm: jax.Array | np.ndarray
  last_grad_norm: jax.Array | np.ndarray


def make_optimizer(
  *,
  learning_rate: float,
  warmup_steps: int,
  schedule: str,
  steps: int,
  weight_decay: float,
  clip_norm: float,
) -> optax.GradientTransformation:
  """Returns Adam with all that goes with transformers.

  Args:
    learning_rate: The highest.
    warmup_steps: Over these it grows linearly, from one part of them on.
    schedule: After the warm-up, "constant", or "cosine" to a tenth.
    steps: Where the cosine ends.
    weight_decay: Times the learning rate, taken off kernels and embeddings.
    clip_norm: Gradients of a larger norm are scaled down to it; 0 never.
  """
  clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  # The parameters' own mask would have the seeds' axis in it.
  return optax.chain(
    clip,
    optax.adamw(
      functools.partial(
        _learning_rate,
        highest=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=steps - warmup_steps if schedule == "cosine" else 0,
      ),
      b2=_B2,
      weight_decay=weight_decay,
      mask=decay_mask,
    ),
  )


def _learning_rate(
  step: jax.Array, *, highest: float, warmup_steps: int, decay_steps: int
) -> jax.Array:
  step = jnp.asarray(step, jnp.float32)
  # The first step counts: a rate of zero would waste it.
  warm = jnp.minimum(1.0, (step + 1) / max(1, warmup_steps))
  if decay_steps <= 0:
    return highest * warm
  done = jnp.clip((step - warmup_steps) / decay_steps, 0.0, 1.0)
  return highest * warm * (0.55 + 0.45 * jnp.cos(jnp.pi * done))


class SequenceTrainer:
  """The compiled functions of a run: initialize, train, evaluate."""

  def __init__(
    self,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    task: Task,
    *,
    batch_size: int,
    mesh: Mesh | None = None,
  ):
    """Sets up; compiles nothing yet.

    Args:
      model: A `LanguageModel` or `Classifier`, as the task needs.
      optimizer: Of optax.
      task: What to train on.
      batch_size: Sequences in a training step.
      mesh: Devices that share every batch, and get the task's data; None for
        one. A state must be on all of them (`devices.replicate`).
    """
    self.model = model
    self.task = dataclasses.replace(
      task,
      data=devices.share(task.data, mesh),
      validation=devices.replicate(task.validation, mesh),
      test=devices.replicate(task.test, mesh),
    )
    self.batch_size = batch_size
    self.mesh = mesh
    self._optimizer = optimizer
    self._init = devices.jit(
      jax.vmap(self.init_seed),
      mesh,
      # Runs once: optimizing it takes longer than it gains.
      compiler_options={"xla_backend_optimization_level": 0},
    )
    self._train = devices.jit(
      seeds.vmapped(self._train_seed, in_axes=(0, None, None)),
      mesh,
      donate_argnums=0,
    )
    self._evaluate = {
      train: devices.jit(
        seeds.vmapped(
          functools.partial(self._evaluate_seed, train=train),
          in_axes=(0, 0, None),
        ),
        mesh,
      )
      for train in (False, True)
    }
    self._largest_logit = devices.jit(
      seeds.vmapped(self._largest_logit_seed, in_axes=(0, 0, None)), mesh
    )
    self.update_stopping = devices.jit(
      jax.vmap(
        functools.partial(stopping.update, patience=_NEVER, min_delta=0.0),
        in_axes=(0, 0, 0, 0, None),
      ),
      mesh,
      donate_argnums=0,
    )

  def init(self, numbers: Sequence[int]) -> tuple[TrainState, Stopping]:
    """Returns the start of a run.

    Args:
      numbers: One per seed. Equal numbers give equal kernels, batches and
        dropout, whatever norm the model uses, and wherever it stands.
    """
    return self._init(np.asarray(numbers, np.uint32))

  def check(self) -> TrainState:
    """Traces a training step, so that the model can refuse; computes nothing.

    Returns:
      Shapes and dtypes of the state of one seed.

    Raises:
      TypeError, ValueError: Whatever the model has to object.
    """

    def first_step(data: PyTree) -> TrainState:
      state, _ = self.init_seed(jnp.zeros((), jnp.uint32))
      batch = self.task.draw(state.key, data, self.batch_size)
      return self.train_step(state, batch)[0]

    return jax.eval_shape(first_step, self.task.data)

  def train(self, state: TrainState, steps: int) -> tuple[TrainState, Stretch]:
    """Trains for some steps more.

    Args:
      state: With a leading seed axis. Donated: use the returned one.
      steps: How many; another number compiles nothing anew.
    """
    return self._train(state, steps, self.task.data)

  def evaluate(
    self,
    params: PyTree,
    batch_stats: PyTree,
    examples: Batch,
    *,
    train: bool = False,
  ) -> Sums:
    """Returns the metrics `[seeds]` of all examples, each counted once.

    Args:
      params, batch_stats: With a leading seed axis.
      examples: Shared by the seeds.
      train: Whether batch norm uses the statistics of each batch of examples,
        as in training. Nothing is dropped.
    """
    sums = self._evaluate[train](params, batch_stats, examples)
    expected = int(examples.counted.sum())
    if (np.asarray(sums.count) != expected).any():
      raise AssertionError(f"Counted {sums.count} of {expected} targets.")
    return sums

  def largest_logit(self, params: PyTree, batch_stats: PyTree) -> jax.Array:
    """Returns the largest attention logit `[seeds]`, in absolute value.

    Args:
      params, batch_stats: With a leading seed axis. All heads and layers see
        some examples for validation.
    """
    examples = self.task.validation
    some = jax.tree.map(lambda array: array[: self.batch_size], examples)
    return self._largest_logit(params, batch_stats, some)

  def reestimate_batch_stats(
    self, model: nn.Module, params: PyTree, batch_stats: PyTree, *, batches: int
  ) -> PyTree:
    """Returns batch statistics that belong to the parameters.

    Args:
      model: A copy of the trainer's model, but without dropout and memory: in
        training, its batch statistics become those of the batch.
      params, batch_stats: With a leading seed axis.
      batches: Of training data, how many to draw. The same for all seeds.
    """

    def reestimate(
      params: PyTree, batch_stats: PyTree, key: jax.Array, data: PyTree
    ) -> PyTree:
      def add(number: jax.Array, pooled: Pooled) -> Pooled:
        batch = self.task.draw(
          jax.random.fold_in(key, number), data, self.batch_size
        )
        batch = devices.split(batch, self.mesh)
        _, updated = model.apply(
          {"params": params, "batch_stats": pooled.average},
          batch.inputs,
          mask=batch.mask,
          train=True,
          mutable=["batch_stats"],
        )
        return batch_statistics.add(pooled, updated["batch_stats"])

      pooled = batch_statistics.start(batch_stats)
      pooled = jax.lax.fori_loop(0, batches, add, pooled)
      return batch_statistics.finish(pooled)

    over_seeds = seeds.vmapped(reestimate, in_axes=(0, 0, None, None))
    key = devices.replicate(jax.random.key(0), self.mesh)
    return devices.jit(over_seeds, self.mesh)(
      params, batch_stats, key, self.task.data
    )

  # What follows handles one seed.

  def init_seed(self, seed: jax.Array) -> tuple[TrainState, Stopping]:
    inputs = self.task.validation.inputs
    sample = jnp.zeros((1, *inputs.shape[1:]), inputs.dtype)
    state = init_state(self.model, self._optimizer, seed, sample)
    return state, stopping.start(state.params, state.batch_stats)

  def gradient(self, state: TrainState, batch: Batch) -> PyTree:
    """Returns the gradient of the mean loss; pure, to be jitted."""
    return self._gradient(state, batch)[0]

  def _gradient(
    self, state: TrainState, batch: Batch
  ) -> tuple[PyTree, tuple[Sums, PyTree]]:
    _, dropout_key = jax.random.split(state.key)
    rngs = {"dropout": jax.random.fold_in(dropout_key, state.step)}

    def objective(params: PyTree) -> tuple[jax.Array, tuple[Sums, PyTree]]:
      logits, updated = self.model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        batch.inputs,
        mask=batch.mask,
        train=True,
        rngs=rngs,
        mutable=["batch_stats"],
      )
      sums = _sums(jnp.asarray(logits), batch.targets, batch.counted)
      loss = jnp.asarray(sums.loss) / jnp.maximum(sums.count, 1)
      return loss, (sums, updated.get("batch_stats", {}))

    return jax.grad(objective, has_aux=True)(state.params)

  def train_step(
    self, state: TrainState, batch: Batch
  ) -> tuple[TrainState, Stretch]:
    """Takes one step; pure, to be jitted."""
    grads, (sums, batch_stats) = self._gradient(state, batch)
    updates, opt_state = self._optimizer.update(
      grads, state.opt_state, state.params
    )
    new_state = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
      key=state.key,
    )
    first, last = (
      _norm(grads[block_name(layer)]) for layer in (0, self.model.layers - 1)
    )
    return new_state, Stretch(sums, first, last)

  def _train_seed(
    self, state: TrainState, steps: jax.Array, data: PyTree
  ) -> tuple[TrainState, Stretch]:
    draw_key, _ = jax.random.split(state.key)

    def step(
      _: jax.Array, carry: tuple[TrainState, Stretch]
    ) -> tuple[TrainState, Stretch]:
      state, total = carry
      key = jax.random.fold_in(draw_key, state.step)
      batch = self.task.draw(key, data, self.batch_size)
      batch = devices.split(batch, self.mesh)
      state, new = self.train_step(state, batch)
      state = devices.join(state, self.mesh)
      return state, jax.tree.map(jnp.add, total, new)

    zero = np.zeros((), np.float32)
    start = Stretch(_no_sums(), zero, zero)
    return jax.lax.fori_loop(0, steps, step, (state, start))

  def _evaluate_seed(
    self, params: PyTree, batch_stats: PyTree, examples: Batch, *, train: bool
  ) -> Sums:
    model = self.model.clone(dropout=0.0)

    def add(total: Sums, batch: Batch) -> tuple[Sums, None]:
      batch = devices.split(batch, self.mesh)
      logits, _ = model.apply(
        {"params": params, "batch_stats": batch_stats},
        batch.inputs,
        mask=batch.mask,
        train=train,
        mutable=["batch_stats"],
      )
      new = _sums(jnp.asarray(logits), batch.targets, batch.counted)
      return jax.tree.map(jnp.add, total, new), None

    count, time = examples.inputs.shape[:2]
    # Batch statistics depend on the size of the batch.
    size = self.batch_size
    if not train:
      size = devices.multiple(max(1, _TOKENS_AT_ONCE // time), self.mesh)
    whole = count // size * size
    stacked = jax.tree.map(
      lambda array: array[:whole].reshape(-1, size, *array.shape[1:]), examples
    )
    sums, _ = jax.lax.scan(add, _no_sums(), stacked)
    if whole < count:
      rest = jax.tree.map(lambda array: array[whole:], examples)
      sums, _ = add(sums, rest)
    return sums

  def _largest_logit_seed(
    self, params: PyTree, batch_stats: PyTree, examples: Batch
  ) -> jax.Array:
    examples = devices.split(examples, self.mesh)
    _, found = self.model.apply(
      {"params": params, "batch_stats": batch_stats},
      examples.inputs,
      mask=examples.mask,
      train=False,
      mutable=["diagnostics"],
    )
    return jnp.max(jnp.stack(jax.tree.leaves(found)))


def _norm(tree: PyTree) -> jax.Array:
  squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]
  return jnp.sqrt(jnp.sum(jnp.stack(squares)))


def _no_sums() -> Sums:
  zero = np.zeros((), np.float32)
  return Sums(zero, zero, zero)


def _sums(logits: jax.Array, targets: Array, counted: Array) -> Sums:
  logits = logits.astype(jnp.float32)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
  return Sums(
    loss=jnp.sum(loss, where=counted),
    correct=jnp.sum(correct, where=counted),
    count=jnp.sum(counted, dtype=jnp.float32),
  )
