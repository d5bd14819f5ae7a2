"""Figures of the studies: panels in one visual language.

Colours belong to norms (`plots.norm_color`), a line is a mean over seeds and
its band the 95% interval.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.lab import plots, reporting
from experiments.lab.study import Run

if TYPE_CHECKING:
  from matplotlib.axes import Axes

MARKERS = "osD^vP*X"


@contextlib.contextmanager
def drawing(
  run: Run,
  name: str,
  *,
  title: str,
  rows: int = 1,
  columns: int = 2,
  size: tuple[float, float] | None = None,
  caption: str = "",
  legend: bool = True,
) -> Iterator[np.ndarray]:
  """Gives panels to draw in, and writes the figure when they are drawn.

  Args:
    run: Gets the figure.
    name: Of the file, without suffix.
    title: Above the panels.
    rows, columns: Of panels.
    size: Of the figure in inches.
    caption: Below the panels, above the legend.
    legend: Whether to explain all labelled lines below the panels.

  Yields:
    The panels, an array `[rows * columns]` of Axes.
  """
  # Slow to import. A figure of its own, drawn by Agg, leaves pyplot's global
  # state and any window system alone.
  import matplotlib as mpl
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure
  from matplotlib.layout_engine import ConstrainedLayoutEngine

  with mpl.rc_context({"font.size": 13, "axes.linewidth": 0.8}):
    figure = Figure(
      figsize=size or (5.6 * columns, 4.4 * rows + 0.8),
      layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08),
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    yield axes
    for panel in axes:
      panel.spines[["top", "right"]].set_visible(False)
      _tidy_log_axis(panel)
    figure.suptitle(title, fontsize=15)
    entries: dict[str, Any] = {}
    for panel in axes:
      for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
        entries.setdefault(label, handle)
    if legend and entries:
      figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=_legend_columns(list(entries), figure.get_figwidth()),
        frameon=False,
        title=caption or None,
        title_fontsize=11,
      )
    elif caption:
      figure.supxlabel(caption, fontsize=11)
    run.figure(name, figure)


def _legend_columns(labels: Sequence[str], width: float) -> int:
  """Returns how many columns fill the fewest rows that a figure is wide for.

  Args:
    labels: Of the legend, in letters of 13 points.
    width: Of the figure in inches.
  """
  # An inch has some nine letters; a line and the space around it take six.
  rows = math.ceil(sum(len(label) + 6 for label in labels) / (9 * width))
  return math.ceil(len(labels) / rows)


def _tidy_log_axis(panel: "Axes") -> None:
  """Shows the lines, since few seeds have endless bands, and plain numbers."""
  from matplotlib import ticker

  lines = [np.ravel(line.get_ydata()) for line in panel.get_lines()]
  values = np.concatenate([*lines, np.zeros(0)]).astype(np.float64)
  values = values[np.isfinite(values) & (values > 0)]
  if panel.get_yscale() != "log" or not values.size:
    return
  low, high = panel.get_ylim()
  low, high = max(low, values.min() / 2), min(high, values.max() * 2)
  panel.set_ylim(low, high)
  if high < 300 * low:
    panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_minor_locator(ticker.NullLocator())
    panel.yaxis.set_major_formatter(
      ticker.FuncFormatter(lambda value, _: f"{value:g}")
    )


def label(
  panel: "Axes",
  title: str,
  x: str,
  y: str,
  *,
  log_x: bool = False,
  log_y: bool = False,
) -> None:
  """Names a panel and its axes, which have units; draws a grid."""
  panel.set_title(title, fontsize=13)
  panel.set_xlabel(x)
  panel.set_ylabel(y)
  panel.grid(alpha=0.25)
  if log_x:
    panel.set_xscale("log")
  if log_y:
    panel.set_yscale("log")


def curve(
  panel: "Axes",
  x: ArrayLike,
  values: ArrayLike,
  norm: str,
  *,
  name: str | None = None,
  style: str = "-",
  marker: str | None = None,
  geometric: bool = False,
) -> None:
  """Draws a mean over seeds with its band, in the colour of a norm.

  Args:
    panel: To draw in.
    x: Positions `[n]`.
    values: `[seeds, n]`; positions where a seed is not finite are left out.
    norm: Short name, which decides on the colour and the marker.
    name: In the legend, by default that of the norm.
    style: Of the line.
    marker: Of the points, by default that of the norm.
    geometric: Whether to average logarithms, for logarithmic axes.
  """
  positions = np.asarray(x, np.float64)
  seeds = np.asarray(values, np.float64)
  known = np.isfinite(seeds).all(axis=0)
  positions, seeds = positions[known], seeds[:, known]
  if geometric:
    seeds = np.log(seeds)
  mean, low, high = band(seeds)
  if geometric:
    mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
  color = plots.norm_color(norm)
  if marker is None:
    known_norms = list(plots.NORM_COLORS)
    index = known_norms.index(norm) if norm in known_norms else -1
    marker = MARKERS[index]
  panel.plot(
    positions,
    mean,
    style,
    color=color,
    linewidth=2,
    marker=marker,
    markersize=5.5,
    markevery=max(1, len(positions) // 10),
    label=name or norm,
  )
  panel.fill_between(positions, low, high, color=color, alpha=0.2, lw=0)


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns mean, low and high of `[seeds, n]`; no width for one seed."""
  intervals: Sequence[reporting.Interval] = [
    reporting.interval(column) for column in values.T
  ]
  mean = np.array([entry.mean for entry in intervals])
  half = np.nan_to_num([entry.half_width for entry in intervals])
  return mean, mean - half, mean + half


def seeds_caption(count: int) -> str:
  """Returns what a line and its band stand for."""
  if count == 1:
    return "One seed"
  return f"Mean of {count} seeds, band: 95% interval"
