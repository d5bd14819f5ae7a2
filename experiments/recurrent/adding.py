"""The adding problem: sequences with padding, and longer ones in the test.

    python -m experiments.recurrent --study=adding

A net reads 8 to 16 random numbers from 0 to 1, of which two are marked, and
answers with the sum of these two. A mask tells the padding of the shorter
sequences. 600 batches of 64. A net that always answers 1 has a root mean square
error of 0.41. Cells, norms, the choice of learning rates and the measure of
speed are as on rows. About one minute on two cores.

A seed determines the initial kernels and the batches; the test is the same for
all.

Longer sequences are of twice the longest length in training. There, batch norm
has no statistics for the later steps. "step" goes on with those of the last
step that was trained. Shown are also "step: initial", with mean 0 and variance
1 for later steps, and "step: test batch", with the statistics of the 500
sequences of the test.

Sources. The problem is a variant of that of Hochreiter & Schmidhuber, 1997,
section 5.4, https://doi.org/10.1162/neco.1997.9.8.1735. Ba et al., 2016,
section 3.1: statistics of each step are a problem where the test has longer
sequences than the training, and layer norm has none. Cooijmans et al., 2016,
section 3: later steps use the statistics of the last trained one.
"""

import functools

from experiments.lab import study
from experiments.lab.study import Run
from experiments.recurrent import checks, drawing, judging, training
from experiments.recurrent.options import CONFIRM, FULL, QUICK, Config
from experiments.recurrent.training import NORMS, Arm


def measure(config: Config, run: Run) -> None:
  """Checks the nets and trains the arms; prints, judges and draws."""
  run.check(judging.ALONE, checks.alone(config, "ln"))
  print(f"The same with batch norm: {checks.alone(config, 'step'):.2g}")
  run.check(judging.PADDING, checks.padding(config, "step"))
  arms = [Arm(config.cell, norm) for norm in NORMS]
  train = functools.partial(training.on_sums, config)
  best, fast = training.tuned(arms, train, config, run)
  by_norm = (
    training.by_norm(best, config.cell),
    training.by_norm(fast, config.cell),
  )
  drawing.show_sums(*by_norm, config)
  judging.judge_sums(*by_norm, run)
  drawing.draw_sums(*by_norm, config, run)


STUDY = study.Study(
  "recurrent",
  __doc__,
  measure,
  Config(study="adding"),
  judging.ON_SUMS,
  judging.CHECKS,
  quick=QUICK,
  full=FULL,
  confirm=CONFIRM,
)
