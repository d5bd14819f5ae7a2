"""The arms and the settings of the study."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from absl import flags

from experiments.lab import options, parsers
from experiments.lab.errors import RefusedError
from experiments.lab.options import option
from experiments.policy import cart_pole


class Arm(NamedTuple):
  """How observations and hidden layers are normalized.

  Attributes:
    title: Name in tables and figures.
    norm: Norm of the hidden layers; batch norm also of the observations.
    standardize: Whether observations are standardized by the mean and variance
      of all that were seen before.
    acts: What batch norm uses while acting: "running" statistics, or those of
      the "batch" of the observations that all environments have at this time.
  """

  title: str
  norm: str = "none"
  standardize: bool = False
  acts: str = "running"


ARMS: Mapping[str, Arm] = {
  "none": Arm("none"),
  "inputs": Arm("standardized inputs", standardize=True),
  "ln": Arm("ln", "ln"),
  "bn": Arm("bn", "bn"),
  "bn_batch": Arm("bn, acting on batches", "bn", acts="batch"),
}


class ScalesParser(flags.ArgumentParser):
  """A positive number for each observation, separated by commas."""

  def parse(self, argument: str) -> tuple[float, ...]:
    parts = [part for part in argument.split(",") if part.strip()]
    scales = tuple(map(parsers.POSITIVE.parse, parts))
    if len(scales) != cart_pole.OBSERVED:
      raise ValueError(
        f"must be {cart_pole.OBSERVED} numbers, for the position, its velocity,"
        " the angle and its velocity, such as 100,100,0.01,0.01."
      )
    return scales


@dataclasses.dataclass(frozen=True)
class Config(options.TuningConfig):
  """The net, and how long it acts and trains."""

  units: tuple[float, ...] = option(
    (100.0, 100.0, 0.01, 0.01),
    "Factors of the observations where they are badly scaled: of the position,"
    " its velocity, the angle and its velocity.",
    ScalesParser(),
  )
  hidden: tuple[int, ...] = option(
    (256, 256), "Width of each hidden layer.", parsers.COUNTS
  )
  environments: int = option(
    32, "Environments that act at once.", flags.IntegerParser(lower_bound=2)
  )
  horizon: int = option(
    32, "Steps of every environment between updates.", parsers.COUNT
  )
  updates: int = option(40, "Updates of the policy.", parsers.COUNT)
  epochs: int = option(4, "Epochs of an update.", parsers.COUNT)
  batch_size: int = option(
    128,
    "Examples in a training step. The remainder of an epoch is dropped.",
    flags.IntegerParser(lower_bound=2),
  )
  longest: int = option(
    500, "Steps after which an episode is cut off.", parsers.COUNT
  )

  def unused(self) -> dict[str, str]:
    return {"data_dir": "here: the environments are computed"}

  @property
  def batches(self) -> int:
    """Batches of an epoch.

    Raises:
      RefusedError: There are none.
    """
    seen = self.environments * self.horizon
    if seen < self.batch_size:
      raise RefusedError(
        f"{self.environments} environments give {seen} observations in"
        f" --horizon={self.horizon} steps, fewer than --batch_size="
        f"{self.batch_size}; use more of them, or a smaller batch."
      )
    return seen // self.batch_size
