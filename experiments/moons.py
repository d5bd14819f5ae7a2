"""Two half moons, with and without batch norm: curves and boundaries.

    python -m experiments.moons
    python -m experiments.moons --dataset=spirals --norm=none,bn,ln

A demonstration from tutorials: an MLP 2-64-64-2 on scikit-learn's make_moons
(2,000 points, noise 0.2), Adam at 0.01, batches of 64, 50 epochs. Here it has
several seeds, and boundaries are drawn in evaluation mode. About a minute on
two cores.

A seed determines its 2,000 points for training, 2,000 for validation and 4,000
for the test, the initial weights and the order of the points. Every norm is
trained at the tutorials' rate of 0.01, and at its best rate: the one of five or
more from 0.001 to 0.1 that has the lowest validation loss with other seeds.

The claims compare batch norm with no norm, with paired seeds. At 0.01 they are
of the loss curve that tutorials show: the loss of epoch 1, and its roughness,
the standard deviation of the epoch's training loss over the last 30 epochs. At
the best rates they are of the loss of epoch 1, of the training loss at the end
(mean of the last 5 epochs), and of the test accuracy.

Source: tutorials; none gives intervals. Some draw the boundary in training
mode, which shows the statistics of the plotting grid; the study prints the
share of grid points that change class.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from experiments.lab import figures, options, parsers, study, tuning
from experiments.lab.claims import Claim, Difference, Effect, Ratio
from experiments.lab.data import points
from experiments.lab.data.arrays import Images, Sizes
from experiments.lab.data.batch import Members
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.statistics import interval, shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification, losses

RATES = tuning.half_decades(-6, -2)
TUTORIAL_RATE = 0.01
ROUGH_EPOCHS, LAST_EPOCHS = 30, 5
TARGET_LOSS = 0.15  # The number of epochs to reach it is printed.
GRID = 100  # Points per side.

_CLAIMED: Mapping[str, Any] = {
  "source": "tutorials",
  "analysis": Ratio(cap=losses.guessing(2)),
  "criterion": Effect(0.8, none=1),
  "why": "a fifth is about what one sees in a plotted curve",
}
_AT_TUTORIAL_RATE = {"samples": ("bn at 0.01", "none at 0.01"), **_CLAIMED}
_TUNED = {"samples": ("bn, tuned", "none, tuned"), **_CLAIMED}
FASTER_AT_TUTORIAL_RATE = Claim(
  "faster_at_tutorial_rate",
  "on {dataset}, both at a learning rate of 0.01, bn has a loss in epoch 1"
  " below {margin} times that of no norm",
  quantity="training loss of epoch 1",
  spread=0.051,
  **_AT_TUTORIAL_RATE,
)
SMOOTHER_AT_TUTORIAL_RATE = Claim(
  "smoother_at_tutorial_rate",
  "on {dataset}, both at a learning rate of 0.01, the loss curve of bn has a"
  " roughness below {margin} times that of no norm",
  quantity="roughness of the training loss",
  spread=0.19,
  **_AT_TUTORIAL_RATE,
)
FASTER = Claim(
  "faster",
  "on {dataset}, each at its best learning rate, bn has a loss in epoch 1 below"
  " {margin} times that of no norm",
  quantity="training loss of epoch 1",
  spread=0.042,
  **_TUNED,
)
LOWER = Claim(
  "lower",
  "on {dataset}, each at its best learning rate, bn ends with a training loss"
  " below {margin} times that of no norm",
  quantity="final training loss",
  spread=0.058,
  **_TUNED,
)
BETTER = Claim(
  "better",
  "on {dataset}, each at its best learning rate, bn ends with a test accuracy"
  " at least {margin} points above that of no norm",
  quantity="test accuracy",
  unit="points",
  form="+.2f",
  spread=0.18,
  **_TUNED
  | {
    "analysis": Difference(),
    "criterion": Effect(0.5),
    "why": "accuracies are usually compared in whole percent",
  },
)
CLAIMS = (
  *(FASTER_AT_TUTORIAL_RATE, SMOOTHER_AT_TUTORIAL_RATE),
  *(FASTER, LOWER, BETTER),
)


@dataclasses.dataclass(frozen=True)
class Config(options.TuningConfig):
  """The data and the arms."""

  dataset: str = option(
    "moons", "moons or spirals.", parsers.one_of(points.KINDS)
  )
  norm: tuple[str, ...] = option(
    ("none", "bn"),
    "Norms to show; the first must be none. The claims are of bn.",
    parsers.NORMS_AFTER_NONE,
  )
  hidden: tuple[int, ...] = option(
    (64, 64), "Width of each hidden layer.", parsers.COUNTS
  )
  epochs: int = option(50, "Number of epochs.", parsers.COUNT)
  points: int = option(2000, "Number of training points.", parsers.COUNT)

  def unused(self) -> dict[str, str]:
    return {"data_dir": "here: the points are drawn"}


def split(config: Config, seeds: Sequence[int], rates: int) -> Images[Members]:
  """Returns the points of every seed."""
  sizes = Sizes(config.points, config.points, 2 * config.points)
  return points.split(config.dataset, sizes, seeds, rates)


def train(
  norm: str, config: Config, rates: Sequence[float], seeds: Sequence[int]
) -> Parts:
  """Returns losses `[rates, seeds, epochs]`, and results `[rates, seeds]`.

  Boundaries are those of the first seed, `[rates, points of the grid]`.
  """
  model = MLP(norm=norm_factory(norm), hidden=config.hidden, num_classes=2)
  images = split(config, seeds, len(rates))
  engine, state, records = classification.train_at_rates(
    model,
    optax.adam,
    images,
    batch_size=64,
    seeds=seeds,
    rates=rates,
    steps=config.epochs * (config.points // 64),
    gain=config.gain,
  )
  first = jax.tree.map(lambda leaf: leaf[:: len(seeds)], state.variables)
  plane = points.grid(images.train.lane(0), GRID)

  @functools.partial(jax.jit, static_argnums=0)
  @functools.partial(jax.vmap, in_axes=(None, 0, None))
  def shares(train: bool, variables: Any, plane: jax.Array) -> jax.Array:
    logits, _ = model.apply(
      variables, plane, train=train, mutable=["batch_stats"]
    )
    return jax.nn.softmax(logits)[:, 1]

  found = classification.results(engine, state, images, len(rates))
  losses = records.loss.reshape(len(rates), len(seeds), config.epochs, -1)
  return {
    "loss": losses.mean(axis=-1),
    "accuracy": _right(found["error"]),
    "reestimated": _right(found["reestimated"]),
    "validation": found["validation"],
    "boundary": np.asarray(shares(False, first, plane)),
    "train_mode": np.asarray(shares(True, first, plane)),
  }


def _right(error: np.ndarray) -> np.ndarray:
  """Returns the share of right answers in percent; none where it diverged."""
  return 100 - np.nan_to_num(error, nan=100.0)


def roughness(loss: np.ndarray) -> np.ndarray:
  """Returns the standard deviation of the last epochs' losses."""
  return loss[..., -ROUGH_EPOCHS:].std(axis=-1)


def final(loss: np.ndarray) -> np.ndarray:
  """Returns the mean of the last epochs' losses."""
  return loss[..., -LAST_EPOCHS:].mean(axis=-1)


def measure(config: Config, run: Run) -> None:
  """Trains every norm at both rates, prints, judges and draws."""
  run.data = config.dataset
  same: dict[str, Parts] = {}
  tuned: dict[str, Parts] = {}
  for norm in config.norm:
    part = functools.partial(train, norm, config)
    name, seeds = f"{norm}_at_tutorial_rate", config.seed_numbers
    same[norm] = tuning.at_rate(run, name, part, TUTORIAL_RATE, seeds)
    tuned[norm] = tuning.tuned(run, norm, part, RATES, config)
  _show([*same.items(), *tuned.items()])
  if "bn" in config.norm:
    judge(same, tuned, run)
  _draw(same, config, run)


def _show(arms: Sequence[tuple[str, Parts]]) -> None:
  """Prints the results of every norm at both rates."""
  rows = []
  for norm, arm in arms:
    loss = arm["loss"]
    reached = (loss < TARGET_LOSS).argmax(axis=1) + 1.0
    reached[~(loss < TARGET_LOSS).any(axis=1)] = np.nan
    moved = (arm["boundary"] > 0.5) != (arm["train_mode"] > 0.5)
    rows.append(
      [
        norm,
        f"{arm['rate']:.2g}",
        shown(loss[:, 0], ".3f"),
        shown(final(loss), ".4f"),
        f"{np.nanmean(reached):.1f}" if np.isfinite(reached).any() else None,
        shown(roughness(loss), ".4f"),
        shown(arm["accuracy"], ".2f"),
        shown(arm["reestimated"], ".2f"),
        f"{100 * moved.mean():.1f}",
      ]
    )
  print(
    table(
      rows,
      [
        "norm", "rate", "epoch 1 loss", "final loss",
        f"epochs to {TARGET_LOSS}", "roughness", "accuracy (%)",
        "re-estimated (%)", "moved in train mode (%)",
      ],
    )
  )  # fmt: skip


def judge(
  same: Mapping[str, Parts], tuned: Mapping[str, Parts], run: Run
) -> None:
  """Judges batch norm against no norm.

  Args:
    same: Results of "bn" and "none" at the tutorials' rate.
    tuned: Results at the best rates.
    run: Run that judges.
  """
  losses = [same[norm]["loss"] for norm in ("bn", "none")]
  run.judge(FASTER_AT_TUTORIAL_RATE, *(loss[:, 0] for loss in losses))
  run.judge(SMOOTHER_AT_TUTORIAL_RATE, *map(roughness, losses))
  losses = [tuned[norm]["loss"] for norm in ("bn", "none")]
  run.judge(FASTER, *(loss[:, 0] for loss in losses))
  run.judge(LOWER, *map(final, losses))
  run.judge(BETTER, *(tuned[norm]["accuracy"] for norm in ("bn", "none")))


def _draw(arms: Mapping[str, Parts], config: Config, run: Run) -> None:
  with figures.drawing(
    run,
    "boundaries",
    columns=1 + len(arms),
    title=f"{config.dataset}: training loss, and what evaluation mode decides",
    caption=f"{figures.seeds_caption(config.seeds)}; learning rate"
    f" {TUTORIAL_RATE:g}. Shades: probability of the classes for seed"
    f" {config.seed}, line: equal",
  ) as axes:
    epochs = np.arange(1, config.epochs + 1)
    for norm, arm in arms.items():
      figures.curve(axes[0], epochs, arm["loss"], norm, geometric=True)
    figures.label(
      axes[0], "Training", "Epoch", "Cross-entropy (nats)", log_y=True
    )
    data = split(config, [config.seed], 1).train.lane(0)
    x, y = points.grid(data, GRID).reshape(GRID, GRID, 2).transpose(2, 0, 1)
    for panel, (norm, arm) in zip(axes[1:], arms.items(), strict=True):
      share = arm["boundary"].reshape(GRID, GRID)
      panel.contourf(x, y, share, np.linspace(0, 1, 11), cmap="PuOr", alpha=0.6)
      panel.contour(x, y, share, [0.5], colors=figures.norm_color(norm))
      for label, color in enumerate(("#7f3b08", "#2d004b")):
        some = np.asarray(data.inputs)[np.asarray(data.targets) == label][:300]
        panel.plot(*some.T, ".", color=color, markersize=3)
      accuracy = interval(arm["accuracy"])
      figures.label(panel, f"{norm}: {accuracy:.1f}% right", "x", "y")


STUDY = study.Study(
  "moons",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  quick={"seeds": 2, "tuning_seeds": 1, "epochs": 8},
  confirm={"seed": 100, "seeds": 20},
  demonstration="points in the plane, of tutorials, are too easy to say much of"
  " other data",
)

if __name__ == "__main__":
  study.main(STUDY)
