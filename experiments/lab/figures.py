"""Figures of the studies, in the same style.

Each norm has its colour (`norm_color`). A line is a mean over seeds, and its
band is the 95% interval. Later lines are thinner, so that they do not hide
earlier ones where they coincide. A figure consists of panels:

    with figures.drawing(run, "errors", title="Test errors") as (left, right):
      figures.curve(left, sizes, errors, "bn")
      figures.label(left, "MNIST", "Batch size (examples)", "Error (%)")
"""

import contextlib
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.lab.statistics import interval

if TYPE_CHECKING:
  from matplotlib.axes import Axes

  from experiments.lab.run import Run

# Okabe and Ito's palette, which is safe for colour blindness:
# https://jfly.uni-koeln.de/color/. A norm has the same colour in every figure.
NORM_COLORS = {
  "none": "#4d4d4d",
  "ln": "#0072b2",
  "rms": "#cc79a7",
  "bn": "#d55e00",
  "gn": "#009e73",
  "in": "#e69f00",
}

# For other norms: the colours of Tol's palettes that differ most from those
# above. https://personal.sron.nl/~pault/
_OTHER_COLORS = ("#56b4e9", "#332288", "#999933", "#882255", "#44aa99")

# Markers distinguish the lines without colour too.
_MARKERS = "osD^vP*X<>"


def norm_color(name: str) -> str:
  """Returns the colour of a norm, the same in every figure and process.

  Args:
    name: Short name of the norm, such as `ln`.

  Returns:
    The colour `#rrggbb`, from `NORM_COLORS`; for other names it depends only on
    the name.

  >>> norm_color("ln")
  '#0072b2'
  """
  if name in NORM_COLORS:
    return NORM_COLORS[name]
  # Python's own hash of a string differs between processes.
  return _OTHER_COLORS[zlib.crc32(name.encode()) % len(_OTHER_COLORS)]


@contextlib.contextmanager
def drawing(
  run: "Run",
  name: str,
  *,
  title: str,
  rows: int = 1,
  columns: int = 2,
  size: tuple[float, float] | None = None,
  caption: str = "",
  legend: bool = True,
) -> Iterator[np.ndarray]:
  """Yields panels to draw in, and writes the figure at the end.

  Args:
    run: Run that gets the figure.
    name: Name of the file, without suffix.
    title: Title of the figure.
    rows, columns: Numbers of rows and columns of panels.
    size: Size of the figure in inches.
    caption: Text below the panels and above the legend.
    legend: Whether to add a legend of all labelled lines below the panels.

  Yields:
    The panels, an array `[rows * columns]` of Axes.
  """
  # Slow to import. Figure and Agg instead of pyplot, which has global state and
  # may need a window system.
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
      for handle, text in zip(*panel.get_legend_handles_labels(), strict=True):
        entries.setdefault(text, handle)
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
  """Returns the number of columns that gives the fewest rows.

  Args:
    labels: Labels of the legend, in 13 points.
    width: Width of the figure in inches.
  """
  # About nine letters fit in an inch; a line and its margins take six letters.
  rows = math.ceil(sum(len(label) + 6 for label in labels) / (9 * width))
  return math.ceil(len(labels) / rows)


def _tidy_log_axis(panel: "Axes") -> None:
  """Limits a log axis to the lines, not the wide bands, with plain numbers."""
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
  """Sets the title and the axis labels of a panel, and draws a grid."""
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
  color: str | None = None,
  style: Any = "-",
  marker: str | None = None,
  geometric: bool = False,
  go_on: np.ndarray | None = None,
) -> None:
  """Draws a mean over seeds with its band, in the colour of a norm.

  Args:
    panel: Panel to draw in.
    x: Positions `[n]`.
    values: Values `[seeds, n]`; positions where a seed is not finite are left
      out.
    norm: Short name of the norm, which sets the colour and the marker.
    name: Name in the legend; by default that of the norm.
    color: Colour that replaces the norm's.
    style: Style of the line.
    marker: Marker that replaces the norm's.
    geometric: Whether to average logarithms, for logarithmic axes.
    go_on: Values `[seeds, n]` for a dotted line, which goes on where a seed is
      not finite any more.
  """
  positions = np.asarray(x, np.float64)
  seeds = np.asarray(values, np.float64)
  color = color or norm_color(norm)
  if marker is None:
    known = list(NORM_COLORS)
    marker = _MARKERS[known.index(norm) if norm in known else -1]
  whole = np.isfinite(seeds).all(axis=0)
  count = int(whole.sum())
  mean, low, high = band(seeds[:, whole], geometric)
  # Lines that coincide show by their widths, and by markers in turn.
  earlier = len(panel.get_legend_handles_labels()[0])
  width = max(1.4, 3 - 0.4 * earlier)
  stride = max(1, count // 6)
  panel.plot(
    positions[whole],
    mean,
    linestyle=style,
    color=color,
    linewidth=width,
    marker=marker,
    markersize=2 + 2 * width,
    markevery=(earlier % stride, stride),
    label=name or norm,
  )
  if count == 1:  # A band would have no width.
    panel.vlines(positions[whole], low, high, color=color, linewidth=width)
  panel.fill_between(positions[whole], low, high, color=color, alpha=0.2, lw=0)
  if go_on is not None and not whole.all():
    # From the last complete position on, so that the line has no gap.
    some = np.arange(len(positions)) >= count - 1
    some &= np.isfinite(go_on).any(axis=0)
    mean, low, high = band(go_on[:, some], geometric)
    panel.plot(positions[some], mean, ":", color=color, linewidth=width)
    panel.fill_between(
      positions[some], low, high, color=color, alpha=0.08, lw=0
    )


def bar(
  panel: "Axes",
  x: float,
  values: ArrayLike,
  norm: str,
  *,
  width: float,
  alpha: float = 1.0,
  name: str | None = None,
) -> None:
  """Draws a mean over seeds as a bar, with its interval.

  Above it stands how many seeds diverged, if any did; the mean is over the
  others.

  Args:
    panel: Panel to draw in.
    x: Middle of the bar.
    values: Values `[seeds]`, not finite where one diverged.
    norm: Short name of the norm, which sets the colour.
    width: Width of the bar.
    alpha: Opacity.
    name: Name in the legend; None leaves the bar out of it.
  """
  values = np.asarray(values)
  finite = values[np.isfinite(values)]
  diverged = len(values) - len(finite)
  found = interval(finite if len(finite) else [0.0])
  half_width = np.nan_to_num(found.half_width)
  if diverged:
    panel.annotate(
      f"{diverged} diverged",
      (x, found.mean + half_width),
      ha="center",
      va="bottom",
      fontsize="x-small",
    )
  panel.bar(
    x,
    found.mean,
    width,
    yerr=half_width,
    color=norm_color(norm),
    alpha=alpha,
    capsize=4,
    label=name,
  )


def band(
  values: np.ndarray, geometric: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns mean, low and high over the finite seeds of `[seeds, n]`.

  A single seed has a band of width zero.
  """
  if geometric:
    mean, low, high = band(np.log(values))
    return np.exp(mean), np.exp(low), np.exp(high)
  found = [interval(column[np.isfinite(column)]) for column in values.T]
  mean = np.array([entry.mean for entry in found])
  half = np.nan_to_num([entry.half_width for entry in found])
  return mean, mean - half, mean + half


def seeds_caption(count: int) -> str:
  """Returns a caption that explains the lines and their bands."""
  if count == 1:
    return "One seed"
  return f"Mean of {count} seeds, band: 95% interval"
