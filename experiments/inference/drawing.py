"""The figure: times and sizes of both nets."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.inference.nets import ARMS, Sizes
from experiments.lab import figures
from experiments.lab.claims import Ratio
from experiments.lab.latency import Latencies
from experiments.lab.study import Run

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_DARK = figures.norm_color("none")
_COLOR = figures.norm_color("bn")


def draw(
  sizes: Sizes, times: Latencies, margin: float, title: str, run: Run
) -> None:
  """Draws ratios of times and of sizes.

  Args:
    sizes: From `nets.sizes`, by arm.
    times: The times.
    margin: The ratio that is claimed.
    title: Title of the figure.
    run: Run that gets the figure.
  """
  caption = f"Left: dots are {len(times.loads)} processes, squares their mean"
  caption += " with its 95% interval; dashed is what is claimed"
  if times.doubt:
    caption += f"\nNo verdict: {times.doubt}"
  with figures.drawing(
    run, "inference", title=title, caption=caption, size=(12, 5.2)
  ) as (left, right):
    _draw_times(left, times, margin)
    _draw_sizes(right, sizes)


def _draw_times(panel: "Axes", times: Latencies, margin: float) -> None:
  for place, seconds in enumerate(times.seconds.values()):
    unfolded, folded = (seconds[arm] for arm in ARMS)
    found = Ratio().estimate(unfolded, folded)
    around = place + np.linspace(-0.25, -0.1, len(folded))
    panel.plot(around, unfolded / folded, "o", color=_DARK, markersize=5)
    if len(folded) > 1:
      panel.vlines(place, found.low, found.high, color=_COLOR, linewidth=3)
    panel.plot(place, found.center, "s", color=_COLOR, markersize=9)
  panel.axhline(1, color=_DARK, linewidth=1)
  panel.axhline(margin, color=_DARK, linewidth=1, linestyle="--")
  figures.label(panel, "Time of a call", "", "Unfolded / folded")
  panel.set_xticks(range(len(times.seconds)), [*times.seconds])
  panel.set_xlim(-0.5, len(times.seconds) - 0.5)


def _draw_sizes(panel: "Axes", sizes: Sizes) -> None:
  unfolded, folded = (sizes[arm] for arm in ARMS)
  bars = panel.barh(
    [*folded], [folded[name] / unfolded[name] for name in folded], color=_COLOR
  )
  exact = [f"{folded[name]:,} of {unfolded[name]:,}" for name in folded]
  panel.bar_label(bars, exact, label_type="center", color="white")
  panel.invert_yaxis()
  figures.label(panel, "Size", "Folded / unfolded", "")
