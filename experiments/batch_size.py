"""How the batch size affects batch norm, but not group norm and layer norm.

    python -m experiments.batch_size

An MLP 196-128-128-10 on halved MNIST images, trained by SGD with learning rate
r B / 32 on the same 12,800 examples for every batch size B from 128 down to 1;
batch norm cannot train with B = 1. For every norm and B, r is the best of 0.03,
0.1, 0.3 and 1 by the training loss of the last fifth. About two minutes on two
cores.

Claims are judged on test errors in percent, with paired seeds.

The control is --model=cnn: its statistics are over positions too, so the effect
should disappear.

Source: Wu & He, 2018, https://arxiv.org/abs/1803.08494, figure 1 and table 2:
ResNet-50 on ImageNet, 23.6 / 24.1 % (batch / group norm) at B = 32 and 34.7 /
24.1 % at B = 2.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from experiments.lab import figures, options, parsers, study
from experiments.lab.claims import Above, Below, Claim, Within
from experiments.lab.data.arrays import Images
from experiments.lab.models.nets import MODELS
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.statistics import paired_difference, shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification

RATES = (0.03, 0.1, 0.3, 1.0)  # At a batch of 32.

_POINTS = {"source": "Wu & He 2018", "unit": "points", "form": "+.2f"}
WORSE = Claim(
  "at batch 2, batch norm ({how} statistics) is worse than group norm",
  quantity="error minus that of gn",
  criterion=Above(5),
  **_POINTS,
)
NO_WORSE = Claim(
  "at batch 32, batch norm is no worse than group norm",
  quantity="error minus that of gn",
  criterion=Below(0.5),
  **_POINTS,
)
SAME = Claim(
  "group norm at batch {size} is as good as at batch 8",
  quantity="error minus that at batch 8",
  criterion=Within(1),
  **_POINTS,
)
CLAIMS = (WORSE, NO_WORSE, SAME)

QUICK = {"seeds": 2, "examples": 640}
FULL = {"examples": 600_000, "halve": False}


@dataclasses.dataclass(frozen=True)
class Config(options.HalvedImageConfig):
  """The arms, and how long each trains."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "gn", "ln"), "The norms to train.", parsers.NORMS
  )
  batch_sizes: tuple[int, ...] = option(
    (1, 2, 4, 8, 32, 128), "Batch sizes.", parsers.COUNTS
  )
  examples: int = option(12_800, "Examples per training.", parsers.COUNT)
  model: str = option("mlp", "mlp or cnn.", parsers.one_of(tuple(MODELS)))
  hidden: tuple[int, ...] = option(
    (128, 128), "Width of each hidden layer.", parsers.COUNTS
  )


def train(norm: str, batch_size: int, config: Config, images: Images) -> Parts:
  """Returns training loss and test errors, `[rates, seeds]`."""
  model = MODELS[config.model](norm=norm_factory(norm), hidden=config.hidden)
  rates = [rate * batch_size / 32 for rate in RATES]
  steps = config.examples // batch_size
  engine, state, records = classification.train_at_rates(
    model,
    optax.sgd,
    images,
    batch_size=batch_size,
    seeds=config.seed_numbers,
    rates=rates,
    steps=steps,
  )
  loss = records.loss[:, -max(1, steps // 5) :].mean(axis=1)
  return classification.results(engine, state, images, len(rates), loss=loss)


def best(part: Parts) -> Parts:
  """Returns the results `[seeds]` at the rate with the lowest mean loss."""
  return classification.at_best_rate(part, "loss", RATES)


def measure(config: Config, run: Run) -> None:
  """Trains the grid, prints, judges and draws."""
  images = run.load_images(config.dataset, halved=config.halve)
  arms: dict[tuple[str, int], Parts] = {}
  for norm in config.norm:
    for size in config.batch_sizes:
      if norm == "bn" and size == 1:
        continue  # The variance of one value is zero.
      part = functools.partial(train, norm, size, config, images)
      arms[norm, size] = best(run.part(f"{norm}_{size}", part))
  rows = []
  for name, quantity in (
    ("test error (%)", "error"),
    ("re-estimated (%)", "reestimated"),
    ("training loss", "loss"),
    ("best rate at 32", "rate"),
  ):
    for norm in config.norm:
      if quantity == "reestimated" and norm != "bn":
        continue
      cells: list[object] = []
      for size in config.batch_sizes:
        arm = arms.get((norm, size))
        if arm is None:
          cells.append(None)
        elif quantity == "rate":
          cells.append(float(arm["rate"]))
        else:
          digits = 3 if quantity == "loss" else 2
          cells.append(shown(arm[quantity], f".{digits}f"))
      rows.append([norm, name, *cells])
  headers = ["norm", "", *(f"B = {size}" for size in config.batch_sizes)]
  print(table(rows, headers))
  judge(arms, run)
  _draw(arms, config, images.name, run)


def judge(arms: Mapping[tuple[str, int], Parts], run: Run) -> None:
  """Judges the claims whose arms were trained."""

  def compare(
    claim: Claim,
    arm: tuple[str, int],
    other: tuple[str, int],
    quantity: str = "error",
    **settings: Any,
  ) -> None:
    if arm in arms and other in arms:
      values, baseline = arms[arm][quantity], arms[other]["error"]
      run.judge(claim, paired_difference(values, baseline), **settings)

  for quantity, how in (("error", "running"), ("reestimated", "re-estimated")):
    compare(WORSE, ("bn", 2), ("gn", 2), quantity, how=how)
  compare(NO_WORSE, ("bn", 32), ("gn", 32))
  for size in (2, 1):
    compare(SAME, ("gn", size), ("gn", 8), size=size)


def _draw(
  arms: Mapping[tuple[str, int], Parts], config: Config, data: str, run: Run
) -> None:
  with figures.drawing(
    run,
    "batch_size",
    title=f"Batch size, {data}: {config.examples:,} examples for every arm",
    caption=f"{figures.seeds_caption(config.seeds)}; each point at its best"
    " learning rate",
  ) as axes:
    for panel, quantity in zip(axes, ("error", "loss"), strict=True):
      for norm in config.norm:
        sizes = [size for name, size in arms if name == norm]
        values = np.transpose([arms[norm, size][quantity] for size in sizes])
        figures.curve(panel, sizes, values, norm, geometric=True)
        if norm == "bn" and quantity == "error":
          again = [arms[norm, size]["reestimated"] for size in sizes]
          figures.curve(
            panel,
            sizes,
            np.transpose(again),
            norm,
            name="bn, re-estimated",
            style=":",
            geometric=True,
          )
      panel.set_xscale("log", base=2)
      panel.set_xticks(config.batch_sizes, map(str, config.batch_sizes))
    figures.label(
      axes[0], "Test error", "Batch size (examples)", "Error (%)", log_y=True
    )
    figures.label(
      axes[1],
      "Training loss, last fifth",
      "Batch size (examples)",
      "Cross-entropy (nats)",
      log_y=True,
    )


if __name__ == "__main__":
  study.main("batch_size", measure, Config(), CLAIMS, quick=QUICK, full=FULL)
