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
LONGER = {2: 4, 16: 1}  # Factor of the steps, by batch size.
SHOWN = 3  # Test scenes whose outputs are kept.
CHECKS = 5  # How often average precision is taken during a training.
LEARNED = ("bn", "gn", "none")  # Norms of the nets without pre-training.
FINE_TUNED = ("trained", "frozen")  # What becomes of pre-trained batch norms.

Arm = tuple[str, int]  # One of `LEARNED` or `FINE_TUNED`; batch size.


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The scenes, the net, and how long to train."""

  canvas: int = option(
    40,
    "Height and width of a scene in pixels, a multiple of 40. The longer side"
    " of a digit has a quarter to a half of it.",
    flags.IntegerParser(lower_bound=40),
  )
  train: int = option(2_048, "Scenes to train on.", parsers.COUNT)
  test: int = option(
    256, "Scenes for the test, and as many for validation.", parsers.COUNT
  )
  steps: int = option(
    600,
    "Training steps with batches of 16. With batches of 2 there are four times"
    " as many, and after pre-training half as many.",
    flags.IntegerParser(lower_bound=2 * CHECKS),
  )
  hidden: tuple[int, ...] = option(
    HIDDEN,
    "Channels of the stem and of each convolution after it.",
    parsers.COUNTS,
  )

  def check(self) -> None:
    """Raises RefusedError if there is no such net, or too few scenes."""
    if self.canvas % (5 * STRIDE):
      raise RefusedError(
        f"--canvas={self.canvas} is not a multiple of {5 * STRIDE}, so cells of"
        f" {STRIDE}x{STRIDE} pixels do not fill it, or three fifths of it."
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

  def steps_of(self, arm: Arm) -> int:
    """Returns the number of steps of an arm."""
    kind, size = arm
    return LONGER[size] * self.steps // (2 if kind in FINE_TUNED else 1)

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
    return scenes.Sizes(*counts, self.canvas * 3 // 5, sides, most=1)
