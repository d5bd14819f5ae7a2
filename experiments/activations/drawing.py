"""The figures of the study of activations."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.activations.training import LARGEST_FACTOR, Arm
from experiments.lab import figures
from experiments.lab.study import Parts, Run

if TYPE_CHECKING:
  from matplotlib.axes import Axes


def scales(found: Mapping[Arm, Parts], seeds: int, data: str, run: Run) -> None:
  """Draws errors, and saturated or dead units, by the scale of the inputs."""
  activations = list(dict.fromkeys(arm.activation for arm in found))
  with figures.drawing(
    run,
    "scales",
    title=f"Inputs times a factor, {data}",
    rows=2,
    columns=len(activations),
    caption=figures.seeds_caption(seeds),
  ) as panels:
    for column, activation in enumerate(activations):
      top, bottom = panels[column :: len(activations)]
      for norm, arms in _by_norm(found, activation).items():
        factors = [arm.scale for arm in arms]
        parts = [found[arm] for arm in arms]
        error = np.stack([part["reestimated"] for part in parts], axis=1)
        figures.curve(top, factors, error, norm)
        flat = np.stack([part["flat"].mean(1) for part in parts], axis=1)
        figures.curve(bottom, factors, 100 * flat, norm)
      share = "Dead units (%)" if activation == "relu" else "Saturated (%)"
      for panel, title, y in (
        (top, activation, "Test error (%)"),
        (bottom, "after training", share),
      ):
        figures.label(panel, title, "Factor of the inputs", y, log_x=True)
        panel.set_ylim(bottom=0)


def changes(
  found: Mapping[Arm, Parts],
  regime: Sequence[tuple[str, Arm]],
  drifting: Sequence[Arm],
  data: str,
  run: Run,
) -> None:
  """Draws the linear regime, and what a change of the first layers does.

  Args:
    found: The arms.
    regime: Arms whose shares beyond -2 and 2 are shown, with their names.
    drifting: Arms whose first layers are changed.
    data: Name of the data.
    run: Gets the figure.
  """
  with figures.drawing(
    run,
    "changes",
    title=f"Linear regime and drifting inputs, {data}",
    columns=3,
    caption="Mean over seeds with the 95% interval; each unit of two layers"
    f" gets a factor from 1/{LARGEST_FACTOR:g} to {LARGEST_FACTOR:g}",
  ) as (left, middle, right):
    for name, arm in regime:
      beyond = 100 * found[arm]["beyond"]
      layers = np.arange(1, beyond.shape[1] + 1)
      style = "-" if arm.affine else "--"
      figures.curve(left, layers, beyond, arm.norm, name=name, style=style)
    figures.label(left, "Sigmoid inputs beyond ±2", "Hidden layer", "Share (%)")
    left.set_ylim(bottom=0)
    for x, arm in enumerate(drifting):
      figures.bar(middle, x, found[arm]["drift"], arm.norm, width=0.7)
    _name_bars(middle, drifting)
    figures.label(
      middle, "Last layer's inputs move", "", "Distance (standard deviations)"
    )
    kinds = ("reestimated", "changed", "changed_reestimated")
    for x, arm in enumerate(drifting):
      for number, kind in enumerate(kinds):
        figures.bar(
          right,
          x + 0.27 * (number - 1),
          found[arm][kind],
          arm.norm,
          width=0.25,
          alpha=(1.0, 0.7, 0.4)[number],
        )
    _name_bars(right, drifting)
    figures.label(
      right,
      "Before, after, after with\nre-estimated statistics",
      "",
      "Test error (%)",
    )


def _by_norm(
  found: Mapping[Arm, Parts], activation: str
) -> dict[str, list[Arm]]:
  """Returns the arms of an activation by norm, at all scales."""
  arms = [arm for arm in found if arm.activation == activation and arm.affine]
  return {
    norm: [arm for arm in arms if arm.norm == norm]
    for norm in dict.fromkeys(arm.norm for arm in arms)
  }


def _name_bars(panel: "Axes", arms: Sequence[Arm]) -> None:
  panel.set_xticks(range(len(arms)), [arm.norm for arm in arms])
