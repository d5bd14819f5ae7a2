"""The figures: average precision, and scenes with what is found in them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.detection import grid
from experiments.detection.average_precision import Detections, hits
from experiments.detection.config import (
  CHECKS,
  FINE_TUNED,
  LEARNED,
  SHOWN,
  SIZES,
  Arm,
  Config,
)
from experiments.lab import figures
from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Members
from experiments.lab.study import Parts, Run

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_SURE = 0.3  # Detections with a lower score are not drawn.
_NAMES = {
  "none": "no norm",
  "bn": "bn",
  "gn": "gn",
  "trained": "bn, pre-trained",
  "frozen": "bn, pre-trained and frozen",
}
_STYLES = {"trained": "--", "frozen": ":"}


def precision(
  arms: Mapping[Arm, Parts], config: Config, data: str, run: Run
) -> None:
  """Draws average precision over the training, and at its end."""
  with figures.drawing(
    run,
    "detection",
    columns=3,
    title=f"Average precision of a detector, {data}",
    caption=figures.seeds_caption(config.seeds),
  ) as (*curves, bars):
    shares = np.arange(1, CHECKS + 1) / CHECKS
    for panel, size in zip(curves, reversed(SIZES), strict=True):
      for kind in (*LEARNED, *FINE_TUNED):
        figures.curve(
          panel,
          shares * config.steps_of((kind, size)),
          arms[kind, size]["ap"],
          _norm(kind),
          name=_NAMES[kind],
          style=_STYLES.get(kind, "-"),
        )
      figures.label(
        panel, f"Batches of {size}", "Training step", "Average precision"
      )
      panel.set_ylim(0, 1)
    for offset, size, alpha in ((-0.2, 16, 1.0), (0.2, 2, 0.5)):
      for place, kind in enumerate((*LEARNED, *FINE_TUNED)):
        figures.bar(
          bars,
          place + offset,
          arms[kind, size]["ap"][:, -1],
          _norm(kind),
          width=0.38,
          alpha=alpha,
        )
    figures.label(
      bars, "At the end; pale: batches of 2", "", "Average precision"
    )
    names = ["no norm", "bn", "gn", "pre-\ntrained", "frozen"]
    order = ["none", "bn", "gn", "trained", "frozen"]
    kinds = [*LEARNED, *FINE_TUNED]
    bars.set_xticks(
      range(len(kinds)), [names[order.index(kind)] for kind in kinds]
    )
    bars.set_ylim(0, 1)


def found(
  arms: Mapping[Arm, Parts], images: Images[Members], data: str, run: Run
) -> None:
  """Draws what nets of the first seed find in the first scenes of its test."""
  scenes = images.test.lane(0).first(SHOWN)
  pixels = np.asarray(scenes.inputs)[..., 0]
  truth = grid.true(scenes)
  with figures.drawing(
    run,
    "detections",
    rows=len(LEARNED),
    columns=SHOWN * len(SIZES),
    size=(13, 7.6),
    title=f"What the detectors find, {data}: on the left trained with batches"
    " of 16, on the right of 2",
    caption="White and dotted: where the digits are. Blue: found, with the"
    " right class. Orange and dashed: wrong",
    legend=False,
  ) as axes:
    panels = axes.reshape(len(LEARNED), len(SIZES), SHOWN)
    for row, kind in zip(panels, LEARNED, strict=True):
      for group, size in zip(row, reversed(SIZES), strict=True):
        outputs = arms[kind, size]["outputs"][0]
        detections = grid.detections(outputs)
        detections = detections.some(detections.scores > _SURE)
        for number, panel in enumerate(group):
          panel.imshow(pixels[number], cmap="gray", vmin=0, vmax=255)
          panel.set_xticks([])
          panel.set_yticks([])
          _boxes(panel, detections, truth, number)
      row[0, 0].set_ylabel(_NAMES[kind])


def _boxes(
  panel: "Axes", found: Detections, truth: Detections, image: int
) -> None:
  """Draws the boxes of a scene."""
  truth, found = (some.some(some.image == image) for some in (truth, found))
  for box in truth.boxes:
    _rectangle(panel, box, "white", ":")
  found = found.some(np.argsort(-found.scores))
  for label in np.unique(found.labels):
    own = found.some(found.labels == label)
    right = hits(own, truth.some(truth.labels == label))
    for box, correct in zip(own.boxes, right, strict=True):
      color = "#56b4e9" if correct else "#e69f00"
      _rectangle(panel, box, color, "-" if correct else "--")
      y, x, height, width = box
      panel.text(
        x - width / 2,
        y - height / 2,
        str(label),
        color=color,
        va="top",
        fontsize=12,
        clip_on=True,
        bbox={"facecolor": "black", "alpha": 0.6, "pad": 1, "lw": 0},
      )


def _rectangle(panel: "Axes", box: np.ndarray, color: str, style: str) -> None:
  from matplotlib.patches import Rectangle

  y, x, height, width = box
  panel.add_patch(
    # The first pixel of an image is drawn from -0.5 to 0.5.
    Rectangle(
      (x - width / 2 - 0.5, y - height / 2 - 0.5),
      width,
      height,
      fill=False,
      edgecolor=color,
      linestyle=style,
      linewidth=1.8,
    )
  )


def _norm(kind: str) -> str:
  return kind if kind in LEARNED else "bn"
