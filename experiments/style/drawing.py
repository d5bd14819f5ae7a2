"""The figures: pictures of every arm, and losses."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from experiments.lab import figures
from experiments.lab.study import Parts, Run
from experiments.style import losses, tasks, training
from experiments.style.tasks import STYLES, Task

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_BIN = 10  # Steps whose mean loss is a point of a curve.

Found = Mapping[str, Parts]  # Results at the best rate, by arm.


def draw(found: Found, task: Task, caption: str, run: Run) -> None:
  """Draws all figures.

  Args:
    found: Results of the arms; see `training.Trainer`.
    task: Contents and styles.
    caption: Caption of the figure with curves.
    run: Run that gets the figures.
  """
  _draw_contrasts(found, task, run)
  _draw_styles(found, task, run)
  _draw_losses(found, caption, run)


def _draw_contrasts(found: Found, task: Task, run: Run) -> None:
  arms = {"none": "none", "bn": "bn", "in": "in", "one net": "in, three styles"}
  shown = task.test[training.SHOWN]
  contents = [shown, np.asarray(tasks.faded(shown, losses.FAINT))]
  with figures.drawing(
    run,
    "pictures",
    title="A part of the photograph that is not in training, as a flower",
    rows=2,
    columns=2 + len(arms),
    size=(14, 5.6),
    caption="Pictures of the first seed; losses are means over all test crops"
    " and seeds",
  ) as panels:
    grid = panels.reshape(2, -1)
    _show(grid[0, 0], task.styles[0], "style")
    grid[1, 0].set_axis_off()
    grid[1, 0].text(
      0.5, 0.5, "a quarter of\nthe contrast", ha="center", va="center"
    )
    for row, content in enumerate(contents):
      _show(grid[row, 1], content, "" if row else "content")
      for panel, (arm, title) in zip(grid[row, 2:], arms.items(), strict=True):
        picture = found[arm]["pictures"][0, 0, row]
        _show(panel, picture, "" if row else title, _loss(found[arm], row))


def _loss(part: Parts, row: int) -> str:
  return f"loss {part['faint' if row else 'loss'][:, 0].mean():.2f}"


def _draw_styles(found: Found, task: Task, run: Run) -> None:
  columns = ("separate nets", "one net", "told at the input")
  with figures.drawing(
    run,
    "styles",
    title="One net for three styles, and one for each",
    rows=len(STYLES),
    columns=1 + len(columns),
    size=(9.5, 8.4),
    caption="Pictures of the first seed; losses are means over all test crops"
    " and seeds",
  ) as panels:
    for number, row in enumerate(panels.reshape(len(STYLES), -1)):
      _show(row[0], task.styles[number], "" if number else "style")
      for panel, name in zip(row[1:], columns, strict=True):
        part = found[name]
        _show(
          panel,
          part["pictures"][0, number, 0],
          "" if number else name,
          f"loss {part['loss'][:, number].mean():.2f}",
        )


def _show(
  panel: "Axes", picture: ArrayLike, title: str, below: str = ""
) -> None:
  # Enlarged first: Matplotlib would take some pixels more often than others,
  # which changes the colours of patterns as fine as these.
  panel.imshow(np.asarray(picture).repeat(4, axis=0).repeat(4, axis=1))
  panel.set_title(title, fontsize=14)
  panel.set_xlabel(below)
  panel.set_xticks([])
  panel.set_yticks([])
  panel.spines[["left", "bottom"]].set_visible(False)


def _draw_losses(found: Found, caption: str, run: Run) -> None:
  with figures.drawing(
    run, "losses", title="Painting in a style", caption=caption
  ) as (left, right):
    for norm in ("none", "bn", "in"):
      steps = found[norm]["steps"]
      size = min(_BIN, steps.shape[1])
      count = steps.shape[1] // size
      means = steps[:, : count * size].reshape(len(steps), count, -1).mean(2)
      at = size * np.arange(1, count + 1)
      figures.curve(left, at, means, norm, geometric=True)
    figures.label(
      left, "In the style of the flower", "Training step", "Loss", log_y=True
    )
    for place, (name, alpha) in enumerate(
      (("separate nets", 1.0), ("one net", 0.7), ("told at the input", 0.4))
    ):
      for number in range(len(STYLES)):
        figures.bar(
          right,
          number + 0.27 * (place - 1),
          found[name]["loss"][:, number],
          "in",
          width=0.25,
          alpha=alpha,
          name=name if number == 0 else None,
        )
    figures.label(right, "In each of three styles", "", "Loss on test crops")
    right.set_xticks(range(len(STYLES)), STYLES)
