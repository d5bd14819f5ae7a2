"""Norms in an LSTM, a GRU and a simple RNN.

    python -m experiments.recurrent
    python -m experiments.recurrent --cell=gru --task=rows

Two tasks. On rows, a net of 32 units reads an image row by row (halved to 14
rows of 14 pixels, or 8 rows of 8) and names the digit after the last one; 400
batches of 64. In the adding problem, it reads 8 to 16 random numbers from 0 to
1, of which two are marked, and answers with the sum of these two; 600 batches
of 64 with padding, of which a mask tells. A net that always answers 1 has a
root mean square error of 0.41. Adam, gradients clipped to norm 1. About three
minutes on two cores.

The norms are inside of the cell: one for the product with the state, one for
that with the input, and in the LSTM one for the memory where it is read.

    none
    ln     layer norm
    step   batch norm with running statistics of each time step
    one    batch norm with one running statistic for all time steps

All steps share gain and bias. The gain of the batch norms starts at 0.1. Their
epsilon is 0.01: the first rows of MNIST are blank in almost all images, and a
batch says little of such a variance. In training, "step" and "one" are the same
net, because each step is standardized by its own batch. They differ in
evaluation. The claims are about the cell of `--cell`; the two others are shown
on rows with none, ln and step.

A seed determines the images for training, validation and test, the initial
kernels and the batches; the test of the adding problem is the same for all.
Every arm has its own learning rate: the one of five or more from 0.001 to 0.1
that has the lowest validation loss with other seeds. Batch norms are tested
with running statistics of momentum 0.9 and with re-estimated ones. The latter
choose the rate, and claims are judged on them.

How fast a net trains is judged by its mean loss over all training steps, which
needs no choice of a target. Here every arm has the rate at which this is lowest
with other seeds: rates that are best for the validation loss differ by chance,
and half a decade changes the speed more than a norm. Longer sequences are of
twice the longest length in training. There, batch norm has no statistics for
the later steps. "step" goes on with those of the last step that was trained.
Shown are also "step: initial", with mean 0 and variance 1 for later steps, and
"step: test batch", with the statistics of the 500 sequences of the test.

Sources. Ba et al., 2016, https://arxiv.org/abs/1607.06450, section 3.1 for the
simple RNN, equations 20 to 22 for the LSTM, and the supplement for the GRU; in
sections 6.1 to 6.5, recurrent nets train faster with layer norm on five other
tasks. Cooijmans et al., 2016, https://arxiv.org/abs/1603.09025, section 3: the
statistics of the first steps differ from those of later ones, so each step has
its own, and steps beyond the longest training sequence use those of the last;
section 4: a gain of 0.1; section 5.1: an LSTM of 100 units that reads MNIST
pixel by pixel has a test accuracy of 98.9% without and 99.0% with batch norm
(90.2 and 95.4% if the pixels are permuted). Where variances are zero, they add
noise to the first state. `--scale=full` has this size. The adding problem is a
variant of that of Hochreiter & Schmidhuber, 1997, section 5.4,
https://doi.org/10.1162/neco.1997.9.8.1735.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.lab import study, tuning
from experiments.lab.data.arrays import Pool
from experiments.lab.study import Parts, Run
from experiments.recurrent import (
  checks,
  drawing,
  judging,
  nets,
  task,
  training,
)
from experiments.recurrent.judging import CHECKS, CLAIMS
from experiments.recurrent.training import EQUAL, NORMS, RATES, Arm, Config

SHOWN = ("none", "ln", "step")  # The norms in the other cells.


def measure(config: Config, run: Run) -> None:
  """Trains the arms of each task; prints, judges and draws."""
  pool = None
  if "rows" in config.task:
    pool = run.load_pool(config.dataset, halved=config.halve)
    pool = task.read_by(pool, config.pixels)
  run.check(judging.ALONE, checks.alone(config, "ln"))
  print(f"The same with batch norm: {checks.alone(config, 'step'):.2g}")
  run.check(judging.PADDING, checks.padding(config, "step"))
  if pool is not None:
    _measure_rows(config, pool, run)
  if "adding" in config.task:
    chosen = [Arm(config.cell, norm) for norm in NORMS]
    train = functools.partial(training.on_sums, config)
    best, fast = _tuned("adding_", chosen, train, config, run)
    sums = _by_norm(best, config.cell), _by_norm(fast, config.cell)
    drawing.show_sums(*sums, config)
    judging.judge_sums(*sums, run)
    drawing.draw_sums(*sums, config, run)


def _measure_rows(config: Config, pool: Pool, run: Run) -> None:
  chosen = [Arm(config.cell, norm) for norm in NORMS]
  if config.all_cells:
    others = [cell for cell in nets.CELLS if cell != config.cell]
    chosen += [Arm(cell, norm) for cell in others for norm in SHOWN]
  train = functools.partial(training.on_rows, config, pool)
  best, fast = _tuned("", chosen, train, config, run)
  for name, norm, rate in (
    ("none, again", "none", float(fast[Arm(config.cell, "none")]["rate"])),
    ("none, equal rate", "none", EQUAL),
    ("ln, equal rate", "ln", EQUAL),
  ):
    part = functools.partial(
      train, Arm(config.cell, norm), again="again" in name
    )
    fast[Arm(config.cell, name)] = tuning.at_rate(
      run,
      name.replace(", ", "_").replace(" ", "_"),
      part,
      rate,
      config.seed_numbers,
    )
  drawing.show_rows(best, fast)
  rows = _by_norm(best, config.cell), _by_norm(fast, config.cell)
  judging.judge_rows(*rows, run)
  drawing.draw_rows(*rows, config, pool.name, run)


def _tuned(
  prefix: str,
  chosen: Sequence[Arm],
  train: Callable[[Arm, Sequence[float], Sequence[int]], Parts],
  config: Config,
  run: Run,
) -> tuple[dict[Arm, Parts], dict[Arm, Parts]]:
  """Returns the arms at their best rates, and at those that train fastest.

  The second are without "one", which is the same as "step" in training.
  """
  best: dict[Arm, Parts] = {}
  fast: dict[Arm, Parts] = {}
  for arm in chosen:
    name = prefix + "_".join(arm)

    @functools.cache  # What both choices need is trained once.
    def trained(
      rates: tuple[float, ...], seeds: tuple[int, ...], arm: Arm = arm
    ) -> Parts:
      return train(arm, rates, seeds)

    def part(
      rates: Sequence[float], seeds: Sequence[int], trained: Any = trained
    ) -> Parts:
      return trained((*rates,), (*seeds,))

    best[arm] = tuning.tuned(run, name, part, RATES, config)
    if arm.norm != "one":
      fast[arm] = tuning.tuned(
        run, f"{name}_fastest", part, RATES, config, by="mean"
      )
  return best, fast


def _by_norm(arms: Mapping[Arm, Parts], cell: str) -> dict[str, Parts]:
  return {arm.norm: part for arm, part in arms.items() if arm.cell == cell}


STUDY = study.Study(
  "recurrent",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  CHECKS,
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "task": ("rows",),
    "steps": 60,
    "units": 8,
    "all_cells": False,
  },
  full={
    "units": 100,
    "pixels": 1,
    "halve": False,
    "steps": 80_000,
    "sums": 5_000,
    "length": 100,
  },
  confirm={"seed": 100, "seeds": 20},
)

if __name__ == "__main__":
  study.main(STUDY)
