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
  those of the batch. (Its epsilon of 1e-5 is above the variance of the angle
  times 0.01, which therefore stays small.)
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
Lillicrap et al., 2015, https://arxiv.org/abs/1509.02971, section 3: with batch
norm, a method learns tasks whose observations have different units, without
anybody scaling them by hand. One of CoinRun's authors in
https://github.com/openai/coinrun/issues/41: acting and updating should
normalize by similar statistics, since other ones can make training unstable;
so that code always uses those of the batch.
"""

import functools
from collections.abc import Mapping

import numpy as np

from experiments.lab import study, tuning
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.policy import cart_pole, drawing
from experiments.policy.claims import (
  APART,
  BATCHES,
  CLAIMS,
  HARMLESS,
  HURT,
  KEPT,
  MATTER,
  SAME,
)
from experiments.policy.options import ARMS, Config
from experiments.policy.training import RATES, train

NATURAL, SCALED = "natural", "scaled"
Found = Mapping[str, Mapping[str, Parts]]  # By scale and arm.


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  _ = config.batches  # Refuses settings without a batch.
  scales = {NATURAL: (1.0,) * cart_pole.OBSERVED, SCALED: config.units}
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
  confirm={"seed": 140, "seeds": 20},
)

if __name__ == "__main__":
  study.main(STUDY)
