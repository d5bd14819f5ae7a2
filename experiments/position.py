"""Batch norm before or after the activation.

    python -m experiments.position

784-128-128-128-10 on images, Adam, batches of 64, two epochs, with ReLU, tanh
and sigmoid, and batch norm nowhere, before or after each activation. Every arm
has its best learning rate of 0.001, 0.003, 0.01, chosen by the training loss of
the last 200 steps. Images are halved to 14x14, 24,000 of them for training.
About two minutes on two cores.

Claims, tested on test errors in percent (running statistics), seeds paired:
  1. The order matters with ReLU: before is better, difference below 0.
  2. The order matters with sigmoid: after is better, difference above 0.
  3. So the right order depends on the activation: 1 and 2 both hold.
Each is CONFIRMED or REFUTED where the whole 95% interval is on one side.

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

from experiments.lab import panels, plots, reporting, study
from experiments.lab.models import MLP
from experiments.lab.reporting import Verdict, paired_difference
from experiments.lab.study import Parts, Run, option
from experiments.lab.sweep import (
  Images,
  Sweep,
  best_rate,
  load_images,
  norm_factory,
)

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
SOURCE = "Ioffe & Szegedy 2015"
ENDS = 200  # Steps at either end whose loss is printed.


@dataclasses.dataclass(frozen=True)
class Config(study.HalvedImageConfig):
  """How much to train."""

  hidden: tuple[int, ...] = option(
    (128, 128, 128), "Width of each hidden layer.", study.COUNTS
  )
  examples: int = option(48_000, "Examples to train on in all.", study.COUNT)
  train: int = option(24_000, "The most training images.", study.COUNT)


def train(activation: str, place: str, config: Config, images: Images) -> Parts:
  """Returns losses and test errors, `[rates, seeds]`."""
  norm, position = PLACES[place]
  model = MLP(
    norm=norm_factory(norm),
    norm_position=position,
    hidden=config.hidden,
    activation=ACTIVATIONS[activation],
  )
  sweep = Sweep(model, optax.adam, prepare=images.prepare, batch_size=64)
  state = sweep.start(config.seed_numbers, RATES, images.train.inputs)
  orders = sweep.orders(state, images.train, config.examples // 64)
  state, records = sweep.advance(state, orders, images.train)
  statistics = sweep.reestimated(state, images.train)
  shape = len(RATES), config.seeds
  return {
    "first": records["loss"][:, :ENDS].mean(axis=1).reshape(shape),
    "last": records["loss"][:, -ENDS:].mean(axis=1).reshape(shape),
    "error": sweep.error(state, images.test).reshape(shape),
    "reestimated": sweep.error(state, images.test, statistics).reshape(shape),
  }


def measure(config: Config, run: Run) -> None:
  """Trains the nine arms, prints, judges and draws."""
  images = load_images(
    run, config.dataset, train=config.train, halved=config.halve
  )
  arms, rows = {}, []
  for activation in ACTIVATIONS:
    for place in PLACES:
      part = run.part(
        f"{activation}_{place}",
        functools.partial(train, activation, place, config, images),
      )
      best = best_rate(part["last"])
      arm = {name: values[best] for name, values in part.items()}
      arms[activation, place] = arm
      rows.append(
        [activation, place, RATES[best]]
        + [f"{reporting.interval(arm[name]):.3f}" for name in ("first", "last")]
        + [
          f"{reporting.interval(arm[name]):.2f}"
          for name in ("error", "reestimated")
        ]
      )
  headers = ["activation", "batch norm", "best rate"]
  headers += [f"loss, first {ENDS}", f"loss, last {ENDS}"]
  headers += ["test error (%)", "re-estimated (%)"]
  print(reporting.table(rows, headers))
  judge({arm: values["error"] for arm, values in arms.items()}, run)
  _draw(arms, config, images.name, run)


def judge(errors: Mapping[tuple[str, str], np.ndarray], run: Run) -> None:
  """Judges the order; errors `[seeds]` by activation and place."""
  verdicts = []
  for activation, better, verdict in (
    ("relu", "before", reporting.verdict_below),
    ("sigmoid", "after", reporting.verdict_above),
  ):
    difference = paired_difference(
      errors[activation, "before"], errors[activation, "after"]
    )
    verdicts.append(verdict(difference, 0))
    run.judge(
      f"with {activation}, batch norm is better {better} the activation",
      f"{difference:+.2f} points",
      verdicts[-1],
      criterion="error before minus after "
      + ("below 0" if better == "before" else "above 0"),
      source=SOURCE,
    )
  run.judge(
    "the right place of batch norm depends on the activation",
    ", ".join(map(str, verdicts)),
    Verdict.REFUTED
    if Verdict.REFUTED in verdicts
    else max(verdicts, key=lambda v: v == Verdict.UNRESOLVED),
    criterion="before with ReLU and after with sigmoid",
    source="caffenet-benchmark",
  )


def _draw(
  arms: Mapping[tuple[str, str], Parts], config: Config, data: str, run: Run
) -> None:
  styles = {"none": ("none", 1.0), "before": ("bn", 1.0), "after": ("bn", 0.45)}
  with panels.drawing(
    run,
    "position",
    title=f"Batch norm before or after the activation, {data}",
    caption=f"Mean of {config.seeds} seeds, bars: 95% interval; each at its"
    " best learning rate",
  ) as axes:
    for panel, quantity in zip(axes, ("error", "first"), strict=True):
      for index, (place, (norm, alpha)) in enumerate(styles.items()):
        found = [
          reporting.interval(arms[activation, place][quantity])
          for activation in ACTIVATIONS
        ]
        panel.bar(
          np.arange(len(ACTIVATIONS)) + 0.27 * (index - 1),
          [entry.mean for entry in found],
          0.25,
          yerr=np.nan_to_num([entry.half_width for entry in found]),
          color=plots.norm_color(norm),
          alpha=alpha,
          capsize=4,
          label="none" if place == "none" else f"bn {place}",
        )
    for panel, title, unit in (
      (axes[0], "Test error", "Error (%)"),
      (axes[1], f"Loss of the first {ENDS} steps", "Cross-entropy (nats)"),
    ):
      panels.label(panel, title, "Activation", unit)
      panel.set_xticks(range(len(ACTIVATIONS)), list(ACTIVATIONS))


if __name__ == "__main__":
  study.main(
    "position",
    measure,
    Config(),
    quick={"seeds": 2, "examples": 6_400},
    full={"examples": 600_000, "train": 60_000, "halve": False},
  )
