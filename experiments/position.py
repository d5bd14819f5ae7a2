"""Batch norm before or after the activation.

    python -m experiments.position

An MLP 196-128-128-128-10 on images halved to 14x14, 24,000 of them for
training; Adam, batches of 64, two epochs; with ReLU, tanh and sigmoid; and
without batch norm, or with batch norm before or after each activation. Every
arm has the best learning rate of 0.001, 0.003 and 0.01, chosen by the training
loss of the last 200 steps. About two minutes on two cores.

Claims are judged on test errors in percent (running statistics), with paired
seeds.

Sources: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 3.2,
place it before; https://github.com/ducha-aiki/caffenet-benchmark (batchnorm.md)
measured CaffeNet at 47.1 % top-1 accuracy without, 47.4 % before, 49.9 % after,
but GoogLeNet at 61.9, 60.7 and 59.6 %.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax
from flax import linen as nn

from experiments.lab import figures, options, parsers, study
from experiments.lab.claims import Above, AllOf, Below, Claim
from experiments.lab.data.arrays import Images
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.statistics import (
  interval,
  paired_difference,
  shown,
)
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification

RATES = (1e-3, 3e-3, 1e-2)
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

RELU = Claim(
  "with ReLU, batch norm is better before the activation",
  source="Ioffe & Szegedy 2015",
  quantity="error before minus after",
  criterion=Below(0),
  unit="points",
  form="+.2f",
)
SIGMOID = Claim(
  "with sigmoid, batch norm is better after the activation",
  source="Ioffe & Szegedy 2015",
  quantity="error before minus after",
  criterion=Above(0),
  unit="points",
  form="+.2f",
)
DEPENDS = Claim(
  "the right place of batch norm depends on the activation",
  source="caffenet-benchmark",
  quantity="error before minus after",
  criterion=AllOf({"with ReLU": Below(0), "with sigmoid": Above(0)}),
  unit="points",
  form="+.2f",
)
CLAIMS = (RELU, SIGMOID, DEPENDS)

QUICK = {"seeds": 2, "examples": 6_400}
FULL = {"examples": 600_000, "train": 60_000, "halve": False}


@dataclasses.dataclass(frozen=True)
class Config(options.HalvedImageConfig):
  """The net, and how long to train."""

  hidden: tuple[int, ...] = option(
    (128, 128, 128), "Width of each hidden layer.", parsers.COUNTS
  )
  examples: int = option(48_000, "Examples per training.", parsers.COUNT)
  train: int = option(24_000, "Maximum number of images.", parsers.COUNT)


def train(activation: str, place: str, config: Config, images: Images) -> Parts:
  """Returns losses and test errors, `[rates, seeds]`."""
  norm, position = PLACES[place]
  model = MLP(
    norm=norm_factory(norm),
    norm_position=position,
    hidden=config.hidden,
    activation=ACTIVATIONS[activation],
  )
  engine, state, records = classification.train_at_rates(
    model,
    optax.adam,
    images,
    batch_size=64,
    seeds=config.seed_numbers,
    rates=RATES,
    steps=config.examples // 64,
  )
  return classification.results(
    engine,
    state,
    images,
    len(RATES),
    first=records.loss[:, :ENDS].mean(axis=1),
    last=records.loss[:, -ENDS:].mean(axis=1),
  )


def measure(config: Config, run: Run) -> None:
  """Trains the nine arms, prints, judges and draws."""
  images = run.load_images(
    config.dataset, train=config.train, halved=config.halve
  )
  arms, rows = {}, []
  for activation in ACTIVATIONS:
    for place in PLACES:
      part = run.part(
        f"{activation}_{place}",
        functools.partial(train, activation, place, config, images),
      )
      arm = classification.at_best_rate(part, "last", RATES)
      arms[activation, place] = arm
      rows.append(
        [activation, place, float(arm["rate"])]
        + [shown(arm[name], ".3f") for name in ("first", "last")]
        + [shown(arm[name], ".2f") for name in ("error", "reestimated")]
      )
  headers = ["activation", "batch norm", "best rate"]
  headers += [f"loss, first {ENDS}", f"loss, last {ENDS}"]
  headers += ["error (%)", "re-estimated (%)"]
  print(table(rows, headers))
  judge({arm: values["error"] for arm, values in arms.items()}, run)
  _draw(arms, config, images.name, run)


def judge(errors: Mapping[tuple[str, str], np.ndarray], run: Run) -> None:
  """Judges the claims; errors are `[seeds]`, by activation and place."""
  relu, sigmoid = (
    paired_difference(errors[activation, "before"], errors[activation, "after"])
    for activation in ("relu", "sigmoid")
  )
  run.judge(RELU, relu)
  run.judge(SIGMOID, sigmoid)
  run.judge(DEPENDS, {"with ReLU": relu, "with sigmoid": sigmoid})


def _draw(
  arms: Mapping[tuple[str, str], Parts], config: Config, data: str, run: Run
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
        found = [
          interval(arms[activation, place][quantity])
          for activation in ACTIVATIONS
        ]
        panel.bar(
          np.arange(len(ACTIVATIONS)) + 0.27 * (index - 1),
          [entry.mean for entry in found],
          0.25,
          yerr=np.nan_to_num([entry.half_width for entry in found]),
          color=figures.norm_color(norm),
          alpha=alpha,
          capsize=4,
          label="none" if place == "none" else f"bn {place}",
        )
    for panel, title, unit in (
      (axes[0], "Test error", "Error (%)"),
      (axes[1], f"Loss of the first {ENDS} steps", "Cross-entropy (nats)"),
    ):
      figures.label(panel, title, "Activation", unit)
      panel.set_xticks(range(len(ACTIVATIONS)), list(ACTIVATIONS))


if __name__ == "__main__":
  study.main("position", measure, Config(), CLAIMS, quick=QUICK, full=FULL)
