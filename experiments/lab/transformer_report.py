"""What training a transformer showed, in words and numbers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.lab import reporting
from experiments.lab.sequence_tasks import Task
from experiments.lab.transformer_options import Config

Record = dict[str, Any]


def result_lines(result: Mapping[str, Any]) -> list[str]:
  """Returns the lines on the results of a model."""
  steps = ", ".join(map(str, result["best_step"]))
  lines = [
    f"Best parameters: after step {steps}, validation loss"
    f" {_interval(result['val_loss'])} nats"
    + _bits(result, "val_bits_per_character"),
    f"Test loss: {_interval(result['test_loss'])} nats"
    + _bits(result, "test_bits_per_character")
    + f", accuracy {_interval(scaled(result['test_accuracy'], 100))} %",
  ]
  if "final_val_loss_reestimated" in result:
    lines.append(
      "Validation loss of the last parameters: with running statistics"
      f" {_interval(result['final_val_loss'])}, re-estimated"
      f" {_interval(result['final_val_loss_reestimated'])}, of each batch"
      f" {_interval(result['final_val_loss_batch_statistics'])}"
    )
  if any(result["diverged"]):
    lines.append(
      f"{sum(result['diverged'])} of {len(result['diverged'])} seeds diverged;"
      " they count with their best parameters before that."
    )
  return lines


def comparison_table(results: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns a table of models, each with its difference to the first."""
  first, baseline = next(iter(results.items()))
  rows = []
  for name, result in results.items():
    losses = result["val_loss"], baseline["val_loss"]
    known = None not in (*losses[0], *losses[1])
    rows.append(
      [
        name,
        _interval(losses[0]),
        f"{reporting.paired_difference(*losses):+.4f}"
        if known and name != first
        else None,
        _interval(result["test_loss"]),
        _interval(scaled(result["test_accuracy"], 100)),
        f"{result['tokens_per_second']:.0f}",
      ]
    )
  return reporting.table(
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
    task: With words.

  Returns:
    For the validation and the test split.
  """
  assert task.words is not None
  _, validation, test = task.words.characters
  return (
    len(task.words.validation) / validation / math.log(2),
    len(task.words.test) / test / math.log(2),
  )


def seeds_text(config: Config) -> str:
  last = config.seed + config.seeds - 1
  if config.seeds == 1:
    return f"seed {last}"
  return f"seeds {config.seed} to {last}"


def means(split: str, sums: Any) -> dict[str, np.ndarray]:
  return {f"{split}_{name}": mean for name, mean in sums.means().items()}


def numbers(values: Any) -> list[float | None]:
  """Returns a number per seed, None where it is not finite, as in JSON."""
  return [
    value if math.isfinite(value) else None
    for value in np.asarray(values, np.float64).tolist()
  ]


def scaled(values: list[float | None], factor: float) -> list[float | None]:
  return [None if value is None else factor * value for value in values]


def _interval(values: list[float | None]) -> str:
  known = [value for value in values if value is not None]
  if len(known) < len(values):
    return "diverged"
  return f"{reporting.interval(known):.4f}"


def _bits(result: Mapping[str, Any], name: str) -> str:
  if name not in result:
    return ""
  return f" ({_interval(result[name])} bits per character)"


def header(task: Task) -> str:
  bits = "bits/char  " if task.words is not None else ""
  return (
    f"  step  train loss  val loss  {bits}val accuracy  grad norm first"
    "    last  tokens/s"
  )


def line(record: Record, task: Task) -> str:
  """Means over the seeds that were still running."""

  def mean(name: str) -> float:
    known = [value for value in record[name] if value is not None]
    return float(np.mean(known)) if known else math.nan

  bits = ""
  if task.words is not None:
    bits = f"  {bits_per_character(task)[0] * mean('val_loss'):9.3f}"
  return (
    f"{record['step']:6d}  {mean('train_loss'):10.4f}"
    f"  {mean('val_loss'):8.4f}{bits}  {100 * mean('val_accuracy'):10.2f} %"
    f"  {mean('grad_norm_first'):15.3f}  {mean('grad_norm_last'):6.3f}"
    f"  {record['tokens_per_second']:8,.0f}"
  )
