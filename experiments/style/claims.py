"""The claims about style, and what judges them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.lab.claims import Below, Check, Claim, Effect, Ratio
from experiments.lab.study import Parts, Run

_TENTH = "a tenth is about what one sees in a plotted curve"
_SEEN = (
  "net, loss and steps, such that pictures with instance norm show both style"
  " and content; single seeds of in and bn were seen before the margin"
)
_LOSS: Mapping[str, Any] = {
  "quantity": "loss on test crops",
  "analysis": Ratio(),
  "form": ".3f",
}
LOWER_BN = Claim(
  "lower_than_bn",
  "after the same steps, each at its best rate, instance norm has less than"
  " {margin} times the loss of batch norm",
  source="Ulyanov et al. 2016; Huang & Belongie 2017, figure 1",
  samples=("in", "bn"),
  criterion=Effect(0.9, none=1),
  why=_TENTH,
  pilot=_SEEN,
  spread=0.052,
  **_LOSS,
)
LOWER_NONE = Claim(
  "lower_than_none",
  "after the same steps, each at its best rate, instance norm has less than"
  " {margin} times the loss of no norm",
  source="ours",
  samples=("in", "none"),
  criterion=Effect(0.9, none=1),
  why=_TENTH,
  pilot=_SEEN,
  spread=0.075,
  **_LOSS,
)
FAINT_BN = Claim(
  "faint_with_bn",
  "painted from a quarter of the contrast, pictures with batch norm have at"
  " least {margin} times the loss",
  source="Ulyanov et al. 2016, section 2, without numbers",
  samples=("bn, a quarter of the contrast", "bn"),
  criterion=Effect(1.1, none=1),
  why=_TENTH,
  pilot="the margin, and the loss instead of the distance to the style, after a"
  " pilot of two seeds",
  spread=0.13,
  **_LOSS,
)
ONE_NET = Claim(
  "one_net",
  "one net with gains and biases of three styles has less than {margin} times"
  " the mean loss of three nets, after as many steps as one of them",
  source="Huang & Belongie 2017, section 4; Dumoulin et al. 2017",
  samples=("one net", "separate nets"),
  criterion=Below(1.2),
  why="less than the difference between norms; it sees a third of the crops of"
  " each style",
  spread=0.016,
  **_LOSS,
)
NORMS = Claim(
  "told_at_the_norms",
  "one net that is told the style by gains and biases has less than {margin}"
  " times the mean loss of one that is told it at the input",
  source="ours: the control",
  samples=("one net", "told at the input"),
  criterion=Effect(0.7, none=1),
  why="beyond all differences between norms; the control paints one picture for"
  " all styles",
  pilot="the margin and the colours of the dots, after a pilot of two seeds in"
  " which the dots were as red and yellow as the flower",
  spread=0.026,
  **_LOSS,
)
CLAIMS = (LOWER_BN, LOWER_NONE, FAINT_BN, ONE_NET, NORMS)
ERASED = Check(
  "input_erased",
  "instance norm erases a style that is told at the input: all styles give the"
  " same picture",
  source="ours",
  quantity="change of the picture from the first to the last style",
  criterion=Below(1e-3),
)
CHANGE = Check(
  "contrast_changes",
  "instance norm removes the contrast of the content: half of it paints the"
  " same picture",
  source="Ulyanov et al. 2016, section 2",
  quantity="largest change of the picture",
  # Epsilon matters in crops of the sky, whose variance is near zero.
  criterion=Below(0.05),
)
FAINT_IN = Check(
  "faint_with_in",
  "so a quarter of the contrast gives pictures of the same loss",
  source="Ulyanov et al. 2016, section 2",
  quantity="largest relative change of the loss",
  criterion=Below(0.01),
)
CHECKS = (ERASED, CHANGE, FAINT_IN)


def judge(found: Mapping[str, Parts], run: Run) -> None:
  """Judges the claims, and makes the checks.

  Args:
    found: Results of the arms and of "separate nets", by name.
    run: Gets the samples.
  """
  loss = {name: part["loss"].mean(axis=1) for name, part in found.items()}
  faint = {name: part["faint"].mean(axis=1) for name, part in found.items()}
  run.judge(LOWER_BN, loss["in"], loss["bn"])
  run.judge(LOWER_NONE, loss["in"], loss["none"])
  run.judge(FAINT_BN, faint["bn"], loss["bn"])
  run.judge(ONE_NET, loss["one net"], loss["separate nets"])
  run.judge(NORMS, loss["one net"], loss["told at the input"])
  run.check(ERASED, found["told at the input"]["apart"].max())
  run.check(CHANGE, found["in"]["change"].max())
  run.check(FAINT_IN, np.abs(faint["in"] / loss["in"] - 1).max())
