"""What is trained, and the settings of the study."""

import dataclasses

from absl import flags

from experiments.detection import scenes
from experiments.detection.nets import HIDDEN, STRIDE
from experiments.lab import options, parsers, tuning
from experiments.lab.errors import RefusedError
from experiments.lab.options import option

RATES = tuning.half_decades(-6, -2)
SIZES = (2, 16)
SHOWN = 3  # Test scenes whose outputs are kept.
CHECKS = 5  # How often average precision is taken during a training.
AGAIN = 500_000  # What is added to a seed for other kernels and batches.
LEARNED = ("bn", "gn", "none")  # Norms of the nets without pre-training.
FINE_TUNED = ("trained", "frozen")  # What becomes of pre-trained batch norms.

Arm = tuple[str, int]  # One of `LEARNED` or `FINE_TUNED`; batch size.


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The scenes, the net, and how long to train."""

  canvas: int = option(
    48,
    "Height and width of a scene in pixels. The longer side of a digit has a"
    " quarter to a half of it.",
    flags.IntegerParser(lower_bound=24),
  )
  train: int = option(2_048, "Scenes to train on.", parsers.COUNT)
  test: int = option(
    256, "Scenes for the test, and as many for validation.", parsers.COUNT
  )
  examples: int = option(
    4_800,
    "Scenes of a training, with repetitions, whatever the batch size. After"
    " pre-training it is half of them.",
    flags.IntegerParser(lower_bound=2 * max(SIZES) * CHECKS),
  )
  hidden: tuple[int, ...] = option(
    HIDDEN,
    "Channels of the stem and of each convolution after it.",
    parsers.COUNTS,
  )

  def check(self) -> None:
    """Raises RefusedError if there is no such net, or too few scenes."""
    if self.canvas % (3 * STRIDE):
      raise RefusedError(
        f"--canvas={self.canvas} is not a multiple of {3 * STRIDE}, so cells of"
        f" {STRIDE}x{STRIDE} pixels do not fill it, or two thirds of it."
      )
    if len(self.hidden) < 3:
      raise RefusedError(
        "--hidden needs the stem and two convolutions or more, of which the"
        f" second has stride 2, got {len(self.hidden)}."
      )
    if self.train < max(SIZES):
      raise RefusedError(
        f"--train={self.train} scenes are no batch of {max(SIZES)}."
      )

  def sizes(self, whole: bool = True) -> scenes.Sizes:
    """Returns how many scenes there are, and how large.

    Args:
      whole: Whether they are for the detector. The classifier has smaller ones
        with one digit.
    """
    sides = (self.canvas / 4, self.canvas / 2)
    counts = (self.train, self.test, self.test)
    if whole:
      return scenes.Sizes(*counts, self.canvas, sides, scenes.MOST)
    return scenes.Sizes(*counts, self.canvas * 2 // 3, sides, most=1)
