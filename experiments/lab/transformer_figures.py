"""Figures of the transformer study."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.lab import panels, plots
from experiments.lab.study import Run
from experiments.lab.transformer_options import Config

if TYPE_CHECKING:
  from matplotlib.axes import Axes

Records = Mapping[str, Sequence[Mapping[str, Any]]]

# Okabe and Ito's palette, as for the norms, which are then all the same.
PLACEMENT_COLORS = {
  "pre": "#0072b2",
  "post": "#d55e00",
  "sandwich": "#009e73",
  "peri": "#cc79a7",
  "none": "#4d4d4d",
}
_PLACEMENT_STYLES = {
  "pre": "-",
  "post": "--",
  "sandwich": "-.",
  "peri": ":",
  "none": (0, (1, 3)),
}


def line(
  panel: "Axes",
  x: ArrayLike,
  values: ArrayLike,
  color: str,
  label: str,
  *,
  style: Any = "-",
  marker: str = "o",
) -> None:
  """Draws a mean over seeds with its band.

  Args:
    panel: To draw in.
    x: Positions `[n]`.
    values: `[seeds, n]`; positions where a seed is not finite are left out.
    color, label, style, marker: Of the line.
  """
  positions, seeds = np.asarray(x), np.asarray(values, np.float64)
  known = np.isfinite(seeds).all(axis=0)
  if not known.any():
    return
  positions, seeds = positions[known], seeds[:, known]
  mean, low, high = panels.band(seeds)
  panel.plot(
    positions,
    mean,
    linestyle=style,
    color=color,
    linewidth=2,
    marker=marker,
    markersize=5,
    label=label,
  )
  panel.fill_between(positions, low, high, color=color, alpha=0.18, lw=0)


def series(records: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
  """Returns a metric `[seeds, evaluations]`, NaN where it is not finite."""
  return np.array([record[name] for record in records], np.float64).T


def steps(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """Returns the steps `[evaluations]`."""
  return np.array([record["step"] for record in records])


def curves(run: Run, config: Config, records: Records) -> None:
  """Draws training and validation loss of the models that flags describe."""
  if config.study != "none":
    return
  with panels.drawing(
    run,
    "curves",
    title=f"{config.dataset if config.task == 'lm' else config.task}:"
    f" {config.layers} blocks of width {config.width}",
    caption=panels.seeds_caption(config.seeds),
  ) as axes:
    for panel, metric, title in zip(
      axes,
      ("train_loss", "val_loss"),
      ("Training loss", "Validation loss"),
      strict=True,
    ):
      index = 0
      for norm in config.norm:
        for placement in config.placement:
          name, entries = list(records.items())[index]
          index += 1
          alone = len(config.norm) == 1 and len(config.placement) > 1
          line(
            panel,
            steps(entries),
            series(entries, metric),
            PLACEMENT_COLORS[placement] if alone else plots.norm_color(norm),
            name,
            style="-" if alone else _PLACEMENT_STYLES[placement],
          )
      panels.label(panel, title, "Step", "Cross-entropy (nats)")
