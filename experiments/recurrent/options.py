"""The settings of both studies, which are their flags."""

import dataclasses

from absl import flags

from experiments.lab import options, parsers
from experiments.lab.options import option
from experiments.recurrent import nets
from experiments.recurrent.task import Lengths

STUDIES = ("rows", "adding")
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0)  # Lengths of the test, over the longest.

QUICK = {
  "seeds": 2,
  "tuning_seeds": 1,
  "all_cells": False,
  "units": 8,
  "steps": 60,
  "sums": 60,
}
FULL = {
  "units": 100,
  "pixels": 1,
  "halve": False,
  "steps": 80_000,
  "sums": 5_000,
  "length": 100,
}
CONFIRM = {"seed": 120, "seeds": 20}


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The nets and the tasks."""

  study: str = option("rows", "The study, see above.", parsers.one_of(STUDIES))
  cell: str = option(
    "lstm", "The cell of the claims.", parsers.one_of([*nets.CELLS])
  )
  all_cells: bool = option(
    True, "Whether to show the rows with the two other cells.", parsers.BOOLEAN
  )
  units: int = option(32, "Units of a cell.", parsers.COUNT)
  steps: int = option(400, "Training steps on rows.", parsers.COUNT)
  pixels: int = option(
    0, "Pixels that a step sees; 0 means a row.", parsers.COUNT_OR_ZERO
  )
  sums: int = option(
    600, "Training steps on the adding problem.", parsers.COUNT
  )
  length: int = option(
    16,
    "Length of the longest sequence in training, on the adding problem; the"
    " shortest has half of it.",
    flags.IntegerParser(lower_bound=4),
  )

  def unused(self) -> dict[str, str]:
    if self.study == "rows":
      more = dict.fromkeys(("sums", "length"), "without --study=adding")
    else:
      names = ("dataset", "halve", "data_dir", "all_cells", "steps", "pixels")
      more = dict.fromkeys(names, "with --study=adding")
    return super().unused() | more

  @property
  def lengths(self) -> Lengths:
    """Lengths of the sequences of the adding problem in training."""
    return Lengths(self.length // 2, self.length)

  @property
  def tested(self) -> list[int]:
    """Lengths of the sequences in the test."""
    return [round(factor * self.length) for factor in FACTORS]
