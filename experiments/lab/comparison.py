"""Compares the results of classifiers, in printed lines and tables.

The result of a model is a dict of JSON values: a list over seeds for
`test_accuracy`, `test_accuracy_reestimated` (only with batch statistics),
`epoch1_train_loss` and `best_epoch`, one number for `seconds_per_epoch`, and
what `outcome` returns. Seeds are paired: the same position is the same seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.lab.data.arrays import Images
from experiments.lab.statistics import shown
from experiments.lab.tables import table
from experiments.lab.training import losses
from experiments.lab.training.batches import Shuffled
from experiments.lab.training.engine import Engine
from experiments.lab.training.fit import Progress
from experiments.lab.training.session import Column, Record, numbers
from experiments.lab.training.stopping import Stopping

Result = Mapping[str, Any]

# Columns that are printed while a classifier trains by epochs.
COLUMNS = (
  Column("train loss", "train_loss"),
  Column("val loss", "val_loss"),
  Column("val accuracy", "val_accuracy", ".2f", 100, " %"),
  Column("seconds", "seconds", ".2f"),
)


def result(
  engine: Engine,
  progress: Progress,
  images: Images,
  records: Sequence[Record],
) -> dict[str, Any]:
  """Tests the best variables of a classifier that was trained by epochs.

  Args:
    engine: Engine that trained it.
    progress: Progress at the end.
    images: Images, of which the test set is used.
    records: Records of its epochs.
  """
  stopping = progress.stopping
  best_epoch = np.asarray(stopping.best_step) // engine.source.period
  epochs = ", ".join(map(str, best_epoch))
  best = ", ".join(f"{loss:.4f}" for loss in np.asarray(stopping.best_loss))
  print(f"Restored the best parameters: epoch {epochs} (val loss {best})")
  variables = stopping.best_variables
  test = engine.evaluate(variables, images.test)
  # The first epoch includes the compilation.
  seconds = [record["seconds"] for record in records]
  found = {
    "test_accuracy": numbers(test["accuracy"]),
    "test_loss": numbers(test["loss"]),
    "best_epoch": best_epoch.tolist(),
    "best_val_loss": numbers(stopping.best_loss),
    **outcome(stopping, images.num_classes),
    "epoch1_train_loss": records[0]["train_loss"],
    "epochs": len(records),
    "seconds_per_epoch": float(np.median(seconds[1:] or seconds)),
  }
  if "batch_stats" in variables:
    in_order = Shuffled(images.train, engine.source.size, ordered=True)
    again = engine.reestimate(variables, in_order)
    accuracy = engine.evaluate(again, images.test)["accuracy"]
    found["test_accuracy_reestimated"] = numbers(accuracy)
  return found


def outcome(stopping: Stopping, classes: int) -> dict[str, Any]:
  """Returns which seeds diverged, and which are better than guessing.

  Args:
    stopping: Stopping at the end, with an axis of seeds.
    classes: Number of classes or tokens.

  Returns:
    Lists over seeds, "diverged" and "beats_guessing", and "guessing_loss", the
    loss of equal probabilities for all classes. A seed beats it if its best
    validation loss is lower.
  """
  guessing = losses.guessing(classes)
  return {
    "guessing_loss": guessing,
    "diverged": np.asarray(stopping.diverged).tolist(),
    "beats_guessing": (np.asarray(stopping.best_loss) < guessing).tolist(),
  }


def outcome_lines(result: Result) -> list[str]:
  """Returns sentences about the seeds that diverged or are no use."""
  diverged, better = result["diverged"], result["beats_guessing"]
  found = []
  if any(diverged):
    found.append(
      f"{sum(diverged)} of {len(diverged)} seeds diverged; they count with"
      " their best parameters before divergence."
    )
  useless = ~np.logical_or(diverged, better)
  if useless.any():
    found.append(
      f"{useless.sum()} of {len(useless)} seeds NO BETTER THAN GUESSING: their"
      f" best validation loss is not below {result['guessing_loss']:.4f}, which"
      " equal probabilities give. Another --learning_rate or more steps may"
      " help."
    )
  return found


def lines(result: Result) -> str:
  """Returns the printed lines about the test accuracy of one model."""
  found = [f"Test accuracy: {_percent(result['test_accuracy'])} %"]
  if "test_accuracy_reestimated" in result:
    found.append(
      "Test accuracy with re-estimated batch statistics:"
      f" {_percent(result['test_accuracy_reestimated'])} %"
    )
  return "\n".join([*found, *outcome_lines(result)])


def show(results: Mapping[str, Result]) -> None:
  """Prints the results of all models, and their table."""
  for name, found in results.items():
    print(f"\n{name}\n{lines(found)}")
  show_table(results)


def show_table(results: Mapping[str, Result]) -> None:
  """Prints a table of the models, with differences from the first."""
  if len(results) < 2:
    return
  first, baseline = next(iter(results.items()))
  headers = ["norm", "accuracy (%)", f"minus {first}"]
  reestimated = any("test_accuracy_reestimated" in r for r in results.values())
  if reestimated:
    headers.append("re-estimated (%)")
  headers += ["epoch 1 loss", "best epoch", "s/epoch"]
  rows = []
  for norm, found in results.items():
    row: list[str | None] = [norm, _percent(found["test_accuracy"])]
    row.append(None if norm == first else _difference(found, baseline))
    if reestimated:
      accuracy = found.get("test_accuracy_reestimated")
      row.append(accuracy and _percent(accuracy))
    row += [
      shown(found["epoch1_train_loss"], ".4f"),
      f"{np.mean(found['best_epoch']):.1f}",
      f"{found['seconds_per_epoch']:.2f}",
    ]
    rows.append(row)
  print(f"\n{table(rows, headers)}\n")


def _percent(accuracies: Sequence[float]) -> str:
  return shown(100 * np.asarray(accuracies), ".2f")


def _difference(result: Result, baseline: Result) -> str:
  ours, theirs = (
    100 * np.asarray(r["test_accuracy"]) for r in (result, baseline)
  )
  return shown(ours - theirs, "+.2f")
