"""Whether post-LN gains by warm-up when each model has its own best rate.

    python -m experiments.transformer --study=warmup_tuned

`--study=warmup` compares post-LN with pre-LN, at the best rate of pre-LN. This
may be too high a rate for post-LN, and a lower one a cure as good as warm-up.
So here are the post-LN models of that study alone, with 100 steps of warm-up
and without, each at the best of the same learning rates, chosen in the same
way. About four minutes on two cores.

Source: Xiong et al., 2020, https://arxiv.org/abs/2002.04745, section 3.2: for
post-LN, warm-up is essential (IWSLT14 De-En, Adam).
"""

import dataclasses
from collections.abc import Mapping

from experiments.lab import study
from experiments.lab.claims import Claim, Difference, Effect
from experiments.lab.data.sequences import Task
from experiments.lab.study import Parts, Run
from experiments.transformer import sweep, warmup
from experiments.transformer.options import Config
from experiments.transformer.warmup import STEPS, Arm

GAIN = Claim(
  "post_gains",
  f"{STEPS} steps of warm-up lower the loss of post-LN by at least {{margin}}"
  " nats, each at its best rate",
  source="Xiong et al. 2020, section 3.2, of translation",
  quantity="final test loss, at most that of guessing",
  samples=("warm-up", "no warm-up"),
  analysis=Difference(),
  criterion=Effect(-0.05),
  unit="nats",
  form="+.3f",
  spread=0.027,
  pilot="that the gain is small, from the learning rates of --study=warmup and"
  " its runs with --sensitivity",
  why="as in --study=warmup: five percent of perplexity",
)
CLAIMS = (GAIN,)


def measure(config: Config, run: Run) -> None:
  """Trains the models, prints, judges and draws."""
  task = sweep.load(config, run)
  models = {
    arm: model for arm, model in warmup.arms(config).items() if "post" in arm
  }
  sweep.tell(run, models.values(), task)
  found = {
    arm: sweep.tuned(run, warmup.name(arm), model, task)
    for arm, model in models.items()
  }
  sweep.show(
    {warmup.name(arm): part for arm, part in found.items()},
    {"validation": "validation loss", "test": "test loss"},
  )
  judge(found, task, run)
  title = f"post-LN, {config.norm[0]}"
  warmup.draw(found, title, "Each at its best rate", config, task, run)


def judge(found: Mapping[Arm, Parts], task: Task, run: Run) -> None:
  """Judges the claim.

  Args:
    found: Results of the models.
    task: Gives the loss of guessing.
    run: Run that gets the finding.
  """
  without, with_it = (
    sweep.capped(found["post", steps]["test"], task) for steps in (0, STEPS)
  )
  run.judge(GAIN, with_it, without)


STUDY = study.Study(
  "transformer",
  __doc__,
  measure,
  dataclasses.replace(
    warmup.STUDY.config, study="warmup_tuned", placement=("post",)
  ),
  CLAIMS,
  quick=sweep.QUICK,
  # Its models at the seeds 120 to 139 are part of --study=warmup.
  confirm={"seed": 140, "seeds": 20},
)
