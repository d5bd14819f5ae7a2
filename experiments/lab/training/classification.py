"""The common case: an image classifier with one optimizer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optax
from flax import linen as nn

from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Examples
from experiments.lab.models import nets
from experiments.lab.training import lanes
from experiments.lab.training.batches import Shuffled
from experiments.lab.training.engine import Engine
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.losses import Loss, cross_entropy
from experiments.lab.training.step import Records, TrainState, Update

PyTree = Any

# Examples for re-estimating batch statistics. At small batches more of them
# would take longer than the training.
_REESTIMATED = 6_400


def classifier(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  images: Images,
  *,
  batch_size: int,
  loss: Loss | None = None,
  **options: Any,
) -> Engine:
  """Returns the engine that trains a model on shuffled images.

  Args:
    model: Called as `model(inputs, train=...)`, returns logits.
    optimizer: An optax optimizer; from `hyperparams.swept` if each lane has its
      own learning rate.
    images: Training is on their training set. If it is of each lane, the lanes
      are those of the state: `pool.split(seeds, len(rates))`.
    batch_size: Number of examples in a step.
    loss: Loss; None means the cross-entropy without penalties.
    **options: Options of `Engine`, but `scan`.
  """
  return Engine(
    model,
    Update(loss or cross_entropy(images.prepare), optimizer),
    Shuffled(images.train, batch_size),
    sample=images.sample,
    scan=nets.scannable(model),
    **options,
  )


def at_rates(
  model: nn.Module,
  optimizer: Callable[..., optax.GradientTransformation],
  images: Images,
  *,
  batch_size: int,
  seeds: Sequence[int],
  rates: Sequence[float],
  **options: Any,
) -> tuple[Engine, TrainState]:
  """Returns the engine and the initial state of every seed at every rate.

  Args:
    model, images, batch_size: As in `classifier`.
    optimizer: Called as `optimizer(learning_rate=...)`.
    seeds: Seeds of the lanes.
    rates: Learning rates; the lanes of one rate are adjacent.
    **options: Options of `Engine`.
  """
  engine = classifier(
    model, swept(optimizer), images, batch_size=batch_size, **options
  )
  return engine, engine.init(seeds, learning_rate=rates)


def train_at_rates(
  model: nn.Module,
  optimizer: Callable[..., optax.GradientTransformation],
  images: Images,
  *,
  steps: int,
  **options: Any,
) -> tuple[Engine, TrainState, Records]:
  """Trains every seed at every learning rate, all at once.

  Args:
    model, optimizer, images: As in `at_rates`.
    steps: Number of steps.
    **options: Options of `at_rates`.

  Returns:
    The engine, the final state, and the records of every step.
  """
  engine, state = at_rates(model, optimizer, images, **options)
  return engine, *engine.train(state, steps)


def error(engine: Engine, variables: PyTree, examples: Examples) -> np.ndarray:
  """Returns the share of wrong answers in percent, `[lanes]`."""
  accuracy = engine.evaluate(variables, examples)["accuracy"]
  return 100 * (1 - accuracy)


def reestimated(
  engine: Engine, state: TrainState, examples: Examples
) -> PyTree:
  """Re-estimates batch statistics over at most 6,400 of the examples.

  Args:
    engine: From `classifier`.
    state: Gives the variables.
    examples: Training examples, of all lanes or of each lane; their minibatches
      are taken in order.

  Returns:
    The variables with the new statistics.
  """
  some = examples.first(_REESTIMATED)
  source = Shuffled(some, engine.source.size, ordered=True)
  return engine.reestimate(state.variables, source)


def results(
  engine: Engine,
  state: TrainState,
  images: Images,
  rates: int,
  **others: np.ndarray,
) -> dict[str, np.ndarray]:
  """Tests a training at several rates, with both kinds of batch statistics.

  Args:
    engine, state: From `train_at_rates`.
    images: Images, of which the test set is used, and the validation set if
      there is one.
    rates: Number of rates.
    **others: More results, `[lanes, ...]`.

  Returns:
    Arrays `[rates, seeds, ...]`: "error" in percent, "reestimated", the error
    with re-estimated batch statistics, and the others; with a validation set
    also "validation", the cross-entropy on it.
  """
  again = reestimated(engine, state, images.train)
  found = {
    **others,
    "error": error(engine, state.variables, images.test),
    "reestimated": error(engine, again, images.test),
  }
  if images.validation is not None:
    metrics = engine.evaluate(state.variables, images.validation)
    found["validation"] = metrics["loss"]
  return lanes.by_rate(found, rates)
