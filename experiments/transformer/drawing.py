"""What the figures of transformers share; losses of the free comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.lab import curves, figures
from experiments.lab.study import Run
from experiments.transformer.options import Config

Records = Mapping[str, Sequence[Mapping[str, Any]]]

# Colours of Tol's palettes that no norm of `NORM_COLORS` has:
# https://personal.sron.nl/~pault/
PLACEMENT_COLORS = {
  "pre": "#332288",
  "post": "#999933",
  "sandwich": "#882255",
  "peri": "#56b4e9",
  "none": figures.norm_color("none"),
}
_PLACEMENT_STYLES = {
  "pre": "-",
  "post": "--",
  "sandwich": "-.",
  "peri": ":",
  "none": (0, (1, 3)),
}


def losses(run: Run, config: Config, data: str, records: Records) -> None:
  """Draws training and validation loss of the models, without a study."""
  places = [(n, p) for n in config.norm for p in config.placement]
  alone = len(config.norm) == 1 and len(config.placement) > 1
  histories = {
    name: curves.History.of(
      entries,
      "step",
      norm,
      PLACEMENT_COLORS[placement] if alone else None,
      _PLACEMENT_STYLES[placement],
    )
    for (norm, placement), (name, entries) in zip(
      places, records.items(), strict=True
    )
  }
  curves.draw(run, histories, title=f"{data}: {size(config)}", unit="Step")


def size(config: Config) -> str:
  """Returns a text such as "4 blocks of width 48"."""
  blocks = "1 block" if config.layers == 1 else f"{config.layers} blocks"
  return f"{blocks} of width {config.width}"
