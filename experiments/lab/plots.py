"""Figures of the studies."""

import io
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from experiments.lab import reporting

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# Okabe and Ito's palette, which readers with any colour vision can tell apart:
# https://jfly.uni-koeln.de/color/. One norm has one colour in every figure.
NORM_COLORS = {
  "none": "#4d4d4d",
  "ln": "#0072b2",
  "rms": "#cc79a7",
  "bn": "#d55e00",
  "gn": "#009e73",
  "in": "#e69f00",
}

# For norms that are not listed: the hues of Tol's palettes nearest to none of
# those above.
# https://personal.sron.nl/~pault/
_OTHER_COLORS = ("#56b4e9", "#332288", "#999933", "#882255", "#44aa99")

# Lines are told apart without colour too.
_MARKERS = "osD^vP*X<>"

_PANELS = {"train_loss": "Training loss", "val_loss": "Validation loss"}


def norm_color(name: str) -> str:
  """Returns the colour of a norm, the same in every figure and process.

  Args:
    name: Short name of the norm, such as `ln`.

  Returns:
    The colour of `NORM_COLORS`, or for other names one that depends on the
    name alone, `#rrggbb`.

  >>> norm_color("ln")
  '#0072b2'
  """
  if name in NORM_COLORS:
    return NORM_COLORS[name]
  # Python's own hash of a string differs from process to process.
  return _OTHER_COLORS[zlib.crc32(name.encode()) % len(_OTHER_COLORS)]


def plot_curves(
  histories: Mapping[str, Mapping[str, ArrayLike]],
  path: str | os.PathLike[str],
  *,
  title: str,
) -> None:
  """Draws training and validation loss over epochs, a line per norm.

  A line is the mean over the seeds that still train, its band their Student t
  95% interval. Seeds stop early at different epochs, and the mean over those
  left is one over fewer and other seeds: from where the first seed has
  stopped, the line is dotted. With fewer than two seeds left there is no band.

  Args:
    histories: `{norm: {"train_loss": a, "val_loss": b}}` with arrays
      `[seeds, epochs]`, NaN from where a seed has stopped. Further metrics
      are ignored.
    path: PNG file, replaced atomically.
    title: Stands above the panels.

  Raises:
    ValueError: There is no history, a loss is missing, or an array is not
      `[seeds, epochs]` or holds nothing to draw.
  """
  if not histories:
    raise ValueError("plot_curves needs the history of at least one norm.")
  curves = {
    metric: {
      norm: _seeds_by_epochs(norm, metric, history)
      for norm, history in histories.items()
    }
    for metric in _PANELS
  }

  # Slow to import. A figure of its own, drawn by Agg, leaves pyplot's global
  # state and any window system alone.
  import matplotlib as mpl
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure
  from matplotlib.layout_engine import ConstrainedLayoutEngine

  with mpl.rc_context({"font.size": 14, "axes.linewidth": 0.8}):
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(11, 5.2), layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(_PANELS))
    for panel, (metric, label) in zip(axes, _PANELS.items(), strict=True):
      _draw_panel(panel, curves[metric], label)
    seeds = {len(values) for values in curves["train_loss"].values()}
    figure.suptitle(title, fontsize=16)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
      handles,
      labels,
      loc="outside lower center",
      ncols=min(len(labels), 8),
      frameon=False,
      title=_caption(seeds, list(curves["train_loss"].values())),
      title_fontsize=12,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
  reporting.write_bytes(path, buffer.getvalue())


def _seeds_by_epochs(
  norm: str, metric: str, history: Mapping[str, ArrayLike]
) -> np.ndarray:
  if metric not in history:
    raise ValueError(
      f"The history of {norm!r} lacks {metric!r}; it has {sorted(history)}."
    )
  values = np.asarray(history[metric], np.float64)
  if values.ndim != 2 or values.size == 0:
    raise ValueError(
      f"{metric!r} of {norm!r} must be [seeds, epochs], got shape"
      f" {values.shape}."
    )
  # A loss that overflowed cannot be drawn.
  values = np.where(np.isfinite(values), values, np.nan)
  if np.isnan(values).all():
    raise ValueError(f"{metric!r} of {norm!r} holds no finite value.")
  return values


def _caption(seeds: set[int], curves: Sequence[np.ndarray]) -> str:
  if seeds == {1}:
    return "One seed"
  fewest, most = min(seeds), max(seeds)
  count = f"{most}" if fewest == most else f"{fewest} to {most}"
  caption = f"Mean of {count} seeds, band: 95% interval"
  if any(np.isnan(values).any() for values in curves):
    caption += "; dotted: mean of the seeds that have not stopped yet"
  return caption


def _draw_panel(
  panel: "Axes", curves: Mapping[str, np.ndarray], label: str
) -> None:
  from matplotlib import ticker

  means, bands = [], []
  for index, (norm, values) in enumerate(curves.items()):
    mean, low, high = _mean_and_band(values)
    epochs = np.arange(1, mean.size + 1)
    alive = np.isfinite(values).sum(axis=0)
    complete = int((alive == alive[0]).sum())
    means.append(mean)
    # Two seeds that are left can have a band that dwarfs all else: it may be
    # cut off.
    bands += [low[:complete], high[:complete]]
    color = norm_color(norm)
    panel.plot(
      epochs[:complete],
      mean[:complete],
      color=color,
      linewidth=2.2,
      marker=_MARKERS[index % len(_MARKERS)],
      markersize=6,
      markevery=max(1, mean.size // 12),
      label=norm,
    )
    # From the last complete epoch on, so that the line has no gap.
    start = max(complete - 1, 0)
    panel.plot(epochs[start:], mean[start:], ":", color=color, linewidth=2.2)
    for part, alpha in ((slice(complete), 0.2), (slice(start, None), 0.08)):
      panel.fill_between(
        epochs[part], low[part], high[part], color=color, alpha=alpha, lw=0
      )

  panel.set_title(label, fontsize=14)
  panel.set_xlabel("Epoch")
  panel.set_ylabel("Cross-entropy (nats)")
  panel.xaxis.set_major_locator(
    ticker.MaxNLocator("auto", integer=True, min_n_ticks=1)
  )
  panel.grid(alpha=0.25)
  panel.spines[["top", "right"]].set_visible(False)
  _scale_y(panel, np.concatenate(means), np.concatenate(bands))


def _scale_y(panel: "Axes", means: np.ndarray, bands: np.ndarray) -> None:
  """Sets the limits, and a logarithmic axis where means span a wide range."""
  from matplotlib import ticker

  lowest, highest = np.nanmin(means), np.nanmax(means)
  low = np.nanmin(np.append(bands, lowest))
  high = np.nanmax(np.append(bands, highest))
  if lowest > 0 and highest > 5 * lowest:
    low = max(low, lowest / 2)  # A band may reach below zero.
    margin = (high / low) ** 0.06
    panel.set_yscale("log", nonpositive="clip")
    panel.set_ylim(low / margin, high * margin)
    panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_minor_locator(ticker.NullLocator())
    panel.yaxis.set_major_formatter(
      ticker.FuncFormatter(lambda value, _: f"{value:g}")
    )
  elif high > low:
    margin = 0.06 * (high - low)
    panel.set_ylim(low - margin, high + margin)


def _mean_and_band(
  values: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns mean, low and high per epoch over the seeds that still train."""
  mean, low, high = np.full((3, values.shape[1]), np.nan)
  for epoch, column in enumerate(values.T):
    alive = column[np.isfinite(column)]
    if alive.size:
      result = reporting.interval(alive)
      mean[epoch], low[epoch], high[epoch] = (
        result.mean,
        result.low,
        result.high,
      )
  return mean, low, high
