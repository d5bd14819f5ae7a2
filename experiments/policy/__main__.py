"""Norms in a policy that learns to balance a pole.

    python -m experiments.policy

The cart-pole of Barto, Sutton & Anderson (1983), as in Gym's CartPole-v1: a
cart is pushed left or right every 0.02 seconds, and a step gives a reward of
one until the pole or the cart has gone too far, at most 500. The return, the
number of steps, is what is judged: 500 is perfect, random actions last about
20. A net with two hidden layers of 256 and tanh has one head for the policy
and one for the value. PPO with generalized advantages trains it: 32
environments take 32 steps, then come 4 epochs of batches of 128, 40 times
(40,960 steps), with Adam whose rate falls linearly to zero. Three minutes or so
on two cores.

Each arm learns twice: from natural observations, and from the same ones
multiplied by 100, 100, 0.01 and 0.01, as if position and angle had other units.

- none: no norm.
- standardized inputs: observations minus the mean and over the standard
  deviation of all that were seen so far. These change only after an update, so
  acting and updating share them. Hidden layers have no norm.
- ln: in both hidden layers, before tanh.
- bn: in both hidden layers and on the observations, as Lillicrap et al. did. It
  acts on one observation at a time, with running statistics, and updates with
  those of the batch.
- bn, acting on batches: the same, but it acts with the statistics of the
  observations that its 32 environments have at this time.

An update raises the probability of good actions relative to the policy that
acted. If the policy that updates is another one, at the same parameters, this
is wrong from the start. So KL(acting || updating) is measured at the start of
every update. PPO's source has 0.003 to 0.03 as targets of what a whole update
may change.

Observations count as harmless in a norm's hands if the return on the badly
scaled ones is not more than 50 below that of no norm on the natural ones. A
comparison with the same norm on natural ones would be passed by a norm that
fails on both. A table also has the returns of bn with re-estimated statistics
(on the last 1,024 observations) and with those of all environments.

A seed determines the initial weights, and all chances of environments and
actions. The learning rate of every arm is chosen from five or more half decades
by the return, with other seeds. After training, each of 32 environments runs
one new episode, with actions drawn from the policy.

Sources: Schulman et al., 2017, https://arxiv.org/abs/1707.06347, for PPO.
Lillicrap et al., 2015, https://arxiv.org/abs/1509.02971, section 3: batch norm
lets one net learn tasks whose observations have different units, without scaling
them by hand. The answer of an author of CoinRun to
https://github.com/openai/coinrun/issues/41: acting and updating should
normalize by similar statistics, since other ones can make training unstable;
so that code always uses those of the batch.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.lab import study, tuning
from experiments.lab.claims import (
  Above,
  Below,
  Check,
  Claim,
  Difference,
  Effect,
  Level,
)
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.policy import cart_pole, drawing
from experiments.policy.options import ARMS, Config
from experiments.policy.training import RATES, train

NATURAL, SCALED = "natural", "scaled"
Found = Mapping[str, Mapping[str, Parts]]  # By scale and arm.

_LILLICRAP = "Lillicrap et al. 2015, section 3"
_COINRUN = "openai/coinrun, issue 41"
_RETURN: Mapping[str, Any] = {
  "quantity": "return",
  "analysis": Difference(),
  "unit": "steps",
  "form": "+.0f",
}
_TENTH = "a tenth of the 500 steps that are possible"
MATTER = Claim(
  "scales_matter",
  "without a norm, badly scaled observations cost at least {margin} steps",
  source="ours: the control",
  samples=("badly scaled", "natural"),
  criterion=Effect(-100),
  why="twice the margin of the claims that a norm makes them harmless",
  headline=True,
  **_RETURN,
)
HARMLESS = {
  arm: Claim(
    f"harmless_{arm}",
    f"with {name}, badly scaled observations give a return at most {{margin}}"
    " steps below that of natural ones without a norm",
    source=source,
    samples=(f"{ARMS[arm].title}, badly scaled", "none, natural"),
    criterion=Above(-50),
    why=_TENTH,
    headline=True,
    **_RETURN,
  )
  for arm, name, source in (
    ("inputs", "standardized inputs", "ours; common practice"),
    ("ln", "layer norm", "ours"),
    ("bn", "batch norm", _LILLICRAP),
  )
}
HURT = Claim(
  "bn_hurts",
  "batch norm that acts on one observation at a time has a return at least"
  " {margin} steps below that of no norm, on natural observations",
  source=f"ours; {_COINRUN}, says that it may",
  samples=("bn", "none"),
  criterion=Effect(-50),
  why=_TENTH,
  headline=True,
  **_RETURN,
)
KEPT = Claim(
  "ln_does_not_hurt",
  "layer norm has a return at most {margin} steps below that of no norm, on"
  " natural observations",
  source="ours",
  samples=("ln", "none"),
  criterion=Above(-50),
  why="the margin of bn_hurts",
  **_RETURN,
)
BATCHES = Claim(
  "batches_help",
  "batch norm gains at least {margin} steps if it also acts with the statistics"
  " of a batch, that of all environments, on natural observations",
  source=f"{_COINRUN}, of pixels",
  samples=("bn, acting on batches", "bn"),
  criterion=Effect(50),
  why="the margin of bn_hurts",
  **_RETURN,
)
APART = Claim(
  "bn_acts_otherwise",
  "at equal parameters, batch norm's policy that acts and the one that updates"
  " differ by more than {margin} nats, on natural observations",
  source="ours",
  quantity="mean KL(acting || updating) at the start of updates",
  samples=("bn",),
  analysis=Level(),
  criterion=Above(0.003),
  why="the smallest target of what a whole update changes, Schulman et al. 2017,"
  " table 1",
  unit="nats",
  form=".4f",
)
CLAIMS = (MATTER, *HARMLESS.values(), HURT, KEPT, BATCHES, APART)

SAME = Check(
  "one_policy",
  "at equal parameters, the policies that act and update are the same without a"
  " norm, with standardized inputs and with layer norm",
  source="the definition",
  quantity="largest KL(acting || updating) of all updates, in nats",
  criterion=Below(1e-5),
)


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  assert config.batches  # Refuses settings without a batch.
  scales = {NATURAL: (1.0,) * cart_pole.OBSERVED, SCALED: config.scales}
  found = {
    scale: {
      name: tuning.tuned(
        run,
        f"{scale}_{name}",
        functools.partial(train, arm, factors, config),
        RATES,
        config,
      )
      for name, arm in ARMS.items()
    }
    for scale, factors in scales.items()
  }
  _show(found)
  judge(found, run)
  drawing.draw(found, config, run)


def _show(found: Found) -> None:
  kinds = ("running", "re-estimated", "batch")
  rows = [
    [
      scale,
      ARMS[name].title,
      f"{part['rate']:.2g}",
      *(shown(part[kind], ".0f") if kind in part else None for kind in kinds),
      shown(part["divergence"].mean(axis=1), ".4f"),
    ]
    for scale, arms in found.items()
    for name, part in arms.items()
  ]
  headers = ["observations", "arm", "best rate"]
  headers += ["return", "re-estimated", "on batches", "KL (nats)"]
  print(f"\n{table(rows, headers)}\n")


def judge(found: Found, run: Run) -> None:
  """Judges the claims.

  Args:
    found: What `train` found for every arm, `[seeds]`.
    run: Gets the samples.
  """
  natural, scaled = (
    {name: part["return"] for name, part in found[scale].items()}
    for scale in (NATURAL, SCALED)
  )
  run.judge(MATTER, scaled["none"], natural["none"])
  for name, claim in HARMLESS.items():
    run.judge(claim, scaled[name], natural["none"])
  run.judge(HURT, natural["bn"], natural["none"])
  run.judge(KEPT, natural["ln"], natural["none"])
  run.judge(BATCHES, natural["bn_batch"], natural["bn"])
  run.judge(APART, found[NATURAL]["bn"]["divergence"].mean(axis=1))
  run.check(
    SAME,
    max(
      np.max(arms[name]["divergence"])
      for arms in found.values()
      for name in ("none", "inputs", "ln")
    ),
  )


STUDY = study.Study(
  "policy",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  (SAME,),
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "updates": 2,
    "hidden": (8,),
    "longest": 50,
  },
  full={
    "environments": 64,
    "horizon": 128,
    "updates": 122,
    "epochs": 10,
    "batch_size": 64,
  },
  confirm={"seed": 100, "seeds": 20},
)

if __name__ == "__main__":
  study.main(STUDY)
