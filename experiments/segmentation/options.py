"""The settings: what to segment, with which net, and how long to train."""

import dataclasses

from experiments.lab import options, parsers
from experiments.lab.errors import RefusedError
from experiments.lab.options import option

NORMS = ("none", "bn", "gn", "ln", "in")
BATCHES = (2, 16)
SHAPES = "shapes"
# Two channels or more in a group; with the eight groups of other studies, group
# norm would be instance norm where there are eight channels.
GROUPS = 4
Arm = tuple[str, int]  # Norm, batch size.


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The task, the net, and how long to train."""

  dataset: str = option(
    SHAPES,
    "shapes: disks and bars on stripes, which are generated; digits, mnist, or"
    " another data set of digits (see experiments.mnist): zeros and ones among"
    " halves of all digits.",
  )
  examples: int = option(
    0,
    "Crops to train on, whatever the batch size; 0 stands for 1,920 of shapes"
    " and 5,760 of digits.",
    parsers.COUNT_OR_ZERO,
  )
  epochs: int = option(1, "How often each crop is used.", parsers.COUNT)
  side: int = option(48, "Height and width of a scene, pixels.", parsers.COUNT)
  crop: int = option(
    24, "Height and width of the crops to train on, pixels.", parsers.COUNT
  )
  lighting: float = option(
    1.0,
    "How much the light differs between scenes: a gain of up to two to this"
    " power, and an offset of up to this.",
    parsers.NOT_NEGATIVE,
  )
  hidden: tuple[int, ...] = option(
    (8, 16, 32),
    "Channels of each level of the U-Net, from the largest maps on.",
    parsers.COUNTS,
  )
  convolutions: int = option(
    1, "Convolutions of a level in each direction.", parsers.COUNT
  )
  test: int = option(64, "Scenes of the test set of a seed.", parsers.COUNT)

  @property
  def crops(self) -> int:
    """Number of crops to train on."""
    return self.examples or (1_920 if self.dataset == SHAPES else 5_760)

  def unused(self) -> dict[str, str]:
    if self.dataset != SHAPES:
      return super().unused()
    return dict.fromkeys(
      ("halve", "data_dir"), "on shapes, which are generated"
    )

  def check(self) -> None:
    """Raises RefusedError if the settings do not fit together."""
    step = 2 ** (len(self.hidden) - 1)
    if self.crop % step or self.side % self.crop:
      raise RefusedError(
        f"--crop must be a multiple of {step}, because {len(self.hidden)}"
        " levels halve it, and --side a multiple of --crop; got"
        f" --crop={self.crop} and --side={self.side}."
      )
    if any(width % GROUPS for width in self.hidden):
      raise RefusedError(
        f"Each number of --hidden must be a multiple of {GROUPS}, because group"
        f" norm has {GROUPS} groups; got {','.join(map(str, self.hidden))}."
      )
    if self.crops < max(BATCHES):
      raise RefusedError(
        f"--examples must be at least {max(BATCHES)}, the largest batch; got"
        f" {self.examples}."
      )
