"""The claims, the checks, and what judges them."""

from collections.abc import Mapping
from typing import Any

from experiments.lab.claims import (
  Below,
  Check,
  Claim,
  Difference,
  Effect,
  Ratio,
  Within,
)
from experiments.lab.study import Parts, Run
from experiments.recurrent.options import FACTORS

_TWICE = FACTORS.index(2.0)
_PILOT = "the sizes, numbers of steps and epsilon, from seeds 0 and 1"
_BA = "Ba et al. 2016, sections 6.1 to 6.5, of other tasks"
_COOIJMANS = "Cooijmans et al. 2016, section 3"
_FASTER: Mapping[str, Any] = {
  "quantity": "mean loss of all training steps",
  "samples": ("ln", "none"),
  "analysis": Ratio(),
  "criterion": Effect(0.9, none=1),
  "why": "a tenth is about what one sees in a plotted curve",
  "form": ".3f",
  "pilot": _PILOT + "; that rates are chosen by the loss in training: by that"
  " of validation, ln had 0.74 times the loss on the digits and 1.21 times on"
  " MNIST, where the rates differed (seeds 0 to 4)",
}
FASTER_ROWS = Claim(
  "ln_faster_rows",
  "on rows, each at the rate that trains it fastest, the {cell} with ln has a"
  " mean training loss below {margin} times that without a norm",
  source=_BA,
  spread=0.05,
  **_FASTER,
)
FASTER_EQUAL = Claim(
  "ln_faster_equal_rate",
  "on rows, both at Adam's default rate of 0.001, the {cell} with ln has a mean"
  " training loss below {margin} times that without a norm",
  source=_BA,
  spread=0.03,
  **{**_FASTER, "pilot": _PILOT + "; that equal rates are judged too"},
)
FASTER_ADDING = Claim(
  "ln_faster_adding",
  "on the adding problem, each at the rate that trains it fastest, the {cell}"
  " with ln has a mean training loss below {margin} times that without a norm",
  source=_BA,
  spread=0.2,
  **_FASTER,
)
CONTROL = Claim(
  "control",
  "on rows, two {cell} nets without a norm, with other kernels and batches,"
  " have mean training losses within a factor of 1 ± {margin}",
  source="ours: the control",
  uncounted="a control",
  samples=("none, again", "none"),
  criterion=Within(0.1, of=1),
  why="the margin of the claims about speed",
  spread=0.05,
  **{name: _FASTER[name] for name in ("quantity", "analysis", "form")},
)
PER_STEP = Claim(
  "own_statistics",
  "on rows, the {cell} with batch norm errs at least {margin} point less with"
  " statistics of each step than with one statistic for all",
  source=_COOIJMANS,
  quantity="test error, re-estimated statistics",
  samples=("step", "one"),
  analysis=Difference(),
  criterion=Effect(-1.0),
  why="about a third of the errors of the better arm",
  unit="points",
  form="+.2f",
  pilot=_PILOT,
  spread=1.7,
)
_LONGER: Mapping[str, Any] = {
  "analysis": Ratio(),
  "why": "errors that are half larger are seen by any user",
  "pilot": _PILOT + ", which also suggested the margin",
}
DEGRADES = Claim(
  "longer_step",
  "on the adding problem, with batch norm for each step and its last statistics"
  " for later ones, the {cell} errs at least {margin} times as much at twice"
  " the longest length of training as at that length",
  source="Ba et al. 2016, section 3.1, without an experiment",
  quantity="root mean square error",
  samples=("twice as long", "longest"),
  criterion=Effect(1.5, none=1),
  spread=0.47,
  **_LONGER,
)
NEEDS_LAST = Claim(
  "longer_needs_last",
  "on the adding problem, at twice the longest length of training, batch norm"
  " for each step errs at least {margin} times as much with initial statistics"
  " after the last trained step as with its last statistics",
  source="ours; Cooijmans et al. 2016, section 3, use the last statistics",
  quantity="root mean square error",
  samples=("initial", "last"),
  criterion=Effect(1.5, none=1),
  spread=0.46,
  **_LONGER,
)
LN_KEEPS = Claim(
  "longer_ln",
  "on the adding problem, the {cell} with ln errs less than {margin} times as"
  " much at twice the longest length of training as at that length",
  source="Ba et al. 2016, section 3.1, without an experiment",
  quantity="root mean square error",
  samples=("twice as long", "longest"),
  criterion=Below(1.5),
  spread=0.73,
  **_LONGER,
)
ON_ROWS = (FASTER_ROWS, FASTER_EQUAL, CONTROL, PER_STEP)
ON_SUMS = (FASTER_ADDING, DEGRADES, NEEDS_LAST, LN_KEEPS)

ALONE = Check(
  "ln_alone",
  "with ln, the answer to a sequence is the same alone and in a batch",
  source="Ba et al. 2016, section 3",
  quantity="largest difference, over the largest answer",
  criterion=Below(1e-5),
)
PADDING = Check(
  "padding",
  "what the padding holds changes neither answers nor statistics of batch norm",
  source="ours: the masks",
  quantity="largest difference",
  criterion=Below(1e-6),
)
CHECKS = (ALONE, PADDING)


def judge_rows(
  best: Mapping[str, Parts], fast: Mapping[str, Parts], run: Run
) -> None:
  """Judges the claims on rows.

  Args:
    best: The arms of the cell of the claims at their best rates, by norm.
    fast: At the rates that train fastest, and the three others.
    run: Gets the samples.
  """
  mean = {name: part["mean"] for name, part in fast.items()}
  run.judge(FASTER_ROWS, mean["ln"], mean["none"])
  run.judge(FASTER_EQUAL, mean["ln, equal rate"], mean["none, equal rate"])
  run.judge(CONTROL, mean["none, again"], mean["none"])
  run.judge(PER_STEP, *(best[n]["reestimated"] for n in ("step", "one")))


def judge_sums(
  best: Mapping[str, Parts], fast: Mapping[str, Parts], run: Run
) -> None:
  """Judges the claims on the adding problem; arguments as in `judge_rows`."""
  run.judge(FASTER_ADDING, fast["ln"]["mean"], fast["none"]["mean"])
  step, ln = (best[norm]["reestimated"] for norm in ("step", "ln"))
  run.judge(DEGRADES, step[:, _TWICE], step[:, 0])
  run.judge(NEEDS_LAST, best["step"]["initial"][:, _TWICE], step[:, _TWICE])
  run.judge(LN_KEEPS, ln[:, _TWICE], ln[:, 0])
