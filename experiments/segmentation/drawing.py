"""The figures: what each net sees in a scene, and mean IoU as bars."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.lab import figures
from experiments.lab.data.batch import Batch
from experiments.lab.study import Parts, Run
from experiments.segmentation.options import BATCHES, NORMS, Arm, Config
from experiments.segmentation.training import SHOWN

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_COLORS = ("#0072b2", "#d55e00")  # Of the classes but the background.


def overlays(
  arms: Mapping[Arm, Parts],
  scenes: Batch,
  classes: tuple[str, ...],
  title: str,
  run: Run,
) -> None:
  """Draws scenes with their masks, and with the answers of each norm.

  Args:
    arms: Results by arm.
    scenes: Test scenes of the first seed.
    classes: Names of the classes.
    title: Title of the figure.
    run: Run that gets the figure.
  """
  columns = 2 + len(NORMS)
  names = ", ".join(
    f"{name} {color}"
    for name, color in zip(classes[1:], ("blue", "orange"), strict=True)
  )
  with figures.drawing(
    run,
    "scenes",
    rows=SHOWN,
    columns=columns,
    size=(1.9 * columns, 1.9 * SHOWN + 1.0),
    title=title,
    caption=f"Test scenes of one seed, nets trained with batches of"
    f" {BATCHES[0]}: {names}. Left: in their light; others: rescaled",
  ) as axes:
    panels = axes.reshape(SHOWN, columns)
    inputs = np.asarray(scenes.inputs[:SHOWN])
    light = inputs.min(), inputs.max()
    for number, row in enumerate(panels):
      image = inputs[number, ..., 0]
      answers = {
        "scene": np.zeros(image.shape, int),
        "truth": np.asarray(scenes.targets[number]),
        **{norm: arms[norm, BATCHES[0]]["shown"][0, number] for norm in NORMS},
      }
      for panel, (name, answer) in zip(row, answers.items(), strict=True):
        _overlay(panel, image, answer)
        if name == "scene":
          panel.images[0].set_clim(light)
        if number == 0:
          panel.set_title(name)


def _overlay(panel: "Axes", image: np.ndarray, classes: np.ndarray) -> None:
  from matplotlib.colors import ListedColormap

  panel.imshow(image, cmap="gray")
  panel.imshow(
    np.ma.masked_equal(classes, 0),
    cmap=ListedColormap(_COLORS),
    vmin=1,
    vmax=len(_COLORS),
    alpha=0.6,
    interpolation="nearest",
  )
  panel.set_axis_off()


def bars(
  arms: Mapping[Arm, Parts], config: Config, title: str, run: Run
) -> None:
  """Draws the mean IoU of every arm, for both batch sizes."""
  caption = "Solid: crops; pale: whole scenes. bn: running statistics,"
  caption += " re-estimated ones, those of each test batch.\nMean of"
  caption += f" {config.seeds} seeds, line: 95% interval"
  with figures.drawing(
    run, "mean_iou", title=title, caption=caption, size=(12, 5.4), legend=False
  ) as axes:
    for panel, size in zip(axes, BATCHES, strict=True):
      _bars(panel, {norm: arms[norm, size] for norm in NORMS})
      figures.label(panel, f"Batches of {size}", "", "Mean IoU (%)")
      panel.set_ylim(0, 100)
      panel.grid(visible=False, axis="x")


def _bars(panel: "Axes", arms: Mapping[str, Parts]) -> None:
  entries: list[tuple[str, str, str]] = []  # Title, norm, suffix of results.
  for norm in arms:
    entries.append((norm, norm, ""))
    if norm == "bn":
      entries.append(("bn\nre-est.", norm, ", re-estimated"))
      entries.append(("bn\nbatch", norm, ", batch"))
  for place, (_, norm, suffix) in enumerate(entries):
    part = arms[norm]
    for shift, key, alpha in ((-0.2, "crops", 1.0), (0.2, "whole", 0.5)):
      if key + suffix in part:
        values = part[key + suffix]
        figures.bar(panel, place + shift, values, norm, width=0.38, alpha=alpha)
  panel.set_xticks(range(len(entries)), [title for title, *_ in entries])
