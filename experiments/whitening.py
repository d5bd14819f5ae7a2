"""What whitening adds to batch norm: loss, correlations, conditioning.

    python -m experiments.whitening

An MLP 196-64-64-64-10 with ReLU on images halved to 14x14; SGD without
momentum, 300 steps of 256 examples; without a norm, with batch norm (bn), and
with two norms that whiten groups of 16 features over the batch: dbn by the
inverse root of the covariance, iternorm by five steps of Newton's method
towards it. It shows whether the better conditioning that whitening is for
lowers the loss, and what it costs. About two minutes on two cores.

A seed determines which images are for training (at most 24,000), validation and
test, the initial weights and the order of the images. Every arm is trained at
its best learning rate: the one of seven or more from 0.1 to 3 with the lowest
mean training loss on other seeds. It is the training loss, because the claims
are about optimization.

Judged with paired seeds are the mean training loss of all steps, and what a
batch of 1,000 training images (of the digits, all) shows after the training,
with the norms in training mode: the mean |correlation| of two features of a
group before and after a norm, and the condition number of the covariance of the
next layer's input, which is the norm's output after ReLU. Both are means over
the layers, condition numbers as logarithms. A feature that never varies would
make a condition number infinite; it is at most a million.

Time is measured and drawn, but not judged: it is that of a single process, on a
machine that may be busy.

Sources: Huang et al., 2018, https://arxiv.org/abs/1804.08450, section 4.1,
train such MLPs on photographs of faces. In their curves, dbn lowers the
training loss faster than bn, and improves the condition number of the Fisher
information matrix of the last layer, of which the covariance of the layer's
input is a factor. Batches of 256 and groups of 16 are those of their code.
Huang et al., 2019, https://arxiv.org/abs/1904.03441: iternorm whitens in part,
in less time, and trains better than bn and no worse than dbn.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from absl import flags

from experiments.lab import (
  figures,
  options,
  parsers,
  study,
  timing,
  tuning,
)
from experiments.lab.claims import Below, Check, Claim, Effect, Ratio
from experiments.lab.data.arrays import Pool
from experiments.lab.data.batch import Batch, Choice
from experiments.lab.errors import RefusedError
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.probes import covariance
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification, lanes, losses
from experiments.lab.training.engine import Engine
from experiments.lab.training.step import TrainState

# Closer than in other studies, because the margin is a tenth.
RATES = tuple(10.0 ** (np.arange(-4, 3) / 4))
NORMS = ("none", "bn", "dbn", "iternorm")
WHITENING = ("dbn", "iternorm")
LAST = 50  # The loss of this many last steps is printed.
TURNS = 5  # Of the timing; the fastest counts.
PROBE = 1000  # Images of the batch that is looked at after the training.

_2018, _2019 = "Huang et al. 2018", "Huang et al. 2019"
_PILOT = (
  "steps, widths and how close the rates are, from seeds 0 to 2 on the digits"
  " and MNIST"
)
_LOSS: Mapping[str, Any] = {
  "quantity": "mean training loss",
  "analysis": Ratio(cap=losses.guessing(10)),
  "why": "a tenth is about what one sees in a plotted curve",
  "form": ".3f",
  "pilot": f"{_PILOT}. bn had the lowest loss on both at rates a factor of 1.8"
  " apart, iternorm on the digits at rates a factor of 3.2 apart. A geometric"
  " mean over the steps was tried and left: on the digits dbn had 0.6 times the"
  " loss of bn in it, but it chose rates close to divergence",
}
FASTER = {
  norm: Claim(
    f"{norm}_faster",
    f"per step, {norm} trains faster than bn: its mean training loss is below"
    " {margin} times that of bn",
    source=source,
    samples=(norm, "bn"),
    criterion=Effect(0.9, none=1),
    spread=spread,
    headline=norm == "dbn",
    **_LOSS,
  )
  for norm, source, spread in (
    ("dbn", f"{_2018}, section 4.1, curves without a number", 0.080),
    ("iternorm", f"{_2019}, of convolutional nets", 0.053),
  )
}
LIKE_DBN = Claim(
  "iternorm_like_dbn",
  "per step, iternorm trains no slower than dbn: its mean training loss is"
  " below {margin} times that of dbn",
  source=f"{_2019}, of convolutional nets",
  samples=("iternorm", "dbn"),
  criterion=Below(1.1),
  spread=0.027,
  **_LOSS,
)
CONDITIONS = {
  norm: Claim(
    f"{norm}_conditions",
    f"with {norm}, the covariance of a layer's input has a condition number"
    f" below {{margin}} times that {without}",
    source=f"{_2018}, section 4.1, of a Fisher information matrix",
    quantity="condition number of the covariance of a layer's input",
    samples=(norm, other),
    analysis=Ratio(),
    criterion=Effect(0.5, none=1),
    why="ours: the steps of gradient descent on a quadratic function are"
    " proportional to the condition number, and half as many would matter",
    form=".3g",
    spread=spread,
    headline=norm == "dbn",
    pilot=_PILOT,
  )
  for norm, other, without, spread in (
    ("dbn", "bn", "with bn", 0.10),
    ("bn", "none", "without a norm", 1.2),
  )
}
DECORRELATES = Claim(
  "iternorm_decorrelates",
  "iternorm leaves less than {margin} times the correlation of features of the"
  " same group",
  source=f"{_2019}, section 3, without a number",
  quantity="mean |correlation| within groups",
  samples=("after iternorm", "before"),
  analysis=Ratio(),
  criterion=Effect(0.5, none=1),
  why="ours: it then removes more than it leaves",
  form=".3f",
  spread=0.052,
  pilot=_PILOT,
)
CLAIMS = (*FASTER.values(), LIKE_DBN, *CONDITIONS.values(), DECORRELATES)
WHITENED = Check(
  "whitened",
  "after dbn, features of a group are not correlated",
  source=f"{_2018}, algorithm 1",
  quantity="largest mean absolute correlation of a seed",
  criterion=Below(1e-3),
)
KEPT = Check(
  "kept",
  "bn leaves correlations as they are",
  source="ours: correlations do not depend on means and scales",
  quantity="largest change of the mean absolute correlation of a seed",
  criterion=Below(1e-5),
)
CHECKS = (WHITENED, KEPT)


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The net, and how long to train."""

  group_size: int = option(
    16,
    "Adjacent features that dbn and iternorm whiten together; divides the"
    " widths of the hidden layers.",
    flags.IntegerParser(lower_bound=2),
  )
  hidden: tuple[int, ...] = option(
    (64, 64, 64), "Width of each hidden layer.", parsers.COUNTS
  )
  batch_size: int = option(
    256,
    "Examples in a step, several times as many as --group_size.",
    parsers.COUNT,
  )
  steps: int = option(300, "Training steps.", parsers.COUNT)
  train: int = option(24_000, "Maximum number of images.", parsers.COUNT)


def network(norm: str, config: Config) -> MLP:
  """Returns the net with a norm, which whitens groups if it whitens."""
  groups = {"num_groups": None, "group_size": config.group_size}
  factory = norm_factory(norm, **(groups if norm in WHITENING else {}))
  return MLP(norm=factory, hidden=config.hidden)


def train(
  norm: str,
  config: Config,
  pool: Pool,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  """Returns the losses `[rates, seeds, steps]`, and results `[rates, seeds]`.

  Returns:
    "loss", its mean "mean_loss", and that of the last steps, "last_loss";
    "error", the test error in percent; and those of `covariance.of_norms`.
  """
  images = pool.split(seeds, len(rates))
  model = network(norm, config)
  engine, state, records = classification.train_at_rates(
    model,
    optax.sgd,
    images,
    batch_size=config.batch_size,
    seeds=seeds,
    rates=rates,
    steps=config.steps,
    gain=config.gain,
  )

  def look(variables: Any, own: Choice, pool: Batch) -> dict[str, jax.Array]:
    inputs = images.prepare(own.of(pool).inputs)
    return covariance.of_norms(model, variables, inputs, config.group_size)

  some = images.train.first(PROBE)
  compiled = engine.compiled(look, in_axes=(0, 0, None))
  found = {
    "loss": records.loss,
    "mean_loss": records.loss.mean(axis=1),
    "last_loss": records.loss[:, -LAST:].mean(axis=1),
    "error": classification.error(engine, state.variables, images.test),
    **compiled(state.variables, some.choice, some.pool),
  }
  return lanes.by_rate(found, len(rates))


def seconds_per_step(
  rates: Mapping[str, float], config: Config, pool: Pool
) -> Parts:
  """Times the training of a single seed at the rate of every arm."""
  trainings = {
    norm: classification.at_rates(
      network(norm, config),
      optax.sgd,
      pool.split([config.seed]),
      batch_size=config.batch_size,
      seeds=[config.seed],
      rates=[rate],
    )
    for norm, rate in rates.items()
  }
  turns = {
    norm: _turn(engine, state, config.steps)
    for norm, (engine, state) in trainings.items()
  }
  samples = timing.interleaved(turns, seconds=0.0, rounds=TURNS)
  return {
    norm: np.asarray(min(seconds) / config.steps)
    for norm, seconds in samples.items()
  }


def _turn(engine: Engine, state: TrainState, steps: int) -> timing.Run:
  """Returns a program that goes on with a training, `steps` in a turn."""

  def run(turns: int) -> None:
    nonlocal state
    for _ in range(turns):
      state, _ = engine.train(state, steps)
    jax.block_until_ready(state.variables)

  return run


def measure(config: Config, run: Run) -> None:
  """Trains every arm, prints, judges and draws."""
  if any(width % config.group_size for width in config.hidden):
    raise RefusedError(
      f"Groups of {config.group_size} features do not divide layers of"
      f" {', '.join(map(str, config.hidden))}; use --hidden with multiples of"
      " --group_size."
    )
  pool = run.load_pool(config.dataset, train=config.train, halved=config.halve)
  arms = {
    norm: tuning.tuned(
      run,
      norm,
      functools.partial(train, norm, config, pool),
      RATES,
      config,
      by="mean_loss",
    )
    for norm in NORMS
  }
  rates = {norm: float(arm["rate"]) for norm, arm in arms.items()}
  seconds = run.part(
    "seconds", functools.partial(seconds_per_step, rates, config, pool)
  )
  _show(arms, seconds)
  judge(arms, run)
  _draw(arms, seconds, config, pool.name, run)


def _show(arms: Mapping[str, Parts], seconds: Parts) -> None:
  """Prints the results of every arm."""
  rows = [
    [
      norm,
      f"{arm['rate']:.2g}",
      shown(arm["mean_loss"], ".4f"),
      shown(arm["last_loss"], ".4f"),
      shown(arm["error"], ".2f"),
      shown(arm["before"], ".3f"),
      shown(arm["after"], ".3f"),
      shown(np.log10(arm["condition"]), ".2f"),
      f"{1000 * seconds[norm]:.2f}",
    ]
    for norm, arm in arms.items()
  ]
  headers = ["norm", "best rate", "mean loss", f"loss, last {LAST}"]
  headers += ["test error (%)", "correlation before", "after"]
  headers += ["log10 condition number", "ms per step (not judged)"]
  print(table(rows, headers))


def judge(arms: Mapping[str, Parts], run: Run) -> None:
  """Judges the claims, and checks."""
  for claims, quantity in (
    ((*FASTER.values(), LIKE_DBN), "mean_loss"),
    (CONDITIONS.values(), "condition"),
  ):
    for claim in claims:
      run.judge(claim, *(arms[norm][quantity] for norm in claim.samples))
  iternorm, bn = arms["iternorm"], arms["bn"]
  run.judge(DECORRELATES, iternorm["after"], iternorm["before"])
  run.check(WHITENED, arms["dbn"]["after"].max())
  run.check(KEPT, np.abs(bn["after"] - bn["before"]).max())


def _draw(
  arms: Mapping[str, Parts],
  seconds: Parts,
  config: Config,
  data: str,
  run: Run,
) -> None:
  # Averages over steps, because the loss of a single batch is noisy.
  count = min(50, config.steps)
  window = config.steps // count
  steps = window * (np.arange(count) + 0.5)
  with figures.drawing(
    run,
    "whitening",
    rows=2,
    title=f"Whitening, {data}",
    caption=f"Mean of {config.seeds} seeds, bands and bars: 95% interval; each"
    " at its best rate. Seconds are of one process, and not judged",
  ) as (per_step, per_second, correlations, conditions):
    for index, (norm, arm) in enumerate(arms.items()):
      loss = arm["loss"][:, : count * window]
      loss = loss.reshape(-1, count, window).mean(axis=2)
      figures.curve(per_step, steps, loss, norm, geometric=True)
      figures.curve(
        per_second, steps * seconds[norm], loss, norm, geometric=True
      )
      for offset, name, alpha in ((-0.2, "before", 0.4), (0.2, "after", 1.0)):
        figures.bar(
          correlations, index + offset, arm[name], norm, width=0.38, alpha=alpha
        )
      condition = np.log10(arm["condition"])
      figures.bar(conditions, index, condition, norm, width=0.6)
    for panel, title, x, y in (
      (per_step, "Loss per step", "Step", "Cross-entropy (nats)"),
      (per_second, "Loss per second", "Seconds", "Cross-entropy (nats)"),
      (
        correlations,
        f"Groups of {config.group_size}, before (pale) and after",
        "Norm",
        "Mean |correlation|",
      ),
      (conditions, "Input of the next layer", "Norm", "log10 condition number"),
    ):
      figures.label(panel, title, x, y, log_y=panel in (per_step, per_second))
    for panel in (correlations, conditions):
      panel.set_xticks(range(len(arms)), arms)


STUDY = study.Study(
  "whitening",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  CHECKS,
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "steps": 30,
    "hidden": (32, 32),
    "batch_size": 128,
  },
  full={"steps": 3000, "train": 60_000, "halve": False},
  confirm={"seed": 100, "seeds": 20},
  sensitivity={
    "rate_factor": (10**-0.5, 10**0.5),
    "gain": (0.5, 2.0),
    "batch_size": (128, 1024),
    "group_size": (4, 32),
    "steps": (150, 600),
    "hidden": ((32, 32, 32), (128, 128, 128)),
  },
)

if __name__ == "__main__":
  study.main(STUDY)
