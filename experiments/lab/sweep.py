"""Step by step training of many seeds and learning rates at once.

What the epochs of `training.Trainer` sum up, the studies look into: the loss
of every step, at every learning rate. A lane is one pair of a learning rate
and a seed; equal seeds share initial parameters, data order and dropout,
whatever the norm or the learning rate.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.lab import data, seeds
from experiments.lab.study import RefusedError, Run
from experiments.lab.train_step import Examples, TrainState
from experiments.lab.training import Trainer
from normjax.linen import make_norm

PyTree = Any

# Small models have too few channels for the usual 32 groups, and short runs
# too few steps for the usual memory of the running statistics.
NORM_OPTIONS: Mapping[str, Mapping[str, Any]] = {
  "gn": {"num_groups": 8},
  "bn": {"momentum": 0.9},
}

# The split is part of the setting, like the data: it does not follow --seed.
_SPLIT_SEED = 0


# Examples that batch statistics are re-estimated over: more change nothing
# that is seen.
_REESTIMATED = 6_400


class Images(NamedTuple):
  """Image data on the device, as bytes, and how to read them."""

  name: str
  train: Examples
  test: Examples
  num_classes: int
  prepare: Callable[[jax.Array], jax.Array]


def best_rate(losses: np.ndarray) -> int:
  """Returns the index of the rate with the lowest mean, of `[rates, seeds]`.

  A rate at which a seed diverged is not among the best.
  """
  return int(np.nan_to_num(losses.mean(axis=1), nan=np.inf).argmin())


def norm_factory(norm: str, **options: Any) -> Callable[..., nn.Module]:
  """Returns what a model takes as its norm, by short name."""
  return functools.partial(
    make_norm, norm, **{**NORM_OPTIONS.get(norm, {}), **options}
  )


def load_images(
  run: Run,
  dataset: str,
  *,
  train: int | None = None,
  test: int | None = None,
  halved: bool = False,
) -> Images:
  """Loads images.

  Args:
    run: Tells where the data are.
    dataset: As in `data.load`.
    train, test: The most images to take, the same every time.
    halved: Whether to average 2x2 pixels of images larger than 16x16.

  Raises:
    RefusedError: There is no such data set.
    data.UnavailableError: There are no data.
  """
  try:
    loaded = data.load(dataset, run.data_dir)
  except ValueError as error:
    raise RefusedError(str(error)) from error

  def some(split: data.Split, most: int | None) -> Examples:
    count = len(split.labels)
    if most is not None and most < count:
      split, _ = data.train_validation_split(
        split, train_fraction=most / count, seed=_SPLIT_SEED
      )
    images = jnp.asarray(split.images)
    if halved and images.shape[1] > 16:
      n, height, width, channels = images.shape
      blocks = images.reshape(n, height // 2, 2, width // 2, 2, channels)
      images = jnp.round(blocks.mean(axis=(2, 4))).astype(jnp.uint8)
    return Examples(images, jnp.asarray(split.labels))

  images = Images(
    name=loaded.name,
    train=some(loaded.train, train),
    test=some(loaded.test, test),
    num_classes=loaded.num_classes,
    prepare=lambda x: x.astype(jnp.float32) / loaded.max_value,
  )
  run.data = images.name
  print(
    f"{images.name}: {len(images.train.labels):,} images for training,"
    f" {len(images.test.labels):,} for the test"
  )
  return images


class Sweep:
  """The compiled functions of a model under one optimizer, in lanes."""

  def __init__(
    self,
    model: nn.Module,
    optimizer: Callable[..., optax.GradientTransformation],
    *,
    prepare: Callable[[jax.Array], jax.Array],
    batch_size: int,
    hyperparams: Sequence[str] = (),
    watch: Callable[[TrainState, TrainState], Mapping[str, jax.Array]]
    | None = None,
  ):
    """Sets up; compiles nothing yet.

    Args:
      model: As in `Trainer`.
      optimizer: Called as `optimizer(learning_rate=..., **hyperparams)`.
      prepare, batch_size: As in `Trainer`.
      hyperparams: Names of what differs from lane to lane beside the learning
        rate.
      watch: Called with the states before and after a step; what it returns
        is recorded beside the loss.
    """
    self.model = model
    self.watch = watch or (lambda before, after: {})
    self.trainer = Trainer(
      model,
      optax.inject_hyperparams(optimizer)(
        learning_rate=1.0, **dict.fromkeys(hyperparams, 1.0)
      ),
      prepare=prepare,
      batch_size=batch_size,
      patience=1,
    )
    self._orders = jax.jit(
      jax.vmap(self._orders_lane, in_axes=(0, None, None)),
      static_argnums=(1, 2),
    )
    self._advance = jax.jit(
      seeds.vmapped(self._advance_lane, in_axes=(0, 0, None)), donate_argnums=0
    )

  def start(
    self,
    seed_numbers: Sequence[int],
    learning_rates: Sequence[float],
    inputs: jax.Array,
    **hyperparams: Sequence[float],
  ) -> TrainState:
    """Returns the initial state of every lane, those of one rate adjacent.

    Args:
      seed_numbers: One per seed.
      learning_rates: One per group of lanes.
      inputs: Any inputs `[n, ...]`; only their shape and dtype matter.
      **hyperparams: One value for each learning rate.
    """
    numbers = [seed for _ in learning_rates for seed in seed_numbers]
    state = self.trainer.init(numbers, inputs).state
    chosen = {"learning_rate": learning_rates, **hyperparams}
    hyperparams = state.opt_state.hyperparams | {
      name: self.per_lane(values, len(seed_numbers))
      for name, values in chosen.items()
    }
    return dataclasses.replace(
      state, opt_state=state.opt_state._replace(hyperparams=hyperparams)
    )

  @staticmethod
  def per_lane(values: Sequence[float], seed_count: int) -> jax.Array:
    """Returns one value per lane from one per group of lanes, float32."""
    return jnp.repeat(jnp.asarray(values, jnp.float32), seed_count)

  def orders(self, state: TrainState, train: Examples, steps: int) -> jax.Array:
    """Returns the indices `[lanes, steps, batch_size]` of the minibatches.

    Every epoch has a fresh order; what is left of it after the last full
    minibatch is dropped.
    """
    return self._orders(state.key, len(train.labels), steps)

  def advance(
    self, state: TrainState, orders: jax.Array, train: Examples
  ) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Takes a step per minibatch of `orders`.

    Returns:
      The new state (the old one is donated), and what was recorded, each
      `[lanes, steps, ...]`: the training "loss" before an update, and what
      `watch` returns.
    """
    state, records = self._advance(state, orders, train)
    return state, {name: np.asarray(v) for name, v in records.items()}

  def error(
    self, state: TrainState, examples: Examples, batch_stats: PyTree = None
  ) -> np.ndarray:
    """Returns the share of wrong answers in percent, `[lanes]`.

    Args:
      state: Gives parameters and, unless others are given, running statistics.
      examples: Each counts once.
      batch_stats: Such as those of `reestimated`.
    """
    stats = state.batch_stats if batch_stats is None else batch_stats
    sums = self.trainer.evaluate(state.params, stats, examples)
    return 100 * (1 - sums.means()["accuracy"])

  def reestimated(self, state: TrainState, train: Examples) -> PyTree:
    """Returns the batch statistics of the first 6,400 examples, or of all."""
    if not state.batch_stats:
      return state.batch_stats
    model: Any = self.model
    without_memory = model.clone(
      norm=functools.partial(model.norm, momentum=0.0), dropout=0.0
    )
    some = Examples(*(array[:_REESTIMATED] for array in train))
    return self.trainer.reestimate_batch_stats(
      without_memory, state.params, state.batch_stats, some
    )

  def _orders_lanes(self, keys: jax.Array, count: int, steps: int) -> jax.Array:
    return jax.vmap(lambda key: self._orders_lane(key, count, steps))(keys)

  # What follows handles one lane.

  def _orders_lane(self, key: jax.Array, count: int, steps: int) -> jax.Array:
    size = self.trainer.batch_size
    per_epoch = count // size
    if per_epoch == 0:
      raise RefusedError(
        f"A batch of {size} is more than the {count} training examples."
      )
    shuffle_key, _ = jax.random.split(key)

    def epoch(number: jax.Array) -> jax.Array:
      order = jax.random.permutation(
        jax.random.fold_in(shuffle_key, number), count
      )
      return order[: per_epoch * size].reshape(per_epoch, size)

    epochs = -(-steps // per_epoch)
    orders = jax.lax.map(epoch, jnp.arange(epochs))
    return orders.reshape(epochs * per_epoch, size)[:steps]

  def _advance_lane(
    self, state: TrainState, orders: jax.Array, train: Examples
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    def step(
      before: TrainState, indices: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
      batch = Examples(*(array[indices] for array in train))
      after, sums = self.trainer.train_step(before, batch)
      loss = jnp.asarray(sums.loss / sums.count)
      return after, {"loss": loss, **self.watch(before, after)}

    return jax.lax.scan(step, state, orders)
