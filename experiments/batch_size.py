"""What the batch size does to batch norm, and not to group and layer norm.

    python -m experiments.batch_size

196-128-128-10 on halved MNIST images, SGD with learning rate r B / 32, the
same 12,800 examples for every batch size B from 128 down to 1, one example at
a time, which batch norm cannot train with. Every arm has its best r of 0.03,
0.1, 0.3, 1 at every B, chosen by the training loss of the last fifth. About two
minutes on two cores.

Claims, tested on test errors in percent with seeds paired:
  1. At B = 2 batch norm is more than 5 points worse than group norm, with
     running statistics, and
  2. with statistics re-estimated over the training set too.
  3. At B = 32 batch norm is no worse than group norm: by less than 0.5 points.
  4. Group norm does not mind: error at B = 2 within 1 point of that at B = 8,
  5. and one example at a time within 1 point of that at B = 8.
Each is CONFIRMED or REFUTED where the whole 95% interval is on one side.

With --model=cnn, whose statistics are over positions too, the effect should be
gone: that is the control.

Source: Wu & He, 2018, https://arxiv.org/abs/1803.08494, figure 1 and table 2:
ResNet-50 on ImageNet, 23.6 / 24.1 % (batch / group norm) at B = 32 and 34.7 /
24.1 % at B = 2.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
import optax

from experiments.lab import panels, reporting, study
from experiments.lab.models import MODELS
from experiments.lab.reporting import paired_difference
from experiments.lab.study import Parts, Run, option
from experiments.lab.sweep import (
  Images,
  Sweep,
  best_rate,
  load_images,
  norm_factory,
)

RATES = (0.03, 0.1, 0.3, 1.0)  # At a batch of 32.
SOURCE = "Wu & He 2018"
WORSE_BY, NO_WORSE_BY, SAME_WITHIN = 5.0, 0.5, 1.0  # Points.


@dataclasses.dataclass(frozen=True)
class Config(study.HalvedImageConfig):
  """The arms and how much each sees."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "gn", "ln"), "The norms to train.", study.NORMS
  )
  batch_sizes: tuple[int, ...] = option(
    (1, 2, 4, 8, 32, 128), "Examples in a step.", study.COUNTS
  )
  examples: int = option(12_800, "Examples to train on in all.", study.COUNT)
  model: str = option("mlp", "mlp or cnn.", study.one_of(tuple(MODELS)))
  hidden: tuple[int, ...] = option(
    (128, 128), "Width of each hidden layer.", study.COUNTS
  )


def train(norm: str, batch_size: int, config: Config, images: Images) -> Parts:
  """Returns training loss and test errors, `[rates, seeds]`."""
  model = MODELS[config.model](norm=norm_factory(norm), hidden=config.hidden)
  sweep = Sweep(model, optax.sgd, prepare=images.prepare, batch_size=batch_size)
  rates = [rate * batch_size / 32 for rate in RATES]
  state = sweep.start(config.seed_numbers, rates, images.train.inputs)
  steps = config.examples // batch_size
  orders = sweep.orders(state, images.train, steps)
  state, records = sweep.advance(state, orders, images.train)
  statistics = sweep.reestimated(state, images.train)
  shape = len(rates), config.seeds
  last = records["loss"][:, -max(1, steps // 5) :]
  return {
    "loss": last.mean(axis=1).reshape(shape),
    "error": sweep.error(state, images.test).reshape(shape),
    "reestimated": sweep.error(state, images.test, statistics).reshape(shape),
  }


def best(part: Parts) -> Parts:
  """Returns the rate with the lowest mean training loss, each `[seeds]`."""
  rate = best_rate(part["loss"])
  chosen = {name: values[rate] for name, values in part.items()}
  return chosen | {"rate": np.asarray(RATES[rate])}


def measure(config: Config, run: Run) -> None:
  """Trains the grid, prints, judges and draws."""
  images = load_images(run, config.dataset, halved=config.halve)
  arms: dict[tuple[str, int], Parts] = {}
  for norm in config.norm:
    for size in config.batch_sizes:
      if norm == "bn" and size == 1:
        continue  # One value per channel has no variance.
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
          cells.append(f"{_interval(arm[quantity]):.{digits}f}")
      rows.append([norm, name, *cells])
  headers = ["norm", "", *(f"B = {size}" for size in config.batch_sizes)]
  print(reporting.table(rows, headers))
  judge(arms, run)
  _draw(arms, config, images.name, run)


def _interval(values: np.ndarray) -> reporting.Interval:
  if not np.isfinite(values).all():
    return reporting.Interval(np.nan, np.nan)
  return reporting.interval(values)


def judge(arms: Mapping[tuple[str, int], Parts], run: Run) -> None:
  """Judges the claims whose arms were trained."""

  def compare(
    arm: tuple[str, int], other: tuple[str, int], quantity: str = "error"
  ) -> reporting.Interval | None:
    if arm not in arms or other not in arms:
      return None
    return paired_difference(arms[arm][quantity], arms[other]["error"])

  def say(
    claim: str,
    difference: reporting.Interval | None,
    verdict: Callable[[reporting.Interval], reporting.Verdict],
    criterion: str,
  ) -> None:
    if difference is not None:
      run.judge(
        claim,
        f"{difference:+.2f} points",
        verdict(difference),
        criterion=criterion,
        source=SOURCE,
      )

  worse = functools.partial(reporting.verdict_above, threshold=WORSE_BY)
  for quantity, how in (
    ("error", "running"),
    ("reestimated", "re-estimated"),
  ):
    say(
      f"at batch 2, batch norm ({how} statistics) is worse than group norm",
      compare(("bn", 2), ("gn", 2), quantity),
      worse,
      "error above that of gn by more than 5 points",
    )
  say(
    "at batch 32, batch norm is no worse than group norm",
    compare(("bn", 32), ("gn", 32)),
    functools.partial(reporting.verdict_below, threshold=NO_WORSE_BY),
    "error above that of gn by less than 0.5 points",
  )
  for size in (2, 1):
    say(
      f"group norm at batch {size} is as good as at batch 8",
      compare(("gn", size), ("gn", 8)),
      functools.partial(reporting.verdict_within, margin=SAME_WITHIN),
      "errors within 1 point",
    )


def _draw(
  arms: Mapping[tuple[str, int], Parts], config: Config, data: str, run: Run
) -> None:
  with panels.drawing(
    run,
    "batch_size",
    title=f"Batch size, {data}: {config.examples:,} examples for every arm",
    caption=f"{panels.seeds_caption(config.seeds)}; each point at its best"
    " learning rate",
  ) as axes:
    for panel, quantity in zip(axes, ("error", "loss"), strict=True):
      for norm in config.norm:
        sizes = [size for name, size in arms if name == norm]
        values = np.transpose([arms[norm, size][quantity] for size in sizes])
        panels.curve(panel, sizes, values, norm, geometric=True)
        if norm == "bn" and quantity == "error":
          again = [arms[norm, size]["reestimated"] for size in sizes]
          panels.curve(
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
    panels.label(
      axes[0], "Test error", "Batch size (examples)", "Error (%)", log_y=True
    )
    panels.label(
      axes[1],
      "Training loss, last fifth",
      "Batch size (examples)",
      "Cross-entropy (nats)",
      log_y=True,
    )


if __name__ == "__main__":
  study.main(
    "batch_size",
    measure,
    Config(),
    quick={"seeds": 2, "examples": 640},
    full={"examples": 600_000, "halve": False},
  )
