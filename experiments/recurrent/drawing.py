"""Tables and figures of both studies."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.lab import figures
from experiments.lab.claims import Ratio
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.recurrent import task
from experiments.recurrent.options import Config
from experiments.recurrent.training import Arm

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_SPEED = ("fastest rate", "mean training loss", "over none")
_BLOCK = 10  # Steps whose mean loss is a point of a curve.
_COLORS = {"none": "none", "ln": "ln", "step": "bn", "one": "in"}
# Statistics of the adding problem: norm, kind, name, style.
_KINDS = (
  ("none", "reestimated", "none", "-"),
  ("ln", "reestimated", "ln", "-"),
  ("step", "reestimated", "step", "-"),
  ("step", "initial", "step: initial", "--"),
  ("step", "batch", "step: test batch", ":"),
  ("one", "reestimated", "one", "-"),
)


def show_rows(best: Mapping[Arm, Parts], fast: Mapping[Arm, Parts]) -> None:
  """Prints the results on rows.

  Args:
    best: The arms at their best rates.
    fast: At the rates that train fastest; and three more of the first cell.
  """
  rows = [
    [
      *arm,
      f"{part['rate']:.2g}",
      *(shown(part[name], ".2f") for name in ("error", "reestimated")),
    ]
    for arm, part in best.items()
  ]
  headers = ["cell", "norm", "best rate", "test error (%)", "re-estimated (%)"]
  print(table(rows, headers))
  rows = [
    [
      *arm,
      f"{part['rate']:.2g}",
      shown(part["mean"], ".3f"),
      _over_none(part, fast[_without(arm)]),
    ]
    for arm, part in fast.items()
  ]
  print(table(rows, ["cell", "norm", *_SPEED]))


def show_sums(
  best: Mapping[str, Parts], fast: Mapping[str, Parts], config: Config
) -> None:
  """Prints the results on the adding problem; arms are by norm."""
  rows = [
    [
      norm,
      f"{part['rate']:.2g}",
      shown(part["mean"], ".4f"),
      _over_none(part, fast["none"]),
    ]
    for norm, part in fast.items()
  ]
  print(table(rows, ["norm", *_SPEED]))
  rows = [
    [norm, f"{part['rate']:.2g}", kind]
    + [shown(column, ".3f") for column in part[kind].T]
    for norm, part in best.items()
    for kind in ("running", "reestimated", "initial", "batch")
    if kind in part
  ]
  headers = [f"error, length {length}" for length in config.tested]
  print(table(rows, ["norm", "best rate", "statistics", *headers]))


def _without(arm: Arm) -> Arm:
  """Returns the arm without a norm with which another is compared."""
  kind = "none, equal rate" if "equal rate" in arm.norm else "none"
  return Arm(arm.cell, kind)


def _over_none(part: Parts, none: Parts) -> str:
  if part is none:
    return ""
  return Ratio().estimate(part["mean"], none["mean"]).text(".3f")


def draw_rows(
  best: Mapping[str, Parts],
  fast: Mapping[str, Parts],
  config: Config,
  data: str,
  run: Run,
) -> None:
  """Draws losses in training and test errors; arms are by norm."""
  with figures.drawing(
    run,
    "rows",
    title=f"{config.cell.upper()} reading images, {data}",
    caption=figures.seeds_caption(config.seeds)
    + "; pale: with re-estimated statistics",
  ) as (left, right):
    for norm in ("none", "ln", "step"):
      _draw_loss(left, fast[norm], norm)
    figures.label(
      left,
      "Training, at the fastest rate",
      "Step",
      "Cross-entropy (nats)",
      log_y=True,
    )
    for x, (norm, part) in enumerate(best.items()):
      has_both = norm in ("step", "one")
      figures.bar(
        right,
        x - 0.2 * has_both,
        part["error"],
        _COLORS[norm],
        width=0.38 if has_both else 0.6,
      )
      if has_both:
        figures.bar(
          right,
          x + 0.2,
          part["reestimated"],
          _COLORS[norm],
          width=0.38,
          alpha=0.5,
        )
    figures.label(right, "Test, at the best rate", "", "Error (%)")
    right.set_xticks(range(len(best)), [*best])


def draw_sums(
  best: Mapping[str, Parts],
  fast: Mapping[str, Parts],
  config: Config,
  run: Run,
) -> None:
  """Draws losses in training, and errors by length."""
  with figures.drawing(
    run,
    "lengths",
    title=f"{config.cell.upper()} on the adding problem",
    caption=figures.seeds_caption(config.seeds)
    + "; dotted: longest in training; grey: guessing the mean",
  ) as (left, right):
    for norm in ("none", "ln", "step"):
      _draw_loss(left, fast[norm], norm)
    figures.label(
      left, "Training, at the fastest rate", "Step", "Squared error", log_y=True
    )
    for norm, kind, name, style in _KINDS:
      figures.curve(
        right,
        config.tested,
        best[norm][kind],
        _COLORS[norm],
        name=name,
        style=style,
        geometric=True,
      )
    right.axvline(config.length, color="black", linestyle=":", linewidth=1)
    right.axhline(task.GUESSING, color="grey", linewidth=1)
    figures.label(
      right,
      "Test, at the best rate",
      "Length of the sequences",
      "RMS error of the sum",
      log_y=True,
    )


def _draw_loss(panel: "Axes", part: Parts, norm: str) -> None:
  """Draws the loss in training, as means of blocks of steps."""
  loss = part["loss"]
  block = min(_BLOCK, loss.shape[1])
  count = loss.shape[1] // block
  means = loss[:, : count * block].reshape(len(loss), count, block).mean(axis=2)
  figures.curve(
    panel,
    block * (np.arange(count) + 0.5),
    means,
    _COLORS[norm],
    name=norm,
    geometric=True,
  )
