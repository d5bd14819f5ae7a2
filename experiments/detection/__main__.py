"""Whether norms help a detector, in small batches too, and when frozen.

python -m experiments.detection
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.detection import drawing
from experiments.detection.config import (
  FINE_TUNED,
  LEARNED,
  RATES,
  SIZES,
  Arm,
  Config,
)
from experiments.detection.training import Trainer
from experiments.lab import study, tuning
from experiments.lab.claims import (
  Below,
  Check,
  Claim,
  Difference,
  Effect,
  Within,
)
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table

_WU = "Wu & He 2018"
_AP: Mapping[str, Any] = {
  "quantity": "average precision at IoU 0.5",
  "analysis": Difference(),
  "form": "+.3f",
}
FASTER = {
  norm: Claim(
    f"faster_{norm}",
    "with batches of 16, after {examples:,} scenes the average precision is at"
    f" least {{margin}} higher with {title} than without a norm",
    source="Ioffe & Szegedy 2015, section 4.2, of classification"
    if norm == "bn"
    else "ours",
    samples=(norm, "none"),
    criterion=Effect(0.1),
    why="five times the standard error of a net's average precision on the test"
    " scenes",
    headline=norm == "bn",
    **_AP,
  )
  for norm, title in (("bn", "batch norm"), ("gn", "group norm"))
}
SMALL = Claim(
  "gn_at_2",
  "with batches of 2, the average precision is at least {margin} higher with"
  " group norm than with batch norm",
  source=f"{_WU}, figure 5, of classification",
  samples=("gn", "bn"),
  criterion=Effect(0.05),
  why="the source loses 6 points of average precision by batches of 2",
  headline=True,
  **_AP,
)
SMALL_AGAIN = Claim(
  "gn_at_2_reestimated",
  "with batches of 2, the average precision is at least {margin} higher with"
  " group norm than with batch norm and re-estimated statistics",
  source="ours",
  samples=("gn", "bn, re-estimated"),
  criterion=Effect(0.05),
  why="the margin of gn_at_2",
  **_AP,
)
LOSES = Claim(
  "bn_loses_more",
  "from batches of 16 to batches of 2, batch norm loses at least {margin} more"
  " average precision than group norm",
  source=f"{_WU}, figure 5, of classification",
  samples=("loss of bn", "loss of gn"),
  criterion=Effect(0.05),
  why="the margin of gn_at_2",
  **_AP,
)
FROZEN_16 = Claim(
  "frozen_alike_at_16",
  "pre-trained, and with batches of 16, the average precision with frozen batch"
  " norms is within {margin} of that with batch norms that train",
  source="the practice of detectors: He et al. 2015, appendix A",
  samples=("frozen", "trained"),
  criterion=Within(0.05),
  why="the margin of gn_at_2",
  headline=True,
  **_AP,
)
FROZEN_2 = Claim(
  "frozen_better_at_2",
  "pre-trained, and with batches of 2, the average precision is at least"
  " {margin} higher with frozen batch norms than with such that train",
  source=f"{_WU}, section 4.2: about 0.06",
  samples=("frozen", "trained"),
  criterion=Effect(0.05),
  why="the source has about 0.06",
  **_AP,
)
CONTROL = Claim(
  "control",
  "with batches of 16, two nets with batch norm that differ only in kernels and"
  " batches have average precisions within {margin}",
  source="ours: the control",
  samples=("bn, again", "bn"),
  criterion=Within(0.05),
  why="the margin of the other claims",
  **_AP,
)
CLAIMS = (
  *FASTER.values(),
  SMALL,
  SMALL_AGAIN,
  LOSES,
  FROZEN_16,
  FROZEN_2,
  CONTROL,
)
KEPT = Check(
  "frozen_norms_are_kept",
  "frozen norms have the same statistics, gains and biases after training, to"
  " the last bit",
  source="the definition",
  quantity="largest change of a number",
  criterion=Below(1e-30),
)

Arms = Mapping[Arm, Parts]


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  config.check()
  pool = run.load_pool(config.dataset, halved=config.halve)
  trainer = Trainer(config, pool)
  first = tuning.tuned(run, "classifier", trainer.pretrain, RATES, config)

  def start(seeds: Sequence[int]) -> Parts:
    if [*seeds] == [*config.seed_numbers]:
      return first
    part = functools.partial(trainer.pretrain, [float(first["rate"])], seeds)
    found = run.part("classifier_of_tuning_seeds", part)
    return {name: values[0] for name, values in found.items()}

  arms: dict[Arm, Parts] = {}
  for size in SIZES:
    for kind in (*LEARNED, *FINE_TUNED):
      arm = kind, size
      part = functools.partial(trainer.train, arm, start)
      arms[arm] = tuning.tuned(run, f"{kind}_{size}", part, RATES, config)
  arm = "bn", 16
  part = functools.partial(
    trainer.train,
    arm,
    start,
    [float(arms[arm]["rate"])],
    config.seed_numbers,
    again=True,
  )
  again = {name: values[0] for name, values in run.part("again", part).items()}
  _show(first, arms)
  judge(arms, again, run)
  drawing.precision(arms, config, pool.name, run)
  images = trainer.images(config.seed_numbers)
  drawing.found(arms, images, pool.name, run)


def _show(first: Parts, arms: Arms) -> None:
  print(f"\nThe classifier errs {shown(first['error'], '.1f')}%")
  rows = [
    [
      f"{size}",
      kind,
      f"{part['rate']:.2g}",
      shown(part["ap"][:, -1], ".3f"),
      shown(part["reestimated"], ".3f"),
    ]
    for (kind, size), part in arms.items()
  ]
  headers = ["batch", "norms", "best rate", "average precision", "re-estimated"]
  print(f"{table(rows, headers)}\n")


def judge(arms: Arms, again: Parts, run: Run) -> None:
  """Judges the claims.

  Args:
    arms: From `train`, `[seeds, ...]`.
    again: Batch norm with batches of 16, other kernels and batches.
    run: Gets the samples.
  """
  last = {arm: part["ap"][:, -1] for arm, part in arms.items()}
  for norm, claim in FASTER.items():
    run.judge(claim, last[norm, 16], last["none", 16])
  run.judge(SMALL, last["gn", 2], last["bn", 2])
  run.judge(SMALL_AGAIN, last["gn", 2], arms["bn", 2]["reestimated"])
  lost = [last[norm, 16] - last[norm, 2] for norm in ("bn", "gn")]
  run.judge(LOSES, *lost)
  run.judge(FROZEN_16, last["frozen", 16], last["trained", 16])
  run.judge(FROZEN_2, last["frozen", 2], last["trained", 2])
  run.judge(CONTROL, again["ap"][:, -1], last["bn", 16])
  run.check(KEPT, max(arms["frozen", size]["change"].max() for size in SIZES))


STUDY = study.Study(
  "detection",
  __doc__,
  measure,
  Config(tuning_seeds=2),
  CLAIMS,
  (KEPT,),
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "train": 64,
    "test": 16,
    "examples": 160,
    "hidden": (8, 8, 8, 16),
  },
  full={"examples": 96_000, "train": 20_000, "halve": False, "canvas": 96},
  confirm={"seed": 100, "seeds": 10},
)

if __name__ == "__main__":
  study.main(STUDY)
