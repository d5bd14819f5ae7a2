"""The figure of `benchmarks.norms`: ratios of time, case by case."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.norm_report import OURS, Row
from experiments.lab.runs import files

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/. Each library has a
# marker of its own, so that colors are not needed to tell them apart.
STYLES: Mapping[str, tuple[str, str]] = {
  "flax.linen": ("#0072b2", "o"),
  "flax.nnx": ("#56b4e9", "s"),
  "haiku": ("#009e73", "D"),
  "equinox": ("#e69f00", "^"),
  "jax.nn": ("#cc79a7", "v"),
  "torch": ("#d55e00", "X"),
  "torch.compile": ("#4d4d4d", "P"),
}


def plot_ratios(
  rows: Sequence[Row], path: str | os.PathLike[str], *, title: str
) -> None:
  """Draws libraries' times divided by ours: a line per case, a panel per mode.

  Args:
    rows: The rows to draw. If their timings differ, only the first is drawn.
    path: PNG file, replaced atomically.
    title: The title above the panels.

  Raises:
    ValueError: There is no row.
  """
  if not rows:
    raise ValueError("plot_ratios needs at least one row.")
  rows = [row for row in rows if row.timing == rows[0].timing]
  modes = list(dict.fromkeys(row.mode for row in rows))
  titles = list(dict.fromkeys(row.case.title for row in rows))
  drawn = [name for name in STYLES if any(name in row.seconds for row in rows)]

  # Imported here because it is slow. A figure with its own Agg canvas needs
  # neither pyplot's global state nor a window system.
  import matplotlib as mpl
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure
  from matplotlib.lines import Line2D

  with mpl.rc_context({"font.size": 11, "axes.linewidth": 0.8}):
    figure = Figure(
      figsize=(4 + 3.6 * len(modes), 2.4 + 0.3 * len(titles)),
      layout="constrained",
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(
      1, len(modes), sharex=True, sharey=True, squeeze=False
    )[0]
    for panel, mode in zip(panels, modes, strict=True):
      _draw_panel(panel, [row for row in rows if row.mode == mode], titles)
      panel.set_title(mode)
    panels[0].set_yticks(range(len(titles)), titles)
    panels[0].set_ylim(len(titles) - 0.5, -0.5)
    figure.suptitle(f"{title}, {rows[0].timing}")
    if drawn:
      figure.legend(
        handles=[
          Line2D([], [], ls="", color=STYLES[name][0], marker=STYLES[name][1])
          for name in drawn
        ],
        labels=drawn,
        loc="outside lower center",
        ncols=4,
        frameon=False,
      )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
  files.write_bytes(path, buffer.getvalue())


def _draw_panel(
  panel: "Axes", rows: Sequence[Row], titles: Sequence[str]
) -> None:
  from matplotlib import ticker

  norms = [title.split()[0] for title in titles]
  for y in range(len(titles)):
    # A line between two norms.
    if y and norms[y] != norms[y - 1]:
      panel.axhline(y - 0.5, color="0.6", lw=0.8)
  panel.axvline(1, color="0.2", lw=1.2)
  for row in rows:
    y = titles.index(row.case.title)
    ratios = {name: row.ratio(name) for name in STYLES if name in row.seconds}
    if ratios:
      ends = min(1, *ratios.values()), max(1, *ratios.values())
      panel.hlines(y, *ends, color="0.85", lw=1.5)
    for name, ratio in ratios.items():
      color, marker = STYLES[name]
      panel.plot(ratio, y, marker, color=color, ms=6, alpha=0.85, zorder=3)
  panel.set_xscale("log", base=2)
  panel.xaxis.set_major_formatter(
    ticker.FuncFormatter(lambda value, _: f"{value:g}")
  )
  panel.set_xlabel(f"Time over that of {OURS}")
  panel.grid(axis="x", alpha=0.25)
  panel.spines[["top", "right"]].set_visible(False)
