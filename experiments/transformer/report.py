"""Printed lines and tables of the results of transformers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.lab import comparison
from experiments.lab.data.sequences import Task
from experiments.lab.statistics import shown
from experiments.lab.tables import table
from experiments.lab.training.engine import Engine
from experiments.lab.training.fit import Progress, Report
from experiments.lab.training.session import Column, Record, Style, numbers
from experiments.transformer.options import Config

_REESTIMATED_OVER = 50  # Batches of training data.


def result(
  engine: Engine,
  progress: Progress,
  records: list[Record],
  config: Config,
  task: Task,
) -> dict[str, Any]:
  """Tests a model; returns the results of the seeds as JSON values.

  Args:
    engine: Engine that trained it.
    progress: Progress at the end.
    records: Records of its evaluations.
    config, task: Configuration and task of the training.
  """
  state, stopping = progress.state, progress.stopping
  test = engine.evaluate(stopping.best_variables, task.test)
  # The first stretch includes the compilation.
  speeds = [record["tokens_per_second"] for record in records]
  speed = float(np.median(speeds[1:] or speeds))
  last = records[-1]
  result = {
    "val_loss": numbers(stopping.best_loss),
    "best_step": np.asarray(stopping.best_step).tolist(),
    "final_val_loss": last["val_loss"],
    "final_train_loss": last["train_loss"],
    "test_loss": numbers(test["loss"]),
    "test_accuracy": numbers(test["accuracy"]),
    "largest_logit": last["largest_logit"],
    "grad_norm_first": last["grad_norm_first"],
    "grad_norm_last": last["grad_norm_last"],
    **comparison.outcome(stopping, task.classes),
    "steps": last["step"],
    "tokens_per_second": speed,
    "seconds_per_step": (
      config.batch_size * task.context * config.seeds / speed
    ),
  }
  if task.words is not None:
    val_bits, test_bits = bits_per_character(task)
    result["val_bits_per_character"] = scaled(result["val_loss"], val_bits)
    result["test_bits_per_character"] = scaled(result["test_loss"], test_bits)
  if "val_loss_batch_statistics" in last:
    result["final_val_loss_batch_statistics"] = last[
      "val_loss_batch_statistics"
    ]
  if "batch_stats" in state.variables:
    # For the last parameters, like the two losses that it is compared with.
    again = engine.reestimate(state.variables, engine.source, _REESTIMATED_OVER)
    val = engine.evaluate(again, task.validation)
    result["final_val_loss_reestimated"] = numbers(val["loss"])
  return result


def result_lines(result: Mapping[str, Any]) -> list[str]:
  """Returns the printed lines about the results of a model."""
  steps = ", ".join(map(str, result["best_step"]))
  lines = [
    f"Best parameters: after step {steps}, validation loss"
    f" {_shown(result['val_loss'])} nats"
    + _bits(result, "val_bits_per_character"),
    f"Test loss: {_shown(result['test_loss'])} nats"
    + _bits(result, "test_bits_per_character")
    + f", accuracy {_shown(scaled(result['test_accuracy'], 100))} %",
  ]
  if "final_val_loss_reestimated" in result:
    lines.append(
      "Validation loss of the last parameters: with running statistics"
      f" {_shown(result['final_val_loss'])}, re-estimated"
      f" {_shown(result['final_val_loss_reestimated'])}, of each batch"
      f" {_shown(result['final_val_loss_batch_statistics'])}"
    )
  return lines + comparison.outcome_lines(result)


def comparison_table(results: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns a table of the models, with differences from the first."""
  first, baseline = next(iter(results.items()))
  rows = []
  for name, result in results.items():
    ours, theirs = (
      np.array(losses, np.float64)
      for losses in (result["val_loss"], baseline["val_loss"])
    )
    rows.append(
      [
        name,
        _shown(result["val_loss"]),
        None if name == first else shown(ours - theirs, "+.4f"),
        _shown(result["test_loss"]),
        _shown(scaled(result["test_accuracy"], 100)),
        f"{result['tokens_per_second']:.0f}",
      ]
    )
  return table(
    rows,
    [
      "model",
      "validation loss",
      f"minus {first}",
      "test loss",
      "test accuracy (%)",
      "tokens/s",
    ],
  )


def bits_per_character(task: Task) -> tuple[float, float]:
  """Returns the bits per character of one nat per token.

  Args:
    task: A task with a text.

  Returns:
    The numbers for the validation and the test split.
  """
  assert task.words is not None
  _, validation, test = task.words.characters
  return (
    len(task.words.validation) / validation / math.log(2),
    len(task.words.test) / test / math.log(2),
  )


def scaled(values: list[float | None], factor: float) -> list[float | None]:
  return [None if value is None else factor * value for value in values]


def _shown(values: list[float | None]) -> str:
  return shown(values, ".4f")


def _bits(result: Mapping[str, Any], name: str) -> str:
  if name not in result:
    return ""
  return f" ({_shown(result[name])} bits per character)"


def style(config: Config, task: Task) -> Style:
  """Returns how the progress of a model is recorded and printed."""

  def speed(report: Report) -> Record:
    tokens = report.steps * config.batch_size * task.context * config.seeds
    return {"tokens_per_second": tokens / report.train_seconds}

  columns = [
    Column("train loss", "train_loss"),
    Column("val loss", "val_loss"),
    Column("val accuracy", "val_accuracy", ".2f", 100, " %"),
    Column("grad norm first", "grad_norm_first", ".3f"),
    Column("last", "grad_norm_last", ".3f"),
    Column("tokens/s", "tokens_per_second", ",.0f"),
  ]
  if task.words is not None:
    bits, _ = bits_per_character(task)
    columns.insert(2, Column("bits/char", "val_loss", ".3f", bits))
  return Style(columns, extra=speed)
