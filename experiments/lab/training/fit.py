"""Training with evaluations in between, until all lanes stop."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from experiments.lab.data.batch import Examples
from experiments.lab.training import devices, stopping
from experiments.lab.training.engine import Engine
from experiments.lab.training.step import TrainState
from experiments.lab.training.stopping import Stopping

NEVER = 2**31 - 1


class Schedule(NamedTuple):
  """When to evaluate, and when to stop.

  Attributes:
    every: Number of steps between two evaluations, such as an epoch.
    steps: Maximum number of steps.
    patience: A seed stops after this many evaluations without improvement.
    min_delta: The validation loss improves if it is below the best by more than
      this.
  """

  every: int
  steps: int
  patience: int = NEVER
  min_delta: float = 0.0


@struct.dataclass
class Progress:
  """Everything needed to continue a training, with a leading axis of lanes."""

  step: int
  state: TrainState
  stopping: Stopping

  @property
  def stopped(self) -> np.ndarray:
    return np.asarray(self.stopping.stopped)


class Report(NamedTuple):
  """Results of a stretch of steps and of the evaluation after it.

  Attributes:
    step: Total number of steps taken.
    steps: Number of steps of the stretch.
    seconds: Time of training and evaluation.
    train_seconds: Time of training.
    metrics: Arrays `[lanes]`, NaN for lanes that had stopped before.
  """

  step: int
  steps: int
  seconds: float
  train_seconds: float
  metrics: dict[str, np.ndarray]


def start(engine: Engine, seeds: Sequence[int]) -> Progress:
  """Returns the progress before the first step."""
  return begin(engine, engine.init(seeds))


def begin(engine: Engine, state: TrainState) -> Progress:
  """Returns the progress of a state without steps."""

  def stopping_of(variables: Any) -> Stopping:
    # Copies, because an array must not be donated twice.
    return stopping.start(jax.tree.map(jnp.copy, variables))

  return Progress(
    0, state, devices.jit(jax.vmap(stopping_of), engine.mesh)(state.variables)
  )


def fit(
  engine: Engine,
  progress: Progress,
  validation: Examples,
  schedule: Schedule,
  *,
  measure: Callable[[TrainState], dict[str, Any]] = lambda state: {},
  criterion: Callable[[Mapping[str, np.ndarray]], np.ndarray] = (
    lambda metrics: metrics["loss"]
  ),
) -> Iterator[tuple[Progress, Report]]:
  """Trains until every lane has stopped or all steps are taken.

  Args:
    engine: Engine that trains.
    progress: Start or continuation. It is donated, and so is every yielded
      progress when the iteration continues.
    validation: Validation set on the device, of all lanes or of each lane.
    schedule: When to evaluate and when to stop.
    measure: Called after each stretch; returns more metrics, each `[lanes]`.
    criterion: Returns from the validation metrics what is lowest at the best
      evaluation, `[lanes]`; it takes the place of the validation loss in
      `stopping`.

  Yields:
    The progress and the report after each evaluation. Stopped lanes are still
    trained along with the others, but their metrics are NaN.
  """
  update = devices.jit(
    jax.vmap(
      functools.partial(
        stopping.update,
        patience=schedule.patience,
        min_delta=schedule.min_delta,
      ),
      in_axes=(0, 0, 0, 0, None),
    ),
    engine.mesh,
    donate_argnums=0,
  )
  while progress.step < schedule.steps and not progress.stopped.all():
    began = time.perf_counter()
    running = ~progress.stopped
    steps = min(schedule.every, schedule.steps - progress.step)
    state, records = engine.train(progress.state, steps)
    trained = time.perf_counter()
    train = {
      name if name in records.watched else f"train_{name}": values
      for name, values in records.means().items()
    }
    val = engine.evaluate(state.variables, validation)
    step = progress.step + steps
    stopped = update(
      progress.stopping,
      state.variables,
      train["train_loss"].astype(np.float32),
      criterion(val).astype(np.float32),
      step,
    )
    progress = Progress(step, state, stopped)
    metrics = {
      **train,
      **{f"val_{name}": values for name, values in val.items()},
      **measure(state),
    }
    yield (
      progress,
      Report(
        step,
        steps,
        time.perf_counter() - began,
        trained - began,
        {
          name: np.where(running, np.asarray(values), np.nan)
          for name, values in metrics.items()
        },
      ),
    )
