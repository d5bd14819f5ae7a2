"""What norms did to a classifier, side by side, in words.

The result of a norm is a dict of JSON values, with a list over seeds for
`test_accuracy`, `test_accuracy_reestimated` (where there are batch
statistics), `epoch1_train_loss`, `best_epoch` and `diverged`, and one number
for `seconds_per_epoch`. Seeds are paired: the same position is the same seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.lab import reporting

Result = Mapping[str, Any]


def accuracy_lines(result: Result) -> str:
  """Returns the lines on the test accuracy of one norm."""
  lines = [f"Test accuracy: {_percent(result['test_accuracy'])} %"]
  if "test_accuracy_reestimated" in result:
    lines.append(
      "Test accuracy with re-estimated batch statistics:"
      f" {_percent(result['test_accuracy_reestimated'])} %"
    )
  if any(result["diverged"]):
    lines.append(
      f"{sum(result['diverged'])} of {len(result['diverged'])} seeds diverged;"
      " they count with their best parameters before that."
    )
  return "\n".join(lines)


def table(results: Mapping[str, Result]) -> str:
  """Returns a table of norms, each with its difference to the first."""
  first, baseline = next(iter(results.items()))
  headers = ["norm", "test accuracy (%)", f"minus {first}"]
  reestimated = any("test_accuracy_reestimated" in r for r in results.values())
  if reestimated:
    headers.append("re-estimated (%)")
  headers += ["epoch 1 train loss", "best epoch", "seconds/epoch"]
  rows = []
  for norm, result in results.items():
    row: list[str | None] = [norm, _percent(result["test_accuracy"])]
    row.append(
      None if norm == first else f"{_difference(result, baseline):+.2f}"
    )
    if reestimated:
      accuracy = result.get("test_accuracy_reestimated")
      row.append(accuracy and _percent(accuracy))
    row += [
      _loss(result["epoch1_train_loss"]),
      f"{np.mean(result['best_epoch']):.1f}",
      f"{result['seconds_per_epoch']:.2f}",
    ]
    rows.append(row)
  return reporting.table(rows, headers)


def verdict_lines(
  results: Mapping[str, Result], *, faster_below: float, equal_within: float
) -> str:
  """Returns the verdicts on every norm against the first one.

  Args:
    results: Of at least two seeds.
    faster_below: A norm learns faster if the ratio of the train losses in
      epoch 1 is below this.
    equal_within: It ends equal if the test accuracy differs by less than
      this, in points.
  """
  first, baseline = next(iter(results.items()))
  lines = []
  for norm, result in results.items():
    if norm == first:
      continue
    claim = (
      f"{norm} learns faster: train loss of epoch 1 below {faster_below} times"
      f" that of {first}"
    )
    losses = result["epoch1_train_loss"], baseline["epoch1_train_loss"]
    if None in (*losses[0], *losses[1]):
      verdict = reporting.Verdict.UNRESOLVED
      lines.append(f"{verdict}: {claim} (a seed diverged)")
    else:
      ratio = reporting.paired_ratio(*losses)
      verdict = reporting.verdict_below(ratio, faster_below)
      lines.append(f"{verdict}: {claim} ({ratio:.3f})")
    difference = _difference(result, baseline)
    verdict = reporting.verdict_within(difference, equal_within)
    lines.append(
      f"{verdict}: {norm} ends equal: test accuracy within {equal_within}"
      f" points of {first} ({difference:+.2f})"
    )
  return "\n".join(lines)


def _percent(accuracies: Sequence[float]) -> str:
  return f"{reporting.interval(100 * np.asarray(accuracies)):.2f}"


def _difference(result: Result, baseline: Result) -> reporting.Interval:
  return reporting.paired_difference(
    100 * np.asarray(result["test_accuracy"]),
    100 * np.asarray(baseline["test_accuracy"]),
  )


def _loss(losses: Sequence[float | None]) -> str:
  known = [loss for loss in losses if loss is not None]
  if len(known) < len(losses):
    return "diverged"
  return f"{reporting.interval(known):.4f}"
