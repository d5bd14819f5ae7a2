"""The figures of deep nets of sigmoids."""

import functools
from collections.abc import Mapping

import numpy as np
from flax import linen as nn

from experiments.deep_sigmoid.training import Config, best
from experiments.lab import figures
from experiments.lab.data.arrays import Images
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.probes import signals
from experiments.lab.study import Parts, Run


def training(
  arms: Mapping[tuple[str, int, str], Parts],
  config: Config,
  data: str,
  run: Run,
) -> None:
  """Draws errors over time, and percentiles of the input of one sigmoid."""
  length = config.steps // config.probes
  steps = length * np.arange(1, config.probes + 1)
  depths = config.depths
  with figures.drawing(
    run,
    "errors",
    columns=len(depths),
    title=f"Layers of 100 sigmoids, binarized {data}, SGD at the best rate",
    caption=figures.seeds_caption(config.seeds),
  ) as axes:
    for panel, depth in zip(axes, depths, strict=True):
      for norm in config.norm:
        arm = arms[norm, depth, "sgd"]
        figures.curve(
          panel, steps, arm["error"][best(arm)], norm, geometric=True
        )
      figures.label(
        panel, f"{depth} layers", "Training step", "Test error (%)", log_y=True
      )
  with figures.drawing(
    run,
    "percentiles",
    columns=len(config.norm),
    title=f"Input of one sigmoid in layer {depths[0]} of {depths[0]}",
    caption="Line: median over test images, band: 15th to 85th percentile; SGD"
    f" at the best rate, seed {config.seed}, unit 0",
    legend=False,
  ) as axes:
    for panel, norm in zip(axes, config.norm, strict=True):
      arm = arms[norm, depths[0], "sgd"]
      low, median, high = arm["inputs"][best(arm), 0, :, :, 0].T
      color = figures.norm_color(norm)
      panel.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)
      panel.plot(steps, median, color=color, linewidth=2)
      figures.label(panel, norm, "Training step", "Input of the sigmoid")
    limits = np.array([panel.get_ylim() for panel in axes])
    for panel in axes:
      panel.set_ylim(limits[:, 0].min(), limits[:, 1].max())


def before_training(config: Config, images: Images, run: Run) -> None:
  """Draws gradients and activations by layer, before training."""
  batch = images.prepared(128)
  layers = np.arange(1, config.signal_depth + 1)
  with figures.drawing(
    run,
    "signals",
    rows=2,
    title=f"{config.signal_depth} layers before training",
    caption=figures.seeds_caption(config.seeds),
  ) as axes:
    for column, activation in enumerate((nn.sigmoid, nn.relu)):
      for norm in config.norm:
        model = MLP(
          norm=norm_factory(norm),
          hidden=(100,) * config.signal_depth,
          activation=activation,
        )
        found = run.part(
          f"signals_{norm}_{column}",
          functools.partial(signals.at_init, model, config.seed_numbers, batch),
        )
        for panel, name in zip(
          axes[column::2], ("gradient", "spread"), strict=True
        ):
          figures.curve(panel, layers, found[name], norm, geometric=True)
      name = ("sigmoids", "ReLUs")[column]
      figures.label(
        axes[column], name, "Layer", "Norm of the kernel's gradient", log_y=True
      )
      figures.label(
        axes[2 + column], name, "Layer", "Std of activation inputs", log_y=True
      )
