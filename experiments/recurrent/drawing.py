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
  ("step", "reestimated", "step: last", "-"),
  ("step", "initial", "step: initial", "--"),
  ("step", "batch", "step: of the test batch", ":"),
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
        f"{part['rate']:.2g}" if "rate" in part else "",
        shown(part["loss"].mean(axis=1), ".3f"),
        _ratio(part, base),
        shown(part["error"], ".2f"),
        shown(part["reestimated"], ".2f"),
      ]
    )
  headers = ["cell", "norm", "best rate", "mean training loss", "over none"]
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
    caption=figures.seeds_caption(config.seeds) + "; each at its best rate",
  ) as (left, right):
    for norm in ("none", "ln", "step"):
      name = "step and one, the same in training" if norm == "step" else norm
      _draw_loss(left, arms[norm], norm, name)
    figures.label(left, "Training", "Step", "Cross-entropy (nats)", log_y=True)
    places = [
      (norm, kind)
      for norm in arms
      for kind in ("error", "reestimated")
      if kind == "error" or norm in ("step", "one")
    ]
    for x, (norm, kind) in enumerate(places):
      figures.bar(
        right,
        x,
        arms[norm][kind],
        _COLORS[norm],
        width=0.8,
        alpha=1.0 if kind == "error" else 0.5,
      )
    names = [
      norm + {"error": "\nrunning", "reestimated": "\nre-estim."}[kind]
      if norm in ("step", "one")
      else norm
      for norm, kind in places
    ]
    figures.label(right, "Test", "", "Error (%)")
    right.set_xticks(range(len(names)), names)


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
      _draw_loss(left, arms[norm], norm, None)
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


def _draw_loss(panel: "Axes", part: Parts, norm: str, name: str | None) -> None:
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
    name=name or norm,
    geometric=True,
  )
