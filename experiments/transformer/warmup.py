"""Whether post-LN needs learning-rate warm-up, and pre-LN does not.

    python -m experiments.transformer --study=warmup

Character models of 8 blocks of width 48, pre-LN and post-LN, with 100 steps of
linear warm-up or none, 300 batches of 16 x 32 characters. Xavier
initialization, no clipping, no weight decay, Adam with b2 = 0.98. About ten
minutes on two cores.

For each of the four models the learning rate is chosen from half decades of
0.0003 to 0.03 by the validation loss of two other seeds. Every model is then
trained with the seeds of the study at its own best rate ("tuned"), and at that
of pre-LN without warm-up ("equal rate"). A seed determines the initial kernels
and the batches. Verdicts are on the test text, the same for all seeds, and hold
for this text.

Source: Xiong et al., 2020, https://arxiv.org/abs/2002.04745, sections 3.2 and 4
(IWSLT14 De-En): post-LN with Adam has 8.45 BLEU without warm-up and about 34
with 4,000 steps of it; pre-LN without warm-up has about 34 too. They add that a
small fixed rate trains post-LN as well, but slowly.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.lab import figures, study
from experiments.lab.claims import Below, Claim, Difference, Effect
from experiments.lab.data.sequences import Task
from experiments.lab.study import Parts, Run
from experiments.transformer import drawing, sweep
from experiments.transformer.options import Config

STEPS = 100  # Of warm-up.

_LOSS: dict[str, Any] = {
  "source": "Xiong et al. 2020, sections 3.2 and 4",
  "quantity": "final test loss, at most that of guessing",
  "analysis": Difference(),
  "unit": "nats",
  "form": "+.3f",
}
_FIVE_PERCENT = "0.05 nats are five percent of perplexity"
POST_WORSE = Claim(
  "post_worse_without_warmup",
  "without warm-up, at the best rate of pre-LN, post-LN ends at least {margin}"
  " nats worse than pre-LN",
  samples=("post", "pre"),
  criterion=Effect(0.5),
  spread=0.028,
  why="the source's 8.45 BLEU mean that little is learned; half a nat is most"
  " of what the previous character tells of the next one, 0.8 nats on pydoc",
  **_LOSS,
)
WARMUP_HELPS = Claim(
  "warmup_helps_post",
  f"{STEPS} steps of warm-up bring post-LN at least {{margin}} nats closer to"
  " pre-LN, at the best rate of pre-LN without warm-up",
  samples=("gap without warm-up", "gap with warm-up"),
  criterion=Effect(0.25),
  pilot="an earlier version had 12 blocks, in which warm-up helped at 0.001 but"
  " not at 0.003; now there are 8, and the rate is the best one of pre-LN",
  spread=0.34,
  why="half of the margin of post_worse_without_warmup",
  headline=True,
  **_LOSS,
)
PRE_NEEDS_NONE = Claim(
  "pre_needs_no_warmup",
  "pre-LN without warm-up ends less than {margin} nats worse than with it, each"
  " at its best rate",
  samples=("pre, no warm-up", "pre, warm-up"),
  criterion=Below(0.05),
  spread=0.015,
  why=f"the source calls the two comparable; {_FIVE_PERCENT}",
  **_LOSS,
)
POST_TUNED_WORSE = Claim(
  "post_tuned_worse",
  "with warm-up, each at its best rate, post-LN ends at least {margin} nats"
  " worse than pre-LN",
  samples=("post, warm-up", "pre, warm-up"),
  criterion=Effect(0.05),
  spread=0.029,
  why=_FIVE_PERCENT,
  pilot="that it is so, from seeds 0 to 4",
  **_LOSS
  | {"source": "ours, from a pilot: the source finds the two comparable"},
)
CLAIMS = (POST_WORSE, WARMUP_HELPS, PRE_NEEDS_NONE, POST_TUNED_WORSE)

Arm = tuple[str, int]  # Placement, steps of warm-up.


def arms(config: Config) -> dict[Arm, Config]:
  """Returns the models to compare; the first one sets the equal rate."""
  return {
    (placement, warmup): dataclasses.replace(
      config, placement=(placement,), warmup_steps=warmup
    )
    for placement in ("pre", "post")
    for warmup in (0, STEPS)
  }


def name(arm: Arm) -> str:
  placement, warmup = arm
  return f"{placement}_{f'{warmup}_steps' if warmup else 'no_warmup'}"


def measure(config: Config, run: Run) -> None:
  """Trains the models, prints, judges and draws."""
  task = sweep.load(config, run)
  models = arms(config)
  sweep.tell(run, models.values(), task)
  best = {
    arm: sweep.tuned(run, name(arm), model, task)
    for arm, model in models.items()
  }
  rate = float(best["pre", 0]["rate"])
  equal = {
    arm: best[arm]
    if best[arm]["rate"] == rate
    else sweep.at_rate(run, f"{name(arm)}_equal_rate", model, task, rate)
    for arm, model in models.items()
  }
  sweep.show(
    {
      **{f"{name(arm)}, tuned": found for arm, found in best.items()},
      **{f"{name(arm)}, equal rate": found for arm, found in equal.items()},
    },
    {"validation": "validation loss", "test": "test loss"},
  )
  judge(best, equal, task, run)
  draw(equal, config.norm[0], f"Learning rate {rate:.2g}", config, task, run)


def judge(
  best: Mapping[Arm, Parts], equal: Mapping[Arm, Parts], task: Task, run: Run
) -> None:
  """Judges the claims.

  Args:
    best: The results of the models, each at its best rate.
    equal: Their results at an equal rate.
    task: Gives the loss of guessing.
    run: Run that gets the findings.
  """
  own, same = (
    {arm: sweep.capped(part["test"], task) for arm, part in found.items()}
    for found in (best, equal)
  )
  run.judge(POST_WORSE, same["post", 0], same["pre", 0])
  gaps = [same["post", steps] - same["pre", steps] for steps in (0, STEPS)]
  run.judge(WARMUP_HELPS, *gaps)
  run.judge(PRE_NEEDS_NONE, own["pre", 0], own["pre", STEPS])
  run.judge(POST_TUNED_WORSE, own["post", STEPS], own["pre", STEPS])


def draw(
  found: Mapping[Arm, Parts],
  models: str,
  rates: str,
  config: Config,
  task: Task,
  run: Run,
) -> None:
  """Draws the training losses, and the choices of the learning rates.

  Args:
    found: Results of the models.
    models: What they have in common, for the title.
    rates: At which learning rates they were trained, for the left panel.
    config: Settings of the study, whose name is that of the figure.
    task: Gives the loss of guessing.
    run: Run that gets the figure.
  """
  with figures.drawing(
    run,
    config.study,
    title=f"{drawing.size(config)}, {models}, {task.name}",
    caption=f"Left: {figures.seeds_caption(config.seeds)}; right: mean of"
    f" {config.tuning_seeds} tuning seeds",
  ) as (over_steps, over_rates):
    for arm, part in found.items():
      placement, warmup = arm
      options: dict[str, Any] = {
        "name": f"{placement}, {f'{warmup} steps of' if warmup else 'no'}"
        " warm-up",
        "style": "--" if warmup else "-",
        "marker": "s" if warmup else "o",
        "color": drawing.PLACEMENT_COLORS[placement],
      }
      curve = sweep.capped(part["loss"], task)
      at = sweep.curve_steps(config, curve)
      figures.curve(over_steps, at, curve, "none", **options)
      sweep.draw_rates(over_rates, run, name(arm), task, **options)
    figures.label(over_steps, rates, "Step", "Training loss (nats)")
    sweep.label_rates(over_rates)


STUDY = study.Study(
  "transformer",
  __doc__,
  measure,
  # The initialization is that of the source.
  dataclasses.replace(
    Config(study="warmup"),
    **{**sweep.SETTINGS, "layers": 8, "kernel_init": "xavier"},
  ),
  CLAIMS,
  quick=sweep.QUICK,
  confirm=sweep.CONFIRM,
  sensitivity={
    "rate_factor": (10**-0.5, 10**0.5),
    "gain": (0.5, 2.0),
    "steps": (150, 600),
    "layers": (4, 12),
  },
)
