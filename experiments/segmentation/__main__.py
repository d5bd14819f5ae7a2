"""Segmentation with a small U-Net, trained on crops with batches of 2 and 16.

    python -m experiments.segmentation
    python -m experiments.segmentation --dataset=digits

The task is to name the class of every pixel. Scenes of 48x48 pixels are
generated, so that their masks are exact: disks and bars with textures lie on a
background with stripes; there is noise, and every scene has a gain and an
offset of its own, like photographs in different light. With --dataset=digits or
mnist they show handwritten zeros and ones among halves of all digits, for which
three times as many crops are taken, and three times as many steps. The U-Net
has 8, 16 and 32 channels and a norm after each 3x3 convolution. It is trained
on random crops of 24x24 pixels, each of a new scene, with Adam. Both batch
sizes get the same 1,920 crops, and so the same epochs, as is usual where batch
sizes are compared: 960 steps of 2 crops, and 120 of 16. About three minutes on
two cores.

It is measured by the mean intersection over union (IoU) of all classes, from a
confusion matrix of all pixels of 64 test scenes. Accuracy would say little:
four pixels of five are background. Each net is tested on these scenes cut into
crops of the size that it was trained on, and on the whole scenes. Instance and
group norm then take their statistics from four times the area. How many pixels
in the middle third of a crop get another class in the whole scene is counted
too; there the border of the crop matters least.

The norms are none, batch (bn), group (gn, four groups), layer (ln, over the
channels of each pixel) and instance norm (in). Batch norm is tested with its
running statistics (momentum 0.9); with statistics that are re-estimated on 256
crops, in batches of the size of the training; and, on crops, with those of each
test batch of that size, as in training.

A seed determines the scenes for training, validation and test, and the initial
weights. Seeds are paired: all arms share them. Every arm has its own learning
rate: the one of five or more half decades from 0.0003 to 0.03 with the highest
mean IoU on crops for the validation, of other seeds; batch norm with its
running statistics. (The validation loss would choose rates at which batch norm
has a lower mean IoU.)

The statistics of a small batch vary because scenes differ. As a control, batch
and group norm are trained with batches of 2 on scenes without gain and offset,
at the same rates.

Sources: Wu & He, 2018, https://arxiv.org/abs/1803.08494. Section 4.2, Mask
R-CNN on COCO, where few images fit on a device: ResNet-50 with group norm has a
mask AP of 35.7, with frozen batch norm 34.5; batch norm that is not frozen
loses about 6 points with batches of 2, and is left out. Table 2, ResNet-50 on
ImageNet: with batches of 2, the error of group norm is 10.6 points lower than
that of batch norm, and with batches of 16 it is 0.5 points higher. Wu &
Johnson, 2021, https://arxiv.org/abs/2105.07576, section 3: statistics of a
population instead of running ones. Ronneberger et al., 2015,
https://arxiv.org/abs/1505.04597: the U-Net. That tiles of an image do not fit
together because of the norms is said in https://arxiv.org/abs/2503.19545.
"""

from collections.abc import Mapping
from typing import Any

from experiments.lab import study
from experiments.lab.claims import Claim, Difference, Effect, Within
from experiments.lab.study import Parts, Run
from experiments.segmentation import drawing, report
from experiments.segmentation.options import BATCHES, Arm, Config
from experiments.segmentation.training import drawn, load_tasks, train_all

_WU = "Wu & He 2018"
_POINTS: Mapping[str, Any] = {
  "analysis": Difference(),
  "unit": "points",
  "form": "+.2f",
}
_CROPS: Mapping[str, Any] = {"quantity": "mean IoU on crops", **_POINTS}
_PILOT = "from seeds 0 and 1 at two rates, on shapes"
_RATES = "that the highest mean IoU chooses the rates, which favours batch norm"
GROUP = Claim(
  "gn_beats_bn_at_2",
  "with batches of 2, group norm has a mean IoU at least {margin} points above"
  " that of batch norm",
  source=f"{_WU}, section 4.2, of Mask R-CNN",
  samples=("gn", "bn"),
  criterion=Effect(5),
  why="about the 6 points of AP that the source says batch norm loses",
  pilot=_RATES,
  spread=5.5,
  **_CROPS,
)
GROWS = Claim(
  "lead_grows",
  "the lead of group norm over batch norm is at least {margin} points larger"
  " with batches of 2 than with batches of 16",
  source=f"{_WU}, table 2, of ImageNet",
  quantity="mean IoU on crops of gn minus bn",
  samples=("batches of 2", "batches of 16"),
  criterion=Effect(5),
  why="the margin of gn_beats_bn_at_2",
  pilot=_RATES,
  spread=7.0,
  **_POINTS,
)
GAP = Claim(
  "bn_gap_at_2",
  "with batches of 2, batch norm has a mean IoU at least {margin} points lower"
  " with running statistics than with those of each batch, as in training",
  source="ours",
  samples=("running", "each batch"),
  criterion=Effect(-5),
  why="the margin of gn_beats_bn_at_2: as large as what is lost to group norm",
  pilot=_RATES,
  spread=6.5,
  **_CROPS,
)
AGAIN = Claim(
  "bn_reestimated_at_2",
  "with batches of 2, batch norm has a mean IoU at least {margin} points higher"
  " with re-estimated statistics than with running ones",
  source="Wu & Johnson 2021, section 3, of larger batches",
  samples=("re-estimated", "running"),
  criterion=Effect(2),
  why="two fifths of the margin of bn_gap_at_2",
  pilot=f"that it is a gain, {_PILOT}",
  spread=3.4,
  **_CROPS,
)
WHOLE = {
  norm: Claim(
    f"whole_scenes_{norm}",
    f"trained on crops with batches of 2, {title} norm has a mean IoU at least"
    " {margin} point higher on whole scenes than on the same scenes in crops",
    source="ours",
    quantity=f"mean IoU of {norm}",
    samples=("whole scenes", "crops"),
    criterion=Effect(1),
    why="the least that tables of segmentation results tell apart",
    pilot=f"that it is a gain and not a loss, {_PILOT}",
    spread=1.8,
    **_POINTS,
  )
  for norm, title in (("gn", "group"), ("in", "instance"))
}
CHANGED = Claim(
  "changed_by_area",
  "trained with batches of 2, group norm gives at least {margin} points more of"
  " the pixels in the middle of a crop another class in the whole scene than"
  " batch norm",
  source="ours; arXiv:2503.19545 says that norms cause it",
  quantity="pixels with another class",
  samples=("gn", "bn"),
  criterion=Effect(0.5),
  why="as many as change with batch norm, whose statistics are fixed: it"
  " doubles them",
  pilot=f"the size, {_PILOT}",
  spread=0.38,
  **_POINTS,
)
SAME_LIGHT = Claim(
  "same_light",
  "if all scenes have the same light, group norm has a mean IoU with batches of"
  " 2 within {margin} points of that of batch norm",
  source="ours: the control",
  quantity="mean IoU on crops, same light",
  samples=("gn", "bn"),
  criterion=Within(5),
  why="the margin of gn_beats_bn_at_2",
  pilot="the claim, from seeds 0 to 2 at a rate of 0.003, on shapes",
  spread=1.5,
  **_POINTS,
)
CLAIMS = (GROUP, GROWS, GAP, AGAIN, *WHOLE.values(), CHANGED, SAME_LIGHT)


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  config.check()
  tasks = load_tasks(config, run)
  arms, controls = train_all(tasks, config, run)
  report.show(arms, controls)
  judge(arms, controls, run)
  task = tasks[0]
  title = f"U-Net of {', '.join(map(str, config.hidden))} channels, {task.name}"
  test = drawn(task, config, config.seed).test
  drawing.overlays(arms, test, task.classes, title, run)
  drawing.bars(arms, config, title, run)


def judge(
  arms: Mapping[Arm, Parts], controls: Mapping[str, Parts], run: Run
) -> None:
  """Judges the claims.

  Args:
    arms: Results `[seeds]` by arm.
    controls: Results in the same light, with batches of 2, by norm.
    run: Gets the samples.
  """
  small = BATCHES[0]
  bn, gn = arms["bn", small], arms["gn", small]
  leads = [
    arms["gn", size]["crops"] - arms["bn", size]["crops"] for size in BATCHES
  ]
  run.judge(GROUP, gn["crops"], bn["crops"])
  run.judge(GROWS, *leads)
  run.judge(GAP, bn["crops"], bn["crops, batch"])
  run.judge(AGAIN, bn["crops, re-estimated"], bn["crops"])
  for norm, claim in WHOLE.items():
    part = arms[norm, small]
    run.judge(claim, part["whole"], part["crops"])
  run.judge(CHANGED, gn["changed"], bn["changed"])
  run.judge(SAME_LIGHT, controls["gn"]["crops"], controls["bn"]["crops"])


STUDY = study.Study(
  "segmentation",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "examples": 32,
    "hidden": (4, 4),
    "test": 4,
  },
  full={
    "hidden": (64, 128, 256, 512),
    "convolutions": 2,
    "examples": 8_000,
    "epochs": 12,
    "side": 96,
    "crop": 48,
    "halve": False,
  },
  confirm={"seed": 100, "seeds": 10},
)

if __name__ == "__main__":
  study.main(STUDY)
