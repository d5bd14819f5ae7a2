"""The figures: samples of every arm, and distance and entropy by step."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.gan.arms import ARMS
from experiments.gan.config import Config
from experiments.gan.measures import SHOWN
from experiments.lab import figures
from experiments.lab.study import Parts, Run

_SEEDS = 5  # Seeds that are shown.
# The norm that gives the colour, another colour, and the line's style.
_LINES: Mapping[str, tuple[str, str | None, str]] = {
  "none": ("none", None, "-"),
  "generator": ("bn", None, "--"),
  "both": ("bn", None, "-"),
  "all": ("bn", "#882255", "-"),
  "last": ("bn", "#332288", "-"),
  "gn": ("gn", None, "-"),
  "spectral": ("bn", "#56b4e9", "-"),
}


def draw(
  found: Mapping[str, Parts],
  titles: Mapping[str, str],
  real: np.ndarray,
  config: Config,
  data: str,
  run: Run,
) -> None:
  """Draws both figures.

  Args:
    found: The arms by name.
    titles: Their titles.
    real: Test images, bytes `[seeds, n, height, width, channels]`.
    config: The settings.
    data: Name of the data.
    run: Run that gets the figures.
  """
  rows = {"real images": real}
  rows |= {titles[name]: found[name]["samples"] for name in ARMS}
  _draw_samples(rows, min(config.seeds, _SEEDS), data, run)
  _draw_curves(found, titles, config, data, run)


def _draw_samples(
  rows: Mapping[str, np.ndarray], seeds: int, data: str, run: Run
) -> None:
  with figures.drawing(
    run,
    "samples",
    title=f"Samples after the last step, {data}",
    rows=len(rows),
    columns=seeds,
    size=(2.5 + 1.5 * seeds, 1.5 * len(rows) + 0.8),
    caption="Each square: nine samples of one seed",
  ) as axes:
    for number, (title, images) in enumerate(rows.items()):
      for seed in range(seeds):
        panel = axes[number * seeds + seed]
        panel.imshow(mosaic(images[seed]), cmap="gray", vmin=0, vmax=255)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
        if seed == 0:
          panel.set_ylabel(title, rotation=0, ha="right", va="center")
        if number == 0:
          panel.set_title(f"seed {seed}", fontsize=12)


def mosaic(images: np.ndarray) -> np.ndarray:
  """Returns the first `SHOWN` images as one, three in a row.

  Args:
    images: Bytes `[n, height, width, channels]`.

  Returns:
    Bytes `[h, w]`, or `[h, w, channels]` with colours, with white lines.
  """
  side = round(SHOWN**0.5)
  framed = np.pad(
    images[: side * side],
    [(0, 0), (1, 0), (1, 0), (0, 0)],
    constant_values=255,
  )
  _, height, width, channels = framed.shape
  grid = framed.reshape(side, side, height, width, channels)
  whole = grid.transpose(0, 2, 1, 3, 4)
  whole = whole.reshape(side * height, side * width, channels)[1:, 1:]
  return whole[..., 0] if channels == 1 else whole


def _draw_curves(
  found: Mapping[str, Parts],
  titles: Mapping[str, str],
  config: Config,
  data: str,
  run: Run,
) -> None:
  steps = config.every * np.arange(1, config.checkpoints + 1)
  with figures.drawing(
    run,
    "curves",
    title=f"A small DCGAN, {data}",
    caption=figures.seeds_caption(config.seeds),
  ) as (left, right):
    for name, (norm, color, style) in _LINES.items():
      options: dict[str, Any] = {"color": color, "style": style}
      options["name"] = titles[name]
      distances = found[name]["distances"]
      figures.curve(left, steps, distances, norm, geometric=True, **options)
      figures.curve(right, steps, found[name]["entropies"], norm, **options)
    figures.label(
      left,
      "Distance of samples to test images",
      "Training step",
      "Fréchet distance",
      log_y=True,
    )
    figures.label(
      right, "Variety of samples", "Training step", "Entropy of classes (nats)"
    )
    right.set_ylim(0, None)
