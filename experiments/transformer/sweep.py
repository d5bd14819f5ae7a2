"""Trains a model of a study at its best learning rate.

Lanes are learning rates and seeds. A result is a part of the run; unlike the
models of the free comparison, those of a study have no checkpoints.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.lab import figures, tuning
from experiments.lab.data.sequences import Task
from experiments.lab.errors import RefusedError
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import devices, lanes
from experiments.lab.training.engine import Engine
from experiments.lab.training.losses import guessing
from experiments.lab.training.step import TrainState
from experiments.transformer import training
from experiments.transformer.options import Config

if TYPE_CHECKING:
  from matplotlib.axes import Axes

RATES = tuning.half_decades(-7, -3)  # 0.0003 to 0.03.

# What the small studies share: simple as in the papers, and small enough for
# many seeds and rates.
SETTINGS: Mapping[str, Any] = {
  "seeds": 5,
  "layers": 4,
  "width": 48,
  "context": 32,
  "batch_size": 16,
  "steps": 300,
  "warmup_steps": 0,
  "schedule": "constant",
  "weight_decay": 0.0,
  "clip_norm": 0.0,
  "kernel_init": "lecun",
}
QUICK: Mapping[str, Any] = {
  "seeds": 2,
  "tuning_seeds": 1,
  "layers": 1,
  "width": 8,
  "heads": 2,
  "context": 8,
  "steps": 10,
  "batch_size": 4,
}
CONFIRM: Mapping[str, Any] = {"seed": 120, "seeds": 20}

_POINTS = 30  # Of a curve of the training loss.

# Measures more of trained lanes, each `[lanes]`.
More = Callable[[Engine, TrainState], Mapping[str, Any]]


def _nothing(engine: Engine, state: TrainState) -> Mapping[str, Any]:
  del engine, state
  return {}


def load(config: Config, run: Run) -> Task:
  """Returns the task of a study.

  Raises:
    RefusedError: The settings name several norms or placements, or the data are
      not available.
  """
  if len(config.norm) > 1 or len(config.placement) > 1:
    raise RefusedError(
      f"--study={config.study} takes one norm and one placement."
    )
  task = training.load_task(config, run.data_dir)
  training.check(config, task)
  if config.task in ("lm", "mnist"):
    run.use_data(task.name, (task.data, task.validation, task.test))
  else:
    run.data = task.name
  run.tell(
    f"{task.name}: {len(task.validation.targets):,} sequences of"
    f" {task.context} for validation, {len(task.test.targets):,} for the test."
    f" {devices.describe(None)}."
  )
  return dataclasses.replace(
    task,
    validation=devices.replicate(task.validation, None),
    test=devices.replicate(task.test, None),
  )


def tell(run: Run, models: Iterable[Config], task: Task) -> None:
  """Checks the models and says what to know of them, before the run begins."""
  models = list(models)
  for model in models:
    training.check(model, task)
  for remark in training.remarks(models, task):
    run.tell(remark)


def train(
  config: Config,
  task: Task,
  rates: Sequence[float],
  seeds: Sequence[int],
  more: More = _nothing,
) -> Parts:
  """Trains every seed at every learning rate.

  Args:
    config: Configuration with one norm and one placement.
    task: Task to train on.
    rates: Learning rates.
    seeds: Seeds.
    more: Measures more of the last parameters.

  Returns:
    Arrays `[rates, seeds]`: the loss on the "validation" and the "test" set,
    and what `more` returns. The training "loss", `[rates, seeds, points]`, is
    averaged over steps between points. Lanes that diverged are NaN.
  """
  engine = training.make_engine(config, task, swept=True)
  state = engine.init(seeds, learning_rate=rates)
  state, records = engine.train(state, config.steps)
  points = np.array_split(records.loss, min(_POINTS, config.steps), axis=1)
  found = {
    "validation": engine.evaluate(state.variables, task.validation)["loss"],
    "test": engine.evaluate(state.variables, task.test)["loss"],
    "loss": np.stack([part.mean(axis=1) for part in points], axis=1),
    **more(engine, state),
  }
  return lanes.by_rate(found, len(rates))


def tuned(
  run: Run,
  name: str,
  config: Config,
  task: Task,
  more: More = _nothing,
) -> Parts:
  """Returns the results `[seeds]` of a model at its best rate; see `tuning`."""

  def measured(rates: Sequence[float], seeds: Sequence[int]) -> Parts:
    # To choose a rate, the validation loss is enough.
    judged = seeds == config.seed_numbers
    return train(config, task, rates, seeds, more if judged else _nothing)

  return tuning.tuned(run, name, measured, RATES, config)


def at_rate(
  run: Run,
  name: str,
  config: Config,
  task: Task,
  rate: float,
  more: More = _nothing,
) -> Parts:
  """Returns the results `[seeds]` of a model at a given rate."""
  part = functools.partial(train, config, task, more=more)
  return tuning.at_rate(run, name, part, rate, config.seed_numbers)


def capped(losses: np.ndarray, task: Task) -> np.ndarray:
  """Returns losses of at most that of guessing, for diverged seeds too.

  >>> capped(np.array([1.0, np.nan, 9.0]), type("Two", (), {"classes": 2}))
  array([0.69314718, 0.69314718, 0.69314718])
  """
  return np.fmin(losses, guessing(task.classes))


def show(results: Mapping[str, Parts], columns: Mapping[str, str]) -> None:
  """Prints a table of the models.

  Args:
    results: Results `[seeds]` by the name of a model.
    columns: Titles of the columns, by the name of a result.
  """
  rows = [
    [
      name,
      f"{found['rate']:.2g}",
      *(
        shown(found[column], ".4g" if "logit" in column else ".4f")
        if column in found
        else None
        for column in columns
      ),
    ]
    for name, found in results.items()
  ]
  print(f"\n{table(rows, ['model', 'rate', *columns.values()])}\n")


def draw_rates(
  panel: "Axes",
  run: Run,
  arm: str,
  task: Task,
  norm: str = "none",
  **options: Any,
) -> None:
  """Draws the validation loss of the tuning seeds over learning rates."""
  choice = run.rates[arm]
  losses = np.array(choice["validation"], np.float64)
  figures.curve(
    panel, choice["rates"], capped(losses, task)[None], norm, **options
  )


def draw_choice(
  panel: "Axes", run: Run, norms: Iterable[str], task: Task
) -> None:
  """Draws `draw_rates` of each norm, whose arms have their names."""
  for norm in norms:
    draw_rates(panel, run, norm, task, norm)
  label_rates(panel)


def label_rates(panel: "Axes") -> None:
  figures.label(
    panel,
    "Choice of the learning rate",
    "Learning rate",
    "Validation loss (nats)",
    log_x=True,
  )


def curve_steps(config: Config, curve: np.ndarray) -> np.ndarray:
  """Returns the steps `[points]` at which the points of a curve end."""
  count = curve.shape[-1]
  return np.linspace(config.steps / count, config.steps, count)
