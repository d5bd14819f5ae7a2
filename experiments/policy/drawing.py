"""The figure: learning curves, and how far acting is from updating."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.lab import figures
from experiments.lab.study import Parts, Run
from experiments.policy.options import ARMS, Config

if TYPE_CHECKING:
  from matplotlib.axes import Axes

TITLES = {
  "natural": "Natural observations",
  "scaled": "Badly scaled observations",
}
STYLES = {"inputs": "-.", "bn_batch": ":"}
TINY = 1e-9  # Nats; where zero is drawn on the logarithmic axis.


def draw(
  found: Mapping[str, Mapping[str, Parts]], config: Config, run: Run
) -> None:
  """Draws the figure.

  Args:
    found: What was found, by scale and arm.
    config: The settings.
    run: Gets the figure.
  """
  seen = config.environments * config.horizon / 1000
  steps = seen * np.arange(1, config.updates + 1)
  with figures.drawing(
    run,
    "policy",
    columns=3,
    title="Cart-pole: how long a policy balances the pole",
    caption=f"{figures.seeds_caption(config.seeds)}; each arm at its best"
    f" learning rate; a KL of zero is drawn at {TINY:g}",
  ) as axes:
    for panel, (scale, arms) in zip(axes, found.items(), strict=False):
      for name, part in arms.items():
        _curve(panel, steps, part["curve"], name)
      panel.set_ylim(0, 1.05 * config.longest)
      figures.label(
        panel,
        TITLES[scale],
        "Steps of training (thousands)",
        "Length of the last episodes (steps)",
      )
    for name, part in found["natural"].items():
      apart = np.maximum(part["divergence"], TINY)
      _curve(axes[2], steps, apart, name, geometric=True)
    figures.label(
      axes[2],
      "Acting against updating",
      "Steps of training (thousands)",
      "KL at equal parameters (nats)",
      log_y=True,
    )


def _curve(
  panel: "Axes",
  x: np.ndarray,
  values: np.ndarray,
  name: str,
  geometric: bool = False,
) -> None:
  figures.curve(
    panel,
    x,
    values,
    ARMS[name].norm,
    name=ARMS[name].title,
    color=figures.norm_color("inputs") if name == "inputs" else None,
    style=STYLES.get(name, "-"),
    geometric=geometric,
  )
