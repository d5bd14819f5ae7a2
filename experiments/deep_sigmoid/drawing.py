"""The figures of deep nets of sigmoids."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from flax import linen as nn

from experiments.deep_sigmoid.training import Arm, Config, Kind, kinds
from experiments.lab import figures
from experiments.lab.data.arrays import Pool
from experiments.lab.probes import signals
from experiments.lab.study import Parts, Run

if TYPE_CHECKING:
  from matplotlib.axes import Axes


def training(
  found: Mapping[Arm, Parts], config: Config, data: str, run: Run
) -> None:
  """Draws errors over time, and percentiles of the input of one sigmoid."""
  length = config.steps // config.probes
  steps = length * np.arange(1, config.probes + 1)
  depths = config.depths
  with figures.drawing(
    run,
    "errors",
    columns=len(depths),
    title=f"Layers of {config.width} sigmoids, binarized {data}, best rate of"
    " SGD",
    caption=figures.seeds_caption(config.seeds),
  ) as axes:
    for panel, depth in zip(axes, depths, strict=True):
      for kind in kinds(config):
        errors = found[Arm(kind, depth, "sgd")]["error"]
        _curve(panel, steps, errors, kind)
      figures.label(
        panel, f"{depth} layers", "Training step", "Test error (%)", log_y=True
      )
  with figures.drawing(
    run,
    "percentiles",
    columns=len(kinds(config)),
    size=(3.6 * len(kinds(config)), 4.4),
    title=f"Input of one sigmoid in layer {depths[0]} of {depths[0]}",
    caption="Line: median over test images, band: 15th to 85th percentile; SGD"
    f" at the best rate, seed {config.seed}, unit 0",
    legend=False,
  ) as axes:
    for panel, kind in zip(axes, kinds(config), strict=True):
      inputs = found[Arm(kind, depths[0], "sgd")]["inputs"]
      low, median, high = inputs[0, :, :, 0].T
      color = figures.norm_color(kind.norm)
      panel.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)
      panel.plot(steps, median, color=color, linewidth=2)
      figures.label(panel, str(kind), "Training step", "Input of the sigmoid")
    limits = np.array([panel.get_ylim() for panel in axes])
    for panel in axes:
      panel.set_ylim(limits[:, 0].min(), limits[:, 1].max())


def before_training(config: Config, pool: Pool, run: Run) -> None:
  """Draws gradients and activations by layer, before training."""
  batch = pool.prepared(128)
  layers = np.arange(1, config.signal_depth + 1)
  with figures.drawing(
    run,
    "signals",
    rows=2,
    title=f"{config.signal_depth} layers before training",
    caption=figures.seeds_caption(config.seeds),
  ) as axes:
    for column, activation in enumerate((nn.sigmoid, nn.relu)):
      for kind in kinds(config):
        if kind.gain != 1 and activation is nn.relu:
          continue  # The gain is advised for sigmoids.
        found = run.part(
          f"signals_{kind.norm}_{kind.gain}_{column}",
          functools.partial(
            signals.at_init,
            kind.net((config.width,) * config.signal_depth, activation),
            config.seed_numbers,
            batch,
          ),
        )
        for panel, name in zip(
          axes[column::2], ("gradient", "spread"), strict=True
        ):
          _curve(panel, layers, found[name], kind)
      name = ("sigmoids", "ReLUs")[column]
      figures.label(
        axes[column], name, "Layer", "Norm of the kernel's gradient", log_y=True
      )
      figures.label(
        axes[2 + column], name, "Layer", "Std of activation inputs", log_y=True
      )


def _curve(
  panel: "Axes", x: np.ndarray, values: np.ndarray, kind: Kind
) -> None:
  """Draws a kind of net; dashed if it has a gain."""
  style = "-" if kind.gain == 1 else "--"
  figures.curve(
    panel, x, values, kind.norm, name=str(kind), style=style, geometric=True
  )
