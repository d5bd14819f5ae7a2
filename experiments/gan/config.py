"""The settings of the study."""

import dataclasses

from absl import flags

from experiments.lab import options, parsers
from experiments.lab.options import option


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The networks, and how long to train."""

  hidden: tuple[int, ...] = option(
    (16, 16),
    "Channels of the generator's hidden layers, each of which doubles height"
    " and width; the discriminator has them in reverse.",
    parsers.COUNTS,
  )
  noise: int = option(
    32, "Normal numbers from which an image is made.", parsers.COUNT
  )
  batch_size: int = option(
    64,
    "Images in a batch, real ones and as many generated ones.",
    flags.IntegerParser(lower_bound=2),
  )
  steps: int = option(
    500, "Training steps; each updates both networks.", parsers.COUNT
  )
  checkpoints: int = option(
    20,
    "How often samples are measured in a training, at equal distances.",
    flags.IntegerParser(lower_bound=4),
  )
  samples: int = option(
    1_000,
    "Samples of a measurement.",
    flags.IntegerParser(lower_bound=50),
  )

  @property
  def every(self) -> int:
    """Steps between measurements."""
    return self.steps // self.checkpoints
