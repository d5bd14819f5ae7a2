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

from experiments.lab import figures, study
from experiments.lab.claims import Claim, Difference, Effect
from experiments.lab.data.sequences import Task
from experiments.lab.study import Parts, Run
from experiments.transformer import drawing, sweep, warmup
from experiments.transformer.options import Config
from experiments.transformer.warmup import STEPS

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


def arms(config: Config) -> dict[int, Config]:
  """Returns the models to compare, by steps of warm-up."""
  return {
    steps: dataclasses.replace(config, warmup_steps=steps)
    for steps in (0, STEPS)
  }


def measure(config: Config, run: Run) -> None:
  """Trains the models, prints, judges and draws."""
  task = sweep.load(config, run)
  models = arms(config)
  sweep.tell(run, models.values(), task)
  found = {
    steps: sweep.tuned(run, _name(steps), model, task)
    for steps, model in models.items()
  }
  sweep.show(
    {_name(steps): part for steps, part in found.items()},
    {"validation": "validation loss", "test": "test loss"},
  )
  judge(found, task, run)
  _draw(found, config, task, run)


def judge(found: Mapping[int, Parts], task: Task, run: Run) -> None:
  """Judges the claim.

  Args:
    found: Results by steps of warm-up.
    task: Gives the loss of guessing.
    run: Run that gets the finding.
  """
  without, with_it = (
    sweep.capped(found[steps]["test"], task) for steps in (0, STEPS)
  )
  run.judge(GAIN, with_it, without)


def _name(steps: int) -> str:
  return warmup.name(("post", steps))


def _draw(
  found: Mapping[int, Parts], config: Config, task: Task, run: Run
) -> None:
  with figures.drawing(
    run,
    "warmup_tuned",
    title=f"{drawing.size(config)}, post-LN, {config.norm[0]}, {task.name}",
    caption=f"Left: {figures.seeds_caption(config.seeds)}; right: mean of"
    f" {config.tuning_seeds} tuning seeds",
  ) as (over_steps, over_rates):
    for steps, part in found.items():
      options = warmup.line(("post", steps))
      curve = sweep.capped(part["loss"], task)
      at = sweep.curve_steps(config, curve)
      figures.curve(over_steps, at, curve, "none", **options)
      sweep.draw_rates(over_rates, run, _name(steps), task, **options)
    figures.label(
      over_steps, "Each at its best rate", "Step", "Training loss (nats)"
    )
    sweep.label_rates(over_rates)


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
