"""The claims about style, and what judges them."""

from collections.abc import Mapping
from typing import Any

from experiments.lab.claims import Below, Check, Claim, Effect, Ratio, Within
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
CHANGE = Claim(
  "contrast_changes",
  "with half the contrast of the content, the picture with instance norm"
  " changes less than {margin} times as much as with batch norm",
  source="Ulyanov et al. 2016, section 2",
  quantity="change of the picture at half the contrast",
  samples=("in", "bn"),
  analysis=Ratio(),
  criterion=Effect(0.1, none=1),
  why="without epsilon the change would be zero; a tenth leaves room for crops"
  " of the sky, whose variance is near it",
  spread=0.56,
  form=".2g",
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
FAINT_IN = Claim(
  "faint_with_in",
  "painted from a quarter of the contrast, pictures with instance norm have the"
  " same loss up to a factor of 1 ± {margin}",
  source="Ulyanov et al. 2016, section 2",
  samples=("in, a quarter of the contrast", "in"),
  criterion=Within(0.05, of=1),
  why="half of what is claimed of batch norm",
  spread=0.0003,
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
CLAIMS = (LOWER_BN, LOWER_NONE, CHANGE, FAINT_BN, FAINT_IN, ONE_NET, NORMS)
ERASED = Check(
  "input_erased",
  "instance norm erases a style that is told at the input: all styles give the"
  " same picture",
  source="ours",
  quantity="change of the picture from the first to the last style",
  criterion=Below(1e-3),
)


def judge(found: Mapping[str, Parts], run: Run) -> None:
  """Judges the claims, and makes the check.

  Args:
    found: Results of the arms and of "separate nets", by name.
    run: Gets the samples.
  """
  loss = {name: part["loss"].mean(axis=1) for name, part in found.items()}
  faint = {name: part["faint"].mean(axis=1) for name, part in found.items()}
  run.judge(LOWER_BN, loss["in"], loss["bn"])
  run.judge(LOWER_NONE, loss["in"], loss["none"])
  run.judge(CHANGE, found["in"]["change"], found["bn"]["change"])
  run.judge(FAINT_BN, faint["bn"], loss["bn"])
  run.judge(FAINT_IN, faint["in"], loss["in"])
  run.judge(ONE_NET, loss["one net"], loss["separate nets"])
  run.judge(NORMS, loss["one net"], loss["told at the input"])
  run.check(ERASED, found["told at the input"]["apart"].max())
