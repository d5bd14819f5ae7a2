"""Recurrent nets that read images row by row.

    python -m experiments.recurrent --study=rows

A net of 32 units reads an image row by row (halved to 14 rows of 14 pixels, or
8 rows of 8) and names the digit after the last one. 400 batches of 64, Adam,
gradients clipped to norm 1. About two minutes on two cores.

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
with none, ln and step.

A seed determines the images for training, validation and test, the initial
kernels and the batches. Every arm has its own learning rate: the one of five or
more from 0.001 to 0.1 that has the lowest validation loss with other seeds.
Batch norms are tested with running statistics of momentum 0.9 and with
re-estimated ones. The latter choose the rate, and claims are judged on them.

How fast a net trains is judged by its mean loss over all training steps, which
needs no choice of a target. Here every arm has the rate at which this is lowest
with other seeds: rates that are best for the validation loss differ by chance,
and half a decade changes the speed more than a norm.

Sources. Ba et al., 2016, https://arxiv.org/abs/1607.06450, section 3.1 for the
simple RNN, equations 20 to 22 for the LSTM, and the supplement for the GRU; in
sections 6.1 to 6.5, recurrent nets train faster with layer norm on five other
tasks. Cooijmans et al., 2016, https://arxiv.org/abs/1603.09025, section 3: the
statistics of the first steps differ from those of later ones, so each step has
its own; section 4: a gain of 0.1; section 5.1: an LSTM of 100 units that reads
MNIST pixel by pixel has a test accuracy of 98.9% without and 99.0% with batch
norm (90.2 and 95.4% if the pixels are permuted). Where variances are zero, they
add noise to the first state. `--scale=full` has this size.
"""

import functools

from experiments.lab import study, tuning
from experiments.lab.study import Run
from experiments.recurrent import drawing, judging, nets, task, training
from experiments.recurrent.options import CONFIRM, FULL, QUICK, Config
from experiments.recurrent.training import EQUAL, NORMS, Arm

SHOWN = ("none", "ln", "step")  # The norms in the other cells.


def measure(config: Config, run: Run) -> None:
  """Trains the arms; prints, judges and draws."""
  pool = run.load_pool(config.dataset, halved=config.halve)
  pool = task.read_by(pool, config.pixels)
  arms = [Arm(config.cell, norm) for norm in NORMS]
  if config.all_cells:
    others = [cell for cell in nets.CELLS if cell != config.cell]
    arms += [Arm(cell, norm) for cell in others for norm in SHOWN]
  train = functools.partial(training.on_rows, config, pool)
  best, fast = training.tuned(arms, train, config, run)
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
  by_norm = (
    training.by_norm(best, config.cell),
    training.by_norm(fast, config.cell),
  )
  judging.judge_rows(*by_norm, run)
  drawing.draw_rows(*by_norm, config, pool.name, run)


STUDY = study.Study(
  "recurrent",
  __doc__,
  measure,
  Config(study="rows"),
  judging.ON_ROWS,
  quick=QUICK,
  full=FULL,
  confirm=CONFIRM,
)
