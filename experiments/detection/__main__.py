"""Norms in a detector: with small batches, and frozen after pre-training.

    python -m experiments.detection

Scenes are black canvases of 40x40 pixels with one to three digits. The longer
side of a digit has 10 to 20 pixels; of twelve random layouts the one with the
least overlap is taken. The detector has the stem of ResNet (a 7x7 convolution
with stride 2, norm, ReLU and 3x3 max pooling with stride 2) and three 3x3
convolutions, each with a norm and ReLU. Its output is a grid of 5x5 cells. Each
says whether the middle of a digit is in it, where the box of the digit is, and
its class.

It is trained from scratch without a norm, with bn and with gn, for 600 steps
with batches of 16, and for 2,400 steps with batches of 2, which takes about as
long. So arms are compared only with others of the same batch size. In a batch
of 2, a channel has 800 values in the stem and 50 in the last layer. There are
2,048 scenes to train on. Adam; the learning rate rises for a twentieth of the
steps and then falls to a tenth, along a cosine.

Two more arms start from a backbone with batch norm that was trained for 600
steps to classify scenes of one digit of 24x24 pixels. In one, its batch norms
go on training ("trained"). In the other, their statistics, gains and biases are
frozen. Both train for half as many steps. About four minutes on two cores.

What is measured is the average precision at IoU 0.5, the mean over the ten
classes, on 256 test scenes of other digits. A detection is right if its class
is right and its box has an intersection over the union of at least 0.5 with a
digit that no detection of higher score has taken. The average precision is the
area below the curve of precision over recall, interpolated at all points. It is
the usual criterion for detectors: it counts what was missed, what was invented
and what was found twice, and needs no threshold for the score. Boxes that
overlap a better one by 0.5 are removed first. Batch norm is tested with running
statistics, and with statistics re-estimated on 1,024 scenes.

A seed determines which digits are for training, validation and test, the
scenes, the initial weights and the order of the scenes. For each arm, the
learning rate is the one of five or more from 0.001 to 0.1 with the highest
average precision on validation scenes of other seeds.

Sources: Wu & He, 2018, https://arxiv.org/abs/1803.08494: a ResNet-50 on
ImageNet with batches of 2 has an error that is 10.6 points lower with group
norm than with batch norm (abstract; figure 1). Section 4.2: in Mask R-CNN,
batch norms are frozen, because training them with batches of 2 costs about 6
points of average precision. He et al., 2015, https://arxiv.org/abs/1512.03385,
appendix A: detectors with frozen batch norms, to save memory. Ioffe & Szegedy,
2015, https://arxiv.org/abs/1502.03167: batch norm makes training faster.
"""

import functools
from collections.abc import Mapping, Sequence

from experiments.detection import drawing
from experiments.detection.claims import (
  CLAIMS,
  CONTROL,
  FASTER,
  FROZEN_2,
  FROZEN_16,
  KEPT,
  SMALL,
  SMALL_AGAIN,
)
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
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table

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
    name, rate = "classifier_of_tuning_seeds", float(first["rate"])
    return tuning.at_rate(run, name, trainer.pretrain, rate, seeds)

  arms: dict[Arm, Parts] = {}
  for size in SIZES:
    for kind in (*LEARNED, *FINE_TUNED):
      arm = kind, size
      part = functools.partial(trainer.train, arm, start)
      arms[arm] = tuning.tuned(run, f"{kind}_{size}", part, RATES, config)
  arm = "bn", 16
  part = functools.partial(trainer.train, arm, start, again=True)
  rate = float(arms[arm]["rate"])
  again = tuning.at_rate(run, "again", part, rate, config.seed_numbers)
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
    "steps": 10,
    "hidden": (8, 8, 8),
  },
  full={
    "steps": 6_000,
    "train": 20_000,
    "test": 1_000,
    "halve": False,
    "canvas": 80,
    "hidden": (64, 64, 128, 256),
  },
  confirm={"seed": 100, "seeds": 20},
  sensitivity={
    "rate_factor": (10**-0.5, 10**0.5),
    "gain": (0.5, 2.0),
    "steps": (300, 1_200),
    "hidden": ((8, 8, 16, 32), (32, 32, 64, 128)),
  },
)

if __name__ == "__main__":
  study.main(STUDY)
