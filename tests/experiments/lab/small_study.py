"""A study that trains nothing, in a second, for tests of what studies share.

    python -m tests.experiments.lab.small_study

Losses with and without a norm are drawn at random. The norm lowers them by
--effect nats.
"""

import contextlib
import dataclasses
import functools
import io
import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl import flags

from experiments.lab import options, results, study, tuning
from experiments.lab.claims import (
  Below,
  Check,
  Claim,
  Difference,
  Effect,
  Ratio,
  Within,
)
from experiments.lab.parsers import COUNT
from experiments.lab.runs import machine
from experiments.lab.study import Run

# In a clone whose files are those of a commit.
committed = mock.patch.object(machine, "_commit", lambda: "0" * 40)

LOWER = Claim(
  "lower",
  "after {steps} steps, the loss is at least {margin} nats lower with the norm",
  source="Someone 2015, section 1",
  quantity="loss",
  samples=("norm", "none"),
  analysis=Difference(cap=3.0),
  criterion=Effect(-0.5),
  why="half of the source's nat",
  unit="nats",
  form="+.2f",
  pilot="the number of steps",
  spread=0.1,
  headline=True,
)
EQUAL = Claim(
  "equal",
  "the loss | with the norm is that without, within a share of {margin}",
  source="ours, from a pilot",
  quantity="loss",
  samples=("norm", "none"),
  analysis=Ratio(),
  criterion=Within(0.2, of=1),
  why="a fifth is what a reader would call a difference",
  spread=0.05,
)
IDENTITY = Check(
  "identity",
  "the norm of nothing is nothing",
  source="Someone 2015, equation 1",
  quantity="largest error",
  criterion=Below(1e-6),
)


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The settings."""

  steps: int = options.option(2, "Number of steps.", COUNT)
  effect: float = options.option(
    1.0, "By how much the norm lowers the loss.", flags.FloatParser()
  )


def measure(config: Config, run: Run) -> None:
  """Draws the losses, judges, and draws an empty figure."""
  from matplotlib.figure import Figure

  def losses():
    noise = np.random.default_rng(config.seed).normal(0, 0.05, (2, 20))
    none, norm = 2 + noise[:, : config.seeds]
    return {"none": none, "norm": norm - config.effect * config.gain}

  run.use_data(config.dataset, [np.zeros(1)])
  found = run.part("losses", losses)
  for claim in (LOWER, EQUAL):
    run.judge(claim, found["norm"], found["none"])
  run.check(IDENTITY, 1e-8)
  run.record_rates(
    "norm", tuning.RateChoice(0.1, [0.01, 0.1, 1.0], [0.5, 0.25, None], True)
  )
  run.figure("losses", Figure((1, 1)))


STUDY = study.Study(
  "small_study",
  __doc__,
  measure,
  Config(),
  (LOWER, EQUAL),
  checks=(IDENTITY,),
  quick={"seeds": 2},
  confirm={"seed": 100, "seeds": 10},
  sensitivity={"steps": (1, 4), "gain": (0.1,)},
)


def summary(folder: pathlib.Path, more=None, **settings):
  """Returns the summary of a run with the registered seeds, with more in it."""
  config = dataclasses.replace(
    STUDY.config, **{"dataset": "digits", **STUDY.confirm, **settings}
  )
  where = study.Files(str(folder))
  with (
    contextlib.redirect_stdout(io.StringIO()),
    committed,
  ):
    return study.run(
      "small_study",
      lambda config, run: measure(config, run) or more,
      config,
      where,
      command="command",
    )


@functools.cache
def record(name="small", **settings):
  """Returns the record of a run with the registered seeds."""
  with tempfile.TemporaryDirectory() as folder:
    found = summary(pathlib.Path(folder, "run"), **settings)
    config = dataclasses.replace(STUDY.config, **settings)
    declared = dataclasses.replace(STUDY, config=config)
    return results.of_summary(name, found, declared)


if __name__ == "__main__":
  study.main(STUDY)
