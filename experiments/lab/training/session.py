"""The trainings of a run: checkpoints, metrics files, progress, printed lines.

A run trains several models, one after the other. Each has its own checkpoints;
all share one metrics file. If the process is killed, the resumed run continues
after the last checkpoint and ends with the same numbers.
"""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.lab.data.batch import Examples
from experiments.lab.runs.checkpoints import Checkpoint, Checkpoints
from experiments.lab.runs.metrics import MetricsLog
from experiments.lab.runs.progress import progress as progress_bar
from experiments.lab.training import devices
from experiments.lab.training import fit as fitting
from experiments.lab.training.engine import Engine
from experiments.lab.training.fit import Progress, Report, Schedule

Record = dict[str, Any]


class Column(NamedTuple):
  """A column of the table that is printed while a model trains.

  Attributes:
    title: Title of the column.
    metric: Metric to show; if it has a number per seed, their mean is shown. A
      seed that has stopped counts with its last number.
    form: Format specification, such as ".4f".
    factor: Factor of the shown number, such as 100 for percent.
    suffix: Suffix of each number.
  """

  title: str
  metric: str
  form: str = ".4f"
  factor: float = 1.0
  suffix: str = ""

  @property
  def width(self) -> int:
    return max(len(self.title), 8 + len(self.suffix))

  def cell(self, records: Sequence[Record]) -> str:
    """Returns the cell of the last record."""
    value = self.factor * mean(records, self.metric)
    return f"{value:{self.form}}{self.suffix}".rjust(self.width)


class Style(NamedTuple):
  """How the progress of trainings is recorded and printed.

  Attributes:
    columns: Columns of the table.
    unit: Unit of progress, "epoch" or "step"; also its key in a record.
    unit_steps: Number of steps in a unit.
    extra: Returns more entries of a record.
  """

  columns: Sequence[Column]
  unit: str = "step"
  unit_steps: int = 1
  extra: Callable[[Report], Record] = lambda report: {}


class Session:
  """Context manager for the trainings of one run."""

  def __init__(
    self, folder: pathlib.Path, names: Sequence[str], label: str = "model"
  ):
    """Reads the checkpoints and records of earlier processes.

    Args:
      folder: Folder of the run.
      names: Names of all models, in the order of their training.
      label: Key of a model's name in the records.
    """
    self._label = label
    self._folder = folder
    self._newest = {
      name: checkpoints_of(folder, name).newest() for name in names
    }
    self.records: dict[str, list[Record]] = {
      name: list(newest.records) if newest else []
      for name, newest in self._newest.items()
    }
    known = [record for name in names for record in self.records[name]]
    self.seconds = sum(record["seconds"] for record in known)
    self._log = MetricsLog(folder, known)

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._log.close()

  def saved(self) -> list[str]:
    """Returns how far each model is, such as "ln up to epoch 3"."""
    return [
      f"{name} up to {unit} {records[-1][unit]}"
      for name, records in self.records.items()
      for unit in ("epoch", "step")
      if records and unit in records[-1]
    ]

  def fit(
    self,
    name: str,
    engine: Engine,
    *,
    seeds: range,
    validation: Examples,
    schedule: Schedule,
    style: Style,
    measure: Callable[[Any], dict[str, Any]] = lambda state: {},
  ) -> Progress:
    """Trains a model from its last checkpoint on, and prints its progress.

    Args:
      name: Name of the model.
      engine: Engine that trains it.
      seeds: Seeds of the lanes.
      validation, schedule, measure: As in `fit.fit`.
      style: How to record and print.

    Returns:
      The progress at the end.
    """
    records, saved = self.records[name], checkpoints_of(self._folder, name)
    unit = style.unit
    progress = fitting.start(engine, seeds)
    if newest := self._newest.pop(name):
      progress = restored(newest, progress, engine.mesh)
    parameters = jax.tree.leaves(progress.state.params)
    count = sum(leaf[0].size for leaf in parameters)
    means = "; means, of stopped seeds the last values" if seeds[1:] else ""
    print(f"\n{name}, {seeds_text(seeds)}, {count:,} parameters{means}")
    if progress.step:
      print(f"Resuming after {unit} {progress.step // style.unit_steps}.")
    titles = (column.title.rjust(column.width) for column in style.columns)
    print("  ".join([unit.rjust(6), *titles]))
    with progress_bar(
      total=schedule.steps // style.unit_steps, description=name, unit=unit
    ) as bar:
      bar.update(progress.step // style.unit_steps)
      stopped = progress.stopped
      steps = fitting.fit(
        engine, progress, validation, schedule, measure=measure
      )
      for progress, report in steps:
        record = self._record(name, report, style)
        tree = progress.state, progress.stopping
        saved.save(report.step, tree, [*records, record])
        records.append(record)
        self._log.append(record)
        bar.update(report.steps // style.unit_steps)
        cells = (column.cell(records) for column in style.columns)
        bar.write("  ".join([f"{record[unit]:6d}", *cells]))
        for index in np.flatnonzero(progress.stopped & ~stopped):
          bar.write(
            _stop_line(
              progress,
              int(index),
              seeds[int(index)],
              f"{unit} {record[unit]}",
              schedule,
            )
          )
        stopped = progress.stopped
    return progress

  def _record(self, name: str, report: Report, style: Style) -> Record:
    return {
      self._label: name,
      style.unit: report.step // style.unit_steps,
      **{key: numbers(values) for key, values in report.metrics.items()},
      "seconds": round(report.seconds, 4),
      **style.extra(report),
    }


def checkpoints_of(folder: pathlib.Path, name: str) -> Checkpoints:
  """Returns the checkpoints of a model in the folder of a run."""
  return Checkpoints(folder / "checkpoints" / name.replace(" ", "-"))


def restored(saved: Checkpoint, start: Progress, mesh: Mesh | None) -> Progress:
  """Returns the progress in a checkpoint.

  Args:
    saved: Checkpoint of the training.
    start: Its progress before the first step, which gives shapes and dtypes.
    mesh: Devices that hold the progress; None for one device.

  Raises:
    RefusedError: The checkpoint is of another model.
  """
  tree = saved.tree((start.state, start.stopping))
  return Progress(saved.step, *devices.replicate(tree, mesh))


def numbers(values: Any) -> list[float | None]:
  """Returns a number per seed for JSON, None where it is not finite."""
  return [
    value if math.isfinite(value) else None
    for value in np.asarray(values, np.float64).tolist()
  ]


def mean(records: Sequence[Record], metric: str) -> float:
  """Returns the mean over seeds of a metric in the last record.

  A seed that has stopped counts with its last number, so that the mean does not
  jump when it stops. Without any number it is NaN.
  """
  if isinstance(records[-1][metric], float):
    return float(records[-1][metric])
  last = carried(history(records, metric))[:, -1]
  known = last[np.isfinite(last)]
  return float(np.mean(known)) if known.size else math.nan


def carried(values: np.ndarray) -> np.ndarray:
  """Replaces numbers that are not finite by the last finite one before them.

  >>> carried(np.array([[3.0, 2.0, np.nan], [np.nan, 1.0, 0.5]]))
  array([[3. , 2. , 2. ],
         [nan, 1. , 0.5]])
  """
  known = np.isfinite(values)
  at = np.where(known, np.arange(values.shape[1])[None], 0)
  at = np.maximum.accumulate(at, axis=1)
  values = np.where(known, values, np.nan)
  return np.take_along_axis(values, at, axis=1)


def history(records: Sequence[Mapping[str, Any]], metric: str) -> np.ndarray:
  """Returns a metric `[seeds, evaluations]`, NaN where a seed had stopped."""
  return np.array([record[metric] for record in records], np.float64).T


def seeds_text(seeds: range) -> str:
  """Returns a text such as "seeds 0 to 4".

  >>> seeds_text(range(3, 4)), seeds_text(range(3, 6))
  ('seed 3', 'seeds 3 to 5')
  """
  if len(seeds) == 1:
    return f"seed {seeds[0]}"
  return f"seeds {seeds[0]} to {seeds[-1]}"


def _stop_line(
  progress: Progress, lane: int, seed: int, when: str, schedule: Schedule
) -> str:
  if progress.stopping.diverged[lane]:
    return (
      f"Seed {seed} DIVERGED by {when}: its loss is not finite. Its training"
      " ends here; a smaller --learning_rate may help."
    )
  unit = when.split()[0]
  return (
    f"Seed {seed}: early stopping after {when}, no better by more than"
    f" {schedule.min_delta:g} for {schedule.patience} {unit}s."
  )
