"""What the study of activations claims, and the identities that it checks."""

from collections.abc import Mapping
from typing import Any

from experiments.lab.claims import (
  Below,
  Check,
  Claim,
  Difference,
  Effect,
  Ratio,
)

_IOFFE = "Ioffe & Szegedy 2015"
_TEXTBOOKS = "textbooks and tutorials, without numbers"
_ERROR: Mapping[str, Any] = {
  "quantity": "test error",
  "analysis": Difference(),
  "unit": "points",
  "form": "+.2f",
}
SCALE = {
  activation: Claim(
    f"scale_{activation}",
    f"a {activation} net without a norm errs at least {{margin}} point more if"
    " its inputs are 255 times as large, each at its best rate",
    source=_TEXTBOOKS,
    samples=("inputs times 255", "times 1"),
    criterion=Effect(1),
    why="about a fifth of what these nets err",
    spread=spread,
    **_ERROR,
  )
  for activation, spread in (
    ("sigmoid", 6.2),
    ("tanh", 1.1),
    ("relu", 1.2),
  )
}
DEAD = Claim(
  "dead_units",
  "a ReLU net without a norm whose inputs are 255 times as large has at least"
  " {margin} points more dead units after training than one with batch norm",
  source=_TEXTBOOKS,
  quantity="dead units of all hidden layers",
  samples=("none", "bn"),
  analysis=Difference(),
  criterion=Effect(5),
  why="fewer dead units than one in twenty would hardly be noticed",
  unit="points",
  form="+.1f",
  spread=2.5,
)
SATURATED = Claim(
  "saturated_units",
  "a tanh net without a norm whose inputs are 255 times as large has at least"
  " {margin} points more saturated units in its first layer after training than"
  " one with batch norm",
  source=f"{_IOFFE}, section 1, without numbers",
  quantity="saturated units of the first layer",
  samples=("none", "bn"),
  analysis=Difference(),
  criterion=Effect(50),
  why="half of the layer hardly learns",
  unit="points",
  form="+.1f",
  pilot="added after a first pilot",
  spread=0.3,
)
GRADIENT = Claim(
  "larger_gradient",
  "before training, the gradient of the first kernel of a sigmoid net is at"
  " least {margin} times as large with batch norm as without a norm",
  source=_TEXTBOOKS,
  quantity="length of the gradient",
  samples=("bn", "none"),
  analysis=Ratio(),
  criterion=Effect(10, none=1),
  why="ten times the learning rate does not make up for it",
  form=".3g",
  pilot="added after a first pilot",
  spread=0.1,
)
BEYOND = Claim(
  "beyond_two",
  "with gain and bias, at least {margin} times as many inputs of the sigmoids"
  " are beyond -2 and 2 as with batch norm without them",
  source=f"{_IOFFE}, section 3, without numbers",
  quantity="share of inputs beyond -2 and 2",
  samples=("with gain and bias", "without"),
  analysis=Ratio(),
  criterion=Effect(1.5, none=1),
  why="half as many more would be seen in a histogram",
  spread=0.062,
)
AFFINE = Claim(
  "gain_and_bias_help",
  "a sigmoid net with batch norm errs at least {margin} points less with gain"
  " and bias than without, both with re-estimated statistics",
  source=f"{_IOFFE}, section 3, without numbers",
  samples=("with gain and bias", "without"),
  criterion=Effect(-0.5),
  why="about a tenth of what these nets err",
  spread=0.61,
  **_ERROR,
)
DRIFT = Claim(
  "drift_ln",
  "if the first layers change, the inputs of the last activations move less"
  " than {margin} times as far with layer norm as without a norm",
  source=_TEXTBOOKS,
  quantity="distance, in standard deviations",
  samples=("ln", "none"),
  analysis=Ratio(),
  criterion=Effect(0.5, none=1),
  why="layer norm undoes a change of scale of all units together; half is"
  " what one would call a protection",
  spread=0.21,
)
STALE = Claim(
  "stale_statistics",
  "after that change, a net with batch norm errs at least {margin} points more"
  " with its old running statistics than with re-estimated ones",
  source="ours",
  samples=("running", "re-estimated"),
  criterion=Effect(5),
  why="about what such a net errs before the change",
  spread=6.7,
  **_ERROR,
)
CLAIMS = (
  *SCALE.values(),
  *(SATURATED, DEAD, GRADIENT, BEYOND, AFFINE, DRIFT, STALE),
)

UNMOVED = Check(
  "unmoved_by_rescaling",
  "with batch norm, the change of the first layers moves nothing behind them",
  "an identity, epsilon aside",
  "distance, in standard deviations",
  Below(0.02),
)
UNSCALED = {
  norm: Check(
    f"gradient_{norm}",
    f"with {norm}, the gradient of the first kernel is the same if the inputs"
    " are 255 times as large",
    "an identity, epsilon aside",
    "largest deviation of the ratio of two gradients from 1",
    Below(0.02),
  )
  for norm in ("bn", "ln")
}
CHECKS = (UNMOVED, *UNSCALED.values())
