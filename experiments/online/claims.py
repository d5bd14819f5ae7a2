"""What the study claims, and how the claims are judged."""

import functools
from collections.abc import Mapping
from typing import Any

from experiments.lab.claims import (
  Above,
  Below,
  Check,
  Claim,
  Difference,
  Effect,
  Within,
)
from experiments.lab.study import Parts, Run
from experiments.online import errors, task
from experiments.online.training import AFTER, MANY

Arm = tuple[str, str]  # Net, norm.
NONE_AGAIN = "none, again"

_PILOT = (
  "the lights, the length of a segment and the margin, from seeds 0 to 4 on the"
  " digits"
)
_WHOLE: Mapping[str, Any] = {
  "quantity": "error over the stream",
  "analysis": Difference(),
  "unit": "points",
  "form": "+.2f",
  "pilot": _PILOT,
}
_JUMPS: Mapping[str, Any] = {
  **_WHOLE,
  "quantity": f"error of the {AFTER} examples after a jump of the light",
}
_CONTRAST: Mapping[str, Any] = {
  **_WHOLE,
  "quantity": f"error of the {AFTER} examples after the jump minus that of the"
  f" {AFTER} before it",
}
IN_AT_ONE = Claim(
  "in_at_one",
  "with maps, instance norm errs at a batch of one at least {margin} points"
  f" less than batch norm with batches of {MANY} of the same stream",
  source="ours",
  samples=("in", "bn20"),
  criterion=Effect(-2),
  why="a fifth of the ten points or so that batch norm errs",
  spread=0.54,
  **_WHOLE,
)
LN_AT_ONE = Claim(
  "ln_at_one",
  "with vectors, layer norm errs at a batch of one less than {margin} points"
  f" more than batch norm with batches of {MANY} of the same stream",
  source="ours; that layer norm serves a batch of one is Ba et al. 2016,"
  " section 3",
  samples=("ln", "bn20"),
  criterion=Below(2),
  why="the margin of in_at_one",
  spread=0.64,
  **_WHOLE,
)
IN_ADAPTS = Claim(
  "in_adapts",
  f"with maps, in the {AFTER} examples after a jump of the light, instance norm"
  " errs at least {margin} points less than no norm",
  source="ours",
  samples=("in", "none"),
  criterion=Effect(-10),
  why="half of the twenty points or so that a net without a norm errs there",
  spread=2.2,
  **_JUMPS,
)
LN_CONTRAST = Claim(
  "ln_contrast",
  "with vectors, a jump of the contrast alone costs layer norm at least"
  " {margin} points less than no norm",
  source="Ba et al. 2016, table 1: no change if an example is rescaled",
  samples=("ln", "none"),
  criterion=Effect(-2),
  why="the margin of in_at_one",
  spread=2.1,
  **_CONTRAST,
)
BN_OF_ONE = Claim(
  "bn_of_one",
  f"with maps, in the {AFTER} examples after a jump of the light, batch norm"
  " with a batch of one errs at least {margin} points more than instance norm,"
  " which is the same in training",
  source="ours",
  samples=("bn", "in"),
  criterion=Effect(5),
  why="half of the margin of in_adapts",
  spread=2.9,
  **_JUMPS,
)
RENORM = Claim(
  "renorm_below_ln",
  "with maps and a batch of one, batch renorm errs at least {margin} points"
  " less than layer norm",
  source="ours; Ioffe 2017 has no smaller batches than 4",
  samples=("brn", "ln"),
  criterion=Effect(-2),
  why="the margin of in_at_one",
  spread=0.67,
  **_WHOLE,
)
ACCUMULATED = Claim(
  "accumulated_as_ln",
  "with vectors and a batch of one, accumulated statistics err within {margin}"
  " points of layer norm",
  source="ours; Liao et al. 2016 and Chiley et al. 2019 have them beside batch"
  " norm",
  samples=("acc", "ln"),
  criterion=Within(2),
  why="the margin of in_at_one",
  spread=0.56,
  **_WHOLE,
)
CONTROL = Claim(
  "control",
  "with vectors, two nets without a norm, which differ in their initial"
  " kernels, err within {margin} points of each other",
  source="ours: the control",
  uncounted="a control",
  samples=(NONE_AGAIN, "none"),
  criterion=Within(2),
  why="the margin of the claims about the whole stream",
  spread=0.9,
  **_WHOLE,
)
CLAIMS = (IN_AT_ONE, LN_AT_ONE, IN_ADAPTS, LN_CONTRAST, BN_OF_ONE, RENORM,
          ACCUMULATED, CONTROL)  # fmt: skip
REFUSED = Check(
  "vectors_are_refused",
  "batch norm, batch renorm and instance norm refuse to train on one vector",
  source="one value per channel has no variance",
  quantity="number of the three that do",
  criterion=Above(2.5),
)
SAME = Check(
  "one_image_is_instance_norm",
  "in training, batch norm of one image is instance norm",
  source="the definitions",
  quantity="largest difference of outputs",
  criterion=Below(1e-5),
)


def judge(found: Mapping[Arm, Parts], run: Run) -> None:
  """Judges the claims.

  Args:
    found: Results by net and norm; "wrong" is `[seeds, parts]`.
    run: Gets the samples.
  """

  jumps = functools.partial(errors.after, kind="light")
  contrast = functools.partial(errors.cost, number=task.CONTRAST)
  for claim, net, measured in (
    (IN_AT_ONE, "maps", errors.whole),
    (LN_AT_ONE, "vectors", errors.whole),
    (IN_ADAPTS, "maps", jumps),
    (LN_CONTRAST, "vectors", contrast),
    (BN_OF_ONE, "maps", jumps),
    (RENORM, "maps", errors.whole),
    (ACCUMULATED, "vectors", errors.whole),
    (CONTROL, "vectors", errors.whole),
  ):
    run.judge(claim, *(measured(found[net, name]) for name in claim.samples))
