"""The figures of the stream."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.lab import figures
from experiments.lab.study import Parts, Run
from experiments.online import errors, task
from experiments.online.training import AFTER, ARMS, MANY, NORMS, Config

# On the figure of the stream; more would hide each other.
_SHOWN = {
  "vectors": ("none", "ln", "acc", "bn20"),
  "maps": ("none", "ln", "in", "bn", "bn20"),
}
_COLORS = {"acc": "#cc79a7", "brn": "#56b4e9", "bn20": "#882255"}
_BARS = {**_COLORS, "ln20": "#88bbdd", "in20": "#f2d087"}
_WINDOW = 200  # Examples of the moving average.


def stream(
  found: Mapping[Any, Parts], config: Config, data: str, run: Run
) -> None:
  """Draws the error over the stream, a moving average."""
  with figures.drawing(
    run,
    "online",
    rows=2,
    columns=1,
    size=(12.0, 9.6),
    title=f"Test, then train: one example at a time, {data}",
    caption=f"{figures.seeds_caption(config.seeds)}; moving average of"
    f" {_WINDOW} examples; dotted: a change",
  ) as axes:
    for panel, (net, norms) in zip(axes, _SHOWN.items(), strict=True):
      for norm in norms:
        values = smoothed(found[net, norm]["wrong"], _WINDOW // MANY)
        ends = MANY * np.arange(1, values.shape[1] + 1)
        figures.curve(
          panel,
          ends[_WINDOW // MANY :: 2],
          values[:, _WINDOW // MANY :: 2],
          norm,
          name=ARMS[norm],
          color=_COLORS.get(norm),
          style="--" if norm == "bn" else "-",
          marker="",
        )
      figures.label(
        panel, f"Net of {net}", "Example of the stream", "Error (%)"
      )
      panel.set_xlim(0, config.segment * len(task.SEGMENTS))
      panel.set_ylim(0, 108)  # The names of changes stand above all errors.
      for number, segment in enumerate(task.SEGMENTS):
        at = number * config.segment
        if number:
          panel.axvline(at, color="0.5", linestyle=":", linewidth=1)
        panel.annotate(
          segment.kind,
          (at + 0.04 * config.segment, 107),
          va="top",
          fontsize=11,
          color="0.3",
        )


def smoothed(wrong: np.ndarray, width: int) -> np.ndarray:
  """Returns the mean of each entry and the `width - 1` before it.

  At the beginning, the mean of as many as there are.

  >>> smoothed(np.array([[2.0, 4.0, 6.0]]), 2)
  array([[2., 3., 5.]])
  """
  sums = np.cumsum(np.pad(wrong, ((0, 0), (1, 0))), axis=1)
  end = np.arange(1, sums.shape[1])
  start = np.maximum(end - width, 0)
  return (sums[:, end] - sums[:, start]) / (end - start)


def changes(
  found: Mapping[Any, Parts], config: Config, data: str, run: Run
) -> None:
  """Draws the error after each kind of change as bars, for every arm."""
  kinds = {"light": "a jump of the light", "classes": "new names of classes"}
  with figures.drawing(
    run,
    "changes",
    rows=2,
    size=(12.0, 8.6),
    title=f"Error of the first {AFTER} examples after a change, {data}",
    caption="acc: accumulated statistics; brn: batch renorm; 20: batches of"
    f" {MANY}. Mean of {config.seeds} seed{'s' * (config.seeds > 1)}, 95%"
    " interval",
    legend=False,
  ) as axes:
    at = iter(axes)
    for net, every in NORMS.items():
      norms = [norm for norm in every if (net, norm) in found]
      for kind, title in kinds.items():
        panel = next(at)
        for x, norm in enumerate(norms):
          figures.bar(
            panel, x, errors.after(found[net, norm], kind), norm, width=0.7
          )
          panel.patches[-1].set_color(_BARS.get(norm, figures.norm_color(norm)))
        figures.label(
          panel, f"{net.capitalize()}: after {title}", "", "Error (%)"
        )
        panel.set_xticks(range(len(norms)), norms)
