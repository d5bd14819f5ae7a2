"""Tables and figures of both tasks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.lab import figures
from experiments.lab.claims import Ratio
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.recurrent import task
from experiments.recurrent.training import Arm, Config

if TYPE_CHECKING:
  from matplotlib.axes import Axes

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


def show_rows(arms: Mapping[Arm, Parts], more: Mapping[str, Parts]) -> None:
  """Prints the results on rows; `more` are other arms of the first cell."""
  cell = next(iter(arms)).cell
  rows = []
  for arm, part in [*arms.items()] + [
    (Arm(cell, name), part) for name, part in more.items()
  ]:
    reference = "none, equal rate" if "equal" in arm.norm else "none"
    base = more.get(reference) or arms[Arm(arm.cell, "none")]
    rows.append(
      [
        arm.cell,
        arm.norm,
        f"{part['rate']:.2g}",
        shown(part["loss"].mean(axis=1), ".3f"),
        _ratio(part, base),
        shown(part["error"], ".2f"),
        shown(part["reestimated"], ".2f"),
      ]
    )
  headers = ["cell", "norm", "rate", "mean training loss", "over none"]
  print(table(rows, [*headers, "test error (%)", "re-estimated (%)"]))


def show_sums(arms: Mapping[str, Parts], config: Config) -> None:
  """Prints the results on the adding problem."""
  rows = [
    [
      norm,
      f"{part['rate']:.2g}",
      shown(part["loss"].mean(axis=1), ".4f"),
      _ratio(part, arms["none"]),
    ]
    for norm, part in arms.items()
  ]
  headers = ["norm", "best rate", "mean training loss", "over none"]
  print(table(rows, headers))
  rows = [
    [norm, kind, *(shown(column, ".3f") for column in part[kind].T)]
    for norm, part in arms.items()
    for kind in ("running", "reestimated", "initial", "batch")
    if kind in part
  ]
  headers = [f"error, length {length}" for length in config.tested]
  print(table(rows, ["norm", "statistics", *headers]))


def _ratio(part: Parts, base: Parts) -> str:
  if part is base:
    return ""
  losses = (each["loss"].mean(axis=1) for each in (part, base))
  return Ratio().estimate(*losses).text(".3f")


def draw_rows(
  arms: Mapping[str, Parts], config: Config, data: str, run: Run
) -> None:
  """Draws losses in training and test errors of the cell of the claims."""
  with figures.drawing(
    run,
    "rows",
    title=f"{config.cell} reading images, {data}",
    caption=figures.seeds_caption(config.seeds)
    + "; pale: with re-estimated statistics",
  ) as (left, right):
    for norm in ("none", "ln", "step"):
      _draw_loss(left, arms[norm], norm)
    figures.label(left, "Training", "Step", "Cross-entropy (nats)", log_y=True)
    for x, (norm, part) in enumerate(arms.items()):
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
    figures.label(right, "Test", "", "Error (%)")
    right.set_xticks(range(len(arms)), [*arms])


def draw_sums(arms: Mapping[str, Parts], config: Config, run: Run) -> None:
  """Draws losses in training, and errors by length."""
  with figures.drawing(
    run,
    "lengths",
    title=f"{config.cell} on the adding problem",
    caption=figures.seeds_caption(config.seeds)
    + "; dotted: longest in training; grey: guessing the mean",
  ) as (left, right):
    for norm in ("none", "ln", "step"):
      _draw_loss(left, arms[norm], norm)
    figures.label(left, "Training", "Step", "Squared error", log_y=True)
    for norm, kind, name, style in _KINDS:
      figures.curve(
        right,
        config.tested,
        arms[norm][kind],
        _COLORS[norm],
        name=name,
        style=style,
        geometric=True,
      )
    right.axvline(config.length, color="black", linestyle=":", linewidth=1)
    right.axhline(task.GUESSING, color="grey", linewidth=1)
    figures.label(
      right, "Test", "Length of the sequences", "RMS error of the sum",
      log_y=True,
    )  # fmt: skip


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
