"""Batch norm in a language model.

    python -m experiments.transformer --study=batch_norm

Character models of 4 blocks of width 48, pre-LN, without warm-up, 300 batches
of 16 x 32 characters, LeCun initialization, no clipping, no weight decay, Adam
with b2 = 0.98. For layer norm and batch norm the learning rate is chosen from
half decades of 0.0003 to 0.03 by the validation loss of two other seeds. About
two minutes on two cores.

Batch norm averages over the sequences of a batch and over time. In training, a
position thus sees later ones, which it should predict, through the statistics:
its training loss is not that of a causal model. In evaluation the statistics
are constants, and it is causal. The last parameters are evaluated with running
statistics (momentum 0.9), with statistics that are re-estimated over 50 batches
of training data, and with those of each batch of 16 shuffled sequences, which
see later positions.

A seed determines the initial kernels and the batches. Verdicts are on the test
text, the same for all seeds, and hold for this text.

Source: Shen et al., 2020, https://arxiv.org/abs/2003.07845: batch norm clearly
hurts in language tasks, whose statistics vary much from batch to batch. They
train bigger models for longer.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.lab import figures, study
from experiments.lab.claims import (
  Below,
  Check,
  Claim,
  Difference,
  Effect,
)
from experiments.lab.data.sequences import Task
from experiments.lab.study import Parts, Run
from experiments.lab.training.engine import Engine
from experiments.lab.training.step import TrainState
from experiments.transformer import drawing, sweep, training
from experiments.transformer.options import Config

NORMS = ("ln", "bn")
REESTIMATED_OVER = 50  # Batches of training data.

_LOSS: dict[str, Any] = {
  "source": "Shen et al. 2020",
  "quantity": "final test loss, at most that of guessing",
  "unit": "nats",
  "form": "+.3f",
}
_FIVE_PERCENT = (
  "five percent of perplexity; the source says that batch norm clearly hurts"
)
RUNNING_ABOVE = Claim(
  "bn_running_above_batch",
  "batch norm's loss with running statistics is at least {margin} nats above"
  " that with the statistics of each batch, which see later positions",
  samples=("running", "of each batch"),
  analysis=Difference(),
  criterion=Effect(0.02),
  pilot="in a first pilot, the sequences of a batch were neighbours in the text"
  " and had other statistics for that reason (0.18 instead of 0.06 nats); now"
  " they are shuffled. On seeds 100 to 119 on pydoc the size of the difference,"
  " without its sign, was judged",
  spread=0.016,
  why="ours: two percent of perplexity, as for RMS and layer norm",
  **_LOSS | {"source": "ours: the source shows distances of statistics"},
)
WORSE_RUNNING = Claim(
  "bn_worse_running",
  "with running statistics, batch norm ends at least {margin} nats worse than"
  " layer norm, each at its best rate",
  samples=("bn, running", "ln"),
  analysis=Difference(),
  criterion=Effect(0.05),
  spread=0.033,
  why=_FIVE_PERCENT,
  **_LOSS,
)
WORSE_REESTIMATED = Claim(
  "bn_worse_reestimated",
  "with re-estimated statistics, batch norm ends at least {margin} nats worse"
  " than layer norm, each at its best rate",
  samples=("bn, re-estimated", "ln"),
  analysis=Difference(),
  criterion=Effect(0.05),
  spread=0.031,
  why=_FIVE_PERCENT,
  **_LOSS | {"source": "ours: the source does not re-estimate"},
)
CLAIMS = (RUNNING_ABOVE, WORSE_RUNNING, WORSE_REESTIMATED)
LN_IS_SAME = Check(
  "ln_is_the_same",
  "layer norm does the same in training and in evaluation",
  source="its definition: it has no running statistics",
  quantity="largest difference of its two test losses in nats",
  criterion=Below(1e-5),
)

STATISTICS = {
  "test": "running",
  "reestimated": "re-estimated",
  "of_each_batch": "of each batch",
}


def measure(config: Config, run: Run) -> None:
  """Trains the models, prints, judges and draws."""
  task = sweep.load(config, run)
  models = {norm: dataclasses.replace(config, norm=(norm,)) for norm in NORMS}
  sweep.tell(run, models.values(), task)

  found = {
    norm: sweep.tuned(run, norm, model, task, more(task))
    for norm, model in models.items()
  }
  columns = {key: f"test loss, {name}" for key, name in STATISTICS.items()}
  sweep.show(found, {"validation": "validation loss", **columns})
  judge(found, task, run)
  _draw(found, config, task, run)


def more(task: Task) -> sweep.More:
  """Returns the function that evaluates with the other statistics."""

  def evaluate(engine: Engine, state: TrainState) -> dict[str, np.ndarray]:
    variables = state.variables
    again = engine.reestimate(variables, engine.source, REESTIMATED_OVER)
    return {
      "reestimated": engine.evaluate(again, task.test)["loss"],
      "of_each_batch": training.loss_in_training_mode(
        engine, variables, task.test
      ),
    }

  return evaluate


def judge(found: Mapping[str, Parts], task: Task, run: Run) -> None:
  """Judges the claims.

  Args:
    found: Results of layer norm and of batch norm.
    task: Gives the loss of guessing.
    run: Run that gets the findings.
  """
  ln, bn = (
    {name: sweep.capped(found[norm][name], task) for name in STATISTICS}
    for norm in NORMS
  )
  difference = np.abs(ln["test"] - ln["of_each_batch"])
  run.check(LN_IS_SAME, difference.max())
  run.judge(RUNNING_ABOVE, bn["test"], bn["of_each_batch"])
  run.judge(WORSE_RUNNING, bn["test"], ln["test"])
  run.judge(WORSE_REESTIMATED, bn["reestimated"], ln["test"])


def _draw(
  found: Mapping[str, Parts], config: Config, task: Task, run: Run
) -> None:
  with figures.drawing(
    run,
    "batch_norm",
    title=f"{drawing.size(config)}, {config.placement[0]}-LN, {task.name}",
    caption=f"Left: mean of {config.tuning_seeds} tuning seeds; right:"
    f" {figures.seeds_caption(config.seeds)}",
  ) as (over_rates, final):
    sweep.draw_choice(over_rates, run, NORMS, task)
    for norm in NORMS:
      values = [sweep.capped(found[norm][name], task) for name in STATISTICS]
      figures.curve(
        final,
        range(len(STATISTICS)),
        np.transpose(values),
        norm,
        style="none",
      )
    figures.label(final, "Last parameters", "Statistics", "Test loss (nats)")
    final.set_xticks(range(len(STATISTICS)), [*STATISTICS.values()])


STUDY = study.Study(
  "transformer",
  __doc__,
  measure,
  dataclasses.replace(Config(study="batch_norm"), **sweep.SETTINGS),
  CLAIMS,
  checks=(LN_IS_SAME,),
  quick=sweep.QUICK,
  confirm={**sweep.CONFIRM, "seeds": 10},
)
