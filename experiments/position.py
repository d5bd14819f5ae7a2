"""Batch norm before or after the activation.

    python -m experiments.position

An MLP 196-128-128-128-10 on images halved to 14x14; Adam, batches of 64, 48,000
examples per training; with ReLU, tanh and sigmoid; and without batch norm, or
with batch norm before or after each activation. About four minutes on two
cores.

A seed determines which images are for training (at most 24,000), validation and
test, the initial weights and the order of the images. Every arm is trained at
its best learning rate: the one of five or more from 0.0003 to 0.03 that has the
lowest validation loss with other seeds. Claims are judged on test errors in
percent (running statistics), with paired seeds.

The claims are ours, because no source that we know measures these nets. Ioffe &
Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 3.2, argue for the
place before the activation, without an experiment. caffenet-benchmark,
https://github.com/ducha-aiki/caffenet-benchmark (batchnorm.md), measures both
places with ReLU, in one run each, and its two nets disagree: the top-1 accuracy
of CaffeNet is 47.1% without, 47.4% before and 49.9% after, that of GoogLeNet
61.9, 60.3 and 59.6%.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

from experiments.lab import figures, options, parsers, study, tuning
from experiments.lab.claims import Claim, Difference, Effect
from experiments.lab.data.arrays import Pool
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification

RATES = tuning.half_decades(-7, -3)
PLACES: Mapping[str, tuple[str, str]] = {
  "none": ("none", "before"),
  "before": ("bn", "before"),
  "after": ("bn", "after"),
}
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "relu": nn.relu,
  "tanh": nn.tanh,
  "sigmoid": nn.sigmoid,
}
ENDS = 200  # The loss of this many first and last steps is printed.

_POINTS: Mapping[str, Any] = {
  "source": "ours, from a pilot",
  "analysis": Difference(),
  "unit": "points",
  "form": "+.2f",
  "pilot": "which place is better with which activation, from seeds 0 to 4 on"
  " MNIST with three rates",
}
_WHY = "what batch norm before ReLU gives CaffeNet in caffenet-benchmark"
RELU = Claim(
  "relu_before",
  "with ReLU, an MLP errs at least {margin} points less with batch norm before"
  " than after the activation",
  quantity="test error",
  samples=("before, ReLU", "after, ReLU"),
  criterion=Effect(-0.3),
  why=_WHY,
  spread=0.52,
  **_POINTS,
)
SIGMOID = Claim(
  "sigmoid_after",
  "with sigmoid, an MLP errs at least {margin} points less with batch norm"
  " after than before the activation",
  quantity="test error",
  samples=("after, sigmoid", "before, sigmoid"),
  criterion=Effect(-0.3),
  why=_WHY,
  spread=0.84,
  **_POINTS,
)
DEPENDS = Claim(
  "place_depends",
  "batch norm after instead of before the activation costs an MLP at least"
  " {margin} points more with ReLU than with sigmoid",
  quantity="test error after minus before",
  samples=("ReLU", "sigmoid"),
  criterion=Effect(0.6),
  why="the sum of the two other margins",
  spread=1.3,
  **_POINTS,
)
CLAIMS = (RELU, SIGMOID, DEPENDS)


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The net, and how long to train."""

  activation: tuple[str, ...] = option(
    (*ACTIVATIONS,),
    "Activations. The claims need relu and sigmoid.",
    parsers.NamesParser([*ACTIVATIONS]),
  )
  hidden: tuple[int, ...] = option(
    (128, 128, 128), "Width of each hidden layer.", parsers.COUNTS
  )
  examples: int = option(48_000, "Examples per training.", parsers.COUNT)
  train: int = option(24_000, "Maximum number of images.", parsers.COUNT)


Arm = tuple[str, str]  # Activation, place.


def train(
  arm: Arm,
  config: Config,
  pool: Pool,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  """Returns losses and test errors, `[rates, seeds]`."""
  activation, place = arm
  norm, position = PLACES[place]
  model = MLP(
    norm=norm_factory(norm),
    norm_position=position,
    hidden=config.hidden,
    activation=ACTIVATIONS[activation],
  )
  images = pool.split(seeds, len(rates))
  engine, state, records = classification.train_at_rates(
    model,
    optax.adam,
    images,
    batch_size=64,
    seeds=seeds,
    rates=rates,
    steps=config.examples // 64,
    gain=config.gain,
  )
  return classification.results(
    engine,
    state,
    images,
    len(rates),
    first=records.loss[:, :ENDS].mean(axis=1),
    last=records.loss[:, -ENDS:].mean(axis=1),
  )


def measure(config: Config, run: Run) -> None:
  """Trains every activation with every place, prints, judges and draws."""
  pool = run.load_pool(config.dataset, train=config.train, halved=config.halve)
  arms: dict[Arm, Parts] = {}
  for activation in config.activation:
    for place in PLACES:
      arm = activation, place
      part = functools.partial(train, arm, config, pool)
      arms[arm] = tuning.tuned(run, "_".join(arm), part, RATES, config)
  _show(arms)
  if {"relu", "sigmoid"} <= {*config.activation}:
    judge({arm: values["error"] for arm, values in arms.items()}, run)
  _draw(arms, config, pool.name, run)


def _show(arms: Mapping[Arm, Parts]) -> None:
  """Prints the results of every arm."""
  rows = [
    [activation, place, f"{arm['rate']:.2g}"]
    + [shown(arm[name], ".3f") for name in ("first", "last")]
    + [shown(arm[name], ".2f") for name in ("error", "reestimated")]
    for (activation, place), arm in arms.items()
  ]
  headers = ["activation", "batch norm", "best rate"]
  headers += [f"loss, first {ENDS}", f"loss, last {ENDS}"]
  headers += ["error (%)", "re-estimated (%)"]
  print(table(rows, headers))


def judge(errors: Mapping[Arm, np.ndarray], run: Run) -> None:
  """Judges the claims; errors are `[seeds]`, by activation and place."""
  places = "before", "after"
  relu, sigmoid = (
    [errors[activation, place] for place in places]
    for activation in ("relu", "sigmoid")
  )
  run.judge(RELU, *relu)
  run.judge(SIGMOID, *reversed(sigmoid))
  run.judge(DEPENDS, *(after - before for before, after in (relu, sigmoid)))


def _draw(
  arms: Mapping[Arm, Parts], config: Config, data: str, run: Run
) -> None:
  styles = {"none": ("none", 1.0), "before": ("bn", 1.0), "after": ("bn", 0.45)}
  with figures.drawing(
    run,
    "position",
    title=f"Batch norm before or after the activation, {data}",
    caption=f"Mean of {config.seeds} seeds, bars: 95% interval; each at its"
    " best learning rate",
  ) as axes:
    for panel, quantity in zip(axes, ("error", "first"), strict=True):
      for index, (place, (norm, alpha)) in enumerate(styles.items()):
        name = "none" if place == "none" else f"bn {place}"
        for x, activation in enumerate(config.activation):
          figures.bar(
            panel,
            x + 0.27 * (index - 1),
            arms[activation, place][quantity],
            norm,
            width=0.25,
            alpha=alpha,
            name=name,
          )
    for panel, title, unit in (
      (axes[0], "Test error", "Error (%)"),
      (axes[1], f"Loss of the first {ENDS} steps", "Cross-entropy (nats)"),
    ):
      figures.label(panel, title, "Activation", unit)
      panel.set_xticks(range(len(config.activation)), config.activation)


STUDY = study.Study(
  "position",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "examples": 3_200,
    "hidden": (32, 32),
    "activation": ("relu", "sigmoid"),
  },
  full={"examples": 600_000, "train": 60_000, "halve": False},
  confirm={"seed": 100, "seeds": 20},
  demonstration="no source makes its claims, which come from a pilot",
)

if __name__ == "__main__":
  study.main(STUDY)
