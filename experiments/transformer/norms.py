"""Layer norm, RMS norm or none; normalized queries and keys.

    python -m experiments.transformer --study=norms

Character models of 4 blocks of width 48, pre-LN, without warm-up, 300 batches
of 16 x 32 characters, LeCun initialization, no clipping, no weight decay, Adam
with b2 = 0.98. For each norm the learning rate is chosen from half decades of
0.0003 to 0.03 by the validation loss of two other seeds. At the high rate of
0.03, layer norm is trained with and without normalized queries and keys. About
four minutes on two cores.

A seed determines the initial kernels and the batches. Seeds that diverged count
with the loss of guessing. Losses are of the test text, and the largest logit is
of a batch of the validation text; both are the same for all seeds, and verdicts
hold for this text. Speed is not measured here but in benchmarks/.

Sources: Zhang & Sennrich, 2019, https://arxiv.org/abs/1910.07467: RMSNorm as
good as LayerNorm (in translation, BLEU of 26.8 and 26.6). Normalized queries
and keys come from Henry et al., 2020, https://arxiv.org/abs/2010.04245, who
improve translation with little data by them. That they bound the logits is
arithmetic; that they train at higher rates was seen by Dehghani et al., 2023,
https://arxiv.org/abs/2302.05442, and, in small models, by Wortsman et al.,
2023, https://arxiv.org/abs/2309.14322.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from experiments.lab import figures, study
from experiments.lab.claims import Claim, Difference, Effect, Ratio, Within
from experiments.lab.data.sequences import Task
from experiments.lab.study import Parts, Run
from experiments.lab.training.engine import Engine
from experiments.lab.training.step import TrainState
from experiments.transformer import drawing, sweep, training
from experiments.transformer.options import Config

NORMS = ("ln", "rms", "none")
HIGH_RATE = 3e-2
HIGH = {"plain": False, "qk": True}  # Whether with QK norm, at the high rate.

_LOSS: dict[str, Any] = {
  "quantity": "final test loss, at most that of guessing",
  "analysis": Difference(),
  "unit": "nats",
  "form": "+.3f",
}
_STABLE = "Dehghani et al. 2023; Wortsman et al. 2023"
RMS_AS_GOOD = Claim(
  "rms_as_good_as_ln",
  "RMS norm ends within {margin} nats of layer norm, each at its best rate",
  source="Zhang & Sennrich 2019",
  samples=("rms", "ln"),
  criterion=Within(0.02),
  spread=0.017,
  why="ours: two percent of perplexity; the source gives BLEU, 26.8 and 26.6",
  headline=True,
  **_LOSS,
)
NONE_WORSE = Claim(
  "none_worse_than_ln",
  "a model without a norm ends at least {margin} nats worse than with layer"
  " norm, each at its best rate",
  source="ours, from a pilot",
  samples=("none", "ln"),
  criterion=Effect(0.05),
  spread=0.025,
  pilot="that it is so, from seeds 0 to 4",
  why="five percent of perplexity, more than the margin of RMS norm",
  **_LOSS,
)
QK_BOUNDS = Claim(
  "qk_bounds_logits",
  f"at {HIGH_RATE:g}, the largest attention logit is at least {{margin}} times"
  " as large without QK norm as with it",
  source=_STABLE,
  quantity="largest absolute attention logit",
  samples=("plain", "qk"),
  # Far below this cap, softmax already picks one key. Diverged seeds get it.
  analysis=Ratio(cap=1e4),
  criterion=Effect(3, none=1),
  spread=0.24,
  why="ours: with three times the logits, odds of 10 to 1 become 1000 to 1",
  uncounted="QK norm bounds the logits by definition",
)
QK_TRAINS = Claim(
  "qk_trains_at_high_rate",
  f"at {HIGH_RATE:g}, the model ends at least {{margin}} nats better with QK"
  " norm than without",
  source=_STABLE,
  samples=("qk", "plain"),
  criterion=Effect(-0.1),
  spread=0.028,
  why="ours: a tenth of perplexity; the sources show models that do not train",
  **_LOSS,
)
CLAIMS = (RMS_AS_GOOD, NONE_WORSE, QK_BOUNDS, QK_TRAINS)


def measure(config: Config, run: Run) -> None:
  """Trains the models, prints, judges and draws."""
  task = sweep.load(config, run)
  models = {norm: dataclasses.replace(config, norm=(norm,)) for norm in NORMS}
  high = {
    name: dataclasses.replace(config, norm=("ln",), qk_norm=qk_norm)
    for name, qk_norm in HIGH.items()
  }
  sweep.tell(run, [*models.values(), *high.values()], task)

  found = {
    norm: sweep.tuned(run, norm, model, task) for norm, model in models.items()
  }
  found |= {
    name: sweep.at_rate(
      run, f"{name}_high_rate", model, task, HIGH_RATE, more(task)
    )
    for name, model in high.items()
  }
  sweep.show(
    found,
    {
      "validation": "validation loss",
      "test": "test loss",
      "largest_logit": "largest logit",
    },
  )
  judge(found, task, run)
  _draw(found, config, task, run)


def more(task: Task) -> sweep.More:
  """Returns the function that measures attention logits."""

  def measure(engine: Engine, state: TrainState) -> dict[str, jax.Array]:
    largest = training.largest_logit(engine, task)
    return {"largest_logit": largest(state.variables)}

  return measure


def judge(found: Mapping[str, Parts], task: Task, run: Run) -> None:
  """Judges the claims.

  Args:
    found: Results of the norms, and of the models at the high rate.
    task: Gives the loss of guessing.
    run: Run that gets the findings.
  """
  loss = {
    name: sweep.capped(part["test"], task) for name, part in found.items()
  }
  run.judge(RMS_AS_GOOD, loss["rms"], loss["ln"])
  run.judge(NONE_WORSE, loss["none"], loss["ln"])
  run.judge(QK_BOUNDS, *(found[name]["largest_logit"] for name in HIGH))
  run.judge(QK_TRAINS, loss["qk"], loss["plain"])


def _draw(
  found: Mapping[str, Parts], config: Config, task: Task, run: Run
) -> None:
  with figures.drawing(
    run,
    "norms",
    title=f"{drawing.size(config)}, {config.placement[0]}-LN, {task.name}",
    caption=f"Left: mean of {config.tuning_seeds} tuning seeds; right:"
    f" {figures.seeds_caption(config.seeds)}; at most the loss of guessing",
  ) as (over_rates, over_steps):
    sweep.draw_choice(over_rates, run, NORMS, task)
    for name, qk_norm in HIGH.items():
      curve = sweep.capped(found[name]["loss"], task)
      figures.curve(
        over_steps,
        sweep.curve_steps(config, curve),
        curve,
        "ln",
        name="ln with QK norm" if qk_norm else "ln",
        style="--" if qk_norm else "-",
      )
    figures.label(
      over_steps,
      f"Learning rate {HIGH_RATE:g}",
      "Step",
      "Training loss (nats)",
    )


STUDY = study.Study(
  "transformer",
  __doc__,
  measure,
  dataclasses.replace(Config(study="norms"), **sweep.SETTINGS),
  CLAIMS,
  quick=sweep.QUICK,
  confirm=sweep.CONFIRM,
  sensitivity={
    "rate_factor": (10**-0.5, 10**0.5),
    "gain": (0.5, 2.0),
    "steps": (150, 600),
    "width": (32, 64),
  },
)
