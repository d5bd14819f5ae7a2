"""Two half moons, with and without batch norm: curves and boundaries.

    python -m experiments.moons
    python -m experiments.moons --dataset=spirals --norm=none,bn,ln

A demonstration from tutorials: an MLP 2-64-64-2 on scikit-learn's make_moons
(2,000 points, noise 0.2), Adam, batches of 64, 50 epochs. Here it has several
seeds, a separate test set of 4,000 points, and boundaries drawn in evaluation
mode. Every norm is trained at five learning rates, among them 0.01 as in
tutorials. About a minute on two cores.

The tutorials' claims for batch norm are tested for every norm against none,
with paired seeds, at 0.01 ("equal rate") and at each arm's best rate ("tuned":
the lowest mean training loss, of epoch 1 for the first claim, of the last
epochs for the others). Roughness is the standard deviation of the epoch's loss
over the last 30 epochs, and the final loss is the mean of the last 5.

Source: tutorials; none gives intervals. Some draw the boundary in training
mode, which shows the statistics of the plotting grid; the study prints the
share of grid points that change class.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from experiments.lab import figures, options, parsers, study
from experiments.lab.claims import Above, Below, Claim
from experiments.lab.data import points
from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Batch
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.statistics import (
  best_rate,
  interval,
  paired_difference,
  paired_ratio,
  shown,
)
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification, lanes

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
EQUAL = RATES.index(1e-2)
ROUGH_EPOCHS, LAST_EPOCHS = 30, 5
TARGET_LOSS = 0.15  # The number of epochs to reach it is printed.
GRID = 150  # Points per side.

FASTER = Claim(
  "{norm} is faster on {dataset} ({how})",
  source="tutorials",
  quantity="ratio of epoch 1 losses to none",
  criterion=Below(0.8),
  form=".2f",
)
LOWER = Claim(
  "{norm} ends with a lower training loss on {dataset} ({how})",
  source="tutorials",
  quantity="ratio of final losses to none",
  criterion=Below(1),
  form=".2f",
)
BETTER = Claim(
  "{norm} ends with a better test accuracy on {dataset} ({how})",
  source="tutorials",
  quantity="difference to none",
  criterion=Above(0),
  unit="points",
  form="+.2f",
)
SMOOTHER = Claim(
  "{norm} makes the loss curve smoother on {dataset} (equal rate)",
  source="tutorials",
  quantity="ratio of roughness to none",
  criterion=Below(1),
  form=".2f",
)
CLAIMS = (FASTER, LOWER, BETTER, SMOOTHER)


@dataclasses.dataclass(frozen=True)
class Config(options.Config):
  """The data and the arms."""

  dataset: str = option(
    "moons", "moons or spirals.", parsers.one_of(points.KINDS)
  )
  norm: tuple[str, ...] = option(
    ("none", "bn"),
    "Norms to compare; the first must be none.",
    parsers.NORMS_AFTER_NONE,
  )
  hidden: tuple[int, ...] = option(
    (64, 64), "Width of each hidden layer.", parsers.COUNTS
  )
  epochs: int = option(50, "Number of epochs.", parsers.COUNT)
  points: int = option(2000, "Number of training points.", parsers.COUNT)

  def unused(self) -> dict[str, str]:
    return {"data_dir": "here: the points are drawn"}


def train(norm: str, config: Config, data: Batch, test: Batch) -> Parts:
  """Returns losses `[rates, seeds, epochs]`, test results and boundaries."""
  model = MLP(norm=norm_factory(norm), hidden=config.hidden, num_classes=2)
  images = Images("moons", data, test, 2, lambda x: x)
  engine, state, records = classification.train_at_rates(
    model,
    optax.adam,
    images,
    batch_size=64,
    seeds=config.seed_numbers,
    rates=RATES,
    steps=config.epochs * (config.points // 64),
  )
  again = classification.reestimated(engine, state, data)
  shape = len(RATES), config.seeds
  first = lanes.one(state.variables, EQUAL * config.seeds)

  @functools.partial(jax.jit, static_argnums=0)
  def classes(train: bool) -> jax.Array:
    logits, _ = model.apply(
      first, points.grid(data, GRID), train=train, mutable=["batch_stats"]
    )
    return jax.nn.softmax(logits)[:, 1]

  def accuracy(variables: Any) -> np.ndarray:
    return 100 - classification.error(engine, variables, test).reshape(shape)

  return {
    "loss": records.loss.reshape(*shape, config.epochs, -1).mean(axis=-1),
    "accuracy": accuracy(state.variables),
    "reestimated": accuracy(again),
    "boundary": np.asarray(classes(False)),
    "train_mode": np.asarray(classes(True)),
  }


def roughness(loss: np.ndarray) -> np.ndarray:
  """Returns the standard deviation of the last epochs' losses."""
  return loss[..., -ROUGH_EPOCHS:].std(axis=-1)


def measure(config: Config, run: Run) -> None:
  """Trains every norm, prints, judges and draws."""
  data = points.draw(config.dataset, config.points, seed=0)
  test = points.draw(config.dataset, 2 * config.points, seed=1)
  arms = {
    norm: run.part(norm, functools.partial(train, norm, config, data, test))
    for norm in config.norm
  }
  rows = []
  for norm, arm in arms.items():
    loss = arm["loss"][EQUAL]
    reached = (loss < TARGET_LOSS).argmax(axis=1) + 1.0
    reached[~(loss < TARGET_LOSS).any(axis=1)] = np.nan
    moved = (arm["boundary"] > 0.5) != (arm["train_mode"] > 0.5)
    rows.append(
      [
        norm,
        shown(loss[:, 0], ".3f"),
        shown(loss[:, -LAST_EPOCHS:].mean(axis=1), ".4f"),
        f"{np.nanmean(reached):.1f}" if np.isfinite(reached).any() else None,
        shown(roughness(loss), ".4f"),
        shown(arm["accuracy"][EQUAL], ".2f"),
        shown(arm["reestimated"][EQUAL], ".2f"),
        f"{100 * moved.mean():.1f}",
      ]
    )
  print(
    table(
      rows,
      [
        "norm", "epoch 1 loss", "final loss", f"epochs to {TARGET_LOSS}",
        "roughness", "accuracy (%)", "re-estimated (%)",
        "moved in train mode (%)",
      ],
    )
  )  # fmt: skip
  for norm in config.norm[1:]:
    _judge(norm, arms[norm], arms[config.norm[0]], config.dataset, run)
  _draw(arms, config, data, run)


def _judge(norm: str, arm: Parts, none: Parts, dataset: str, run: Run) -> None:
  first, first_none = (part["loss"][..., 0] for part in (arm, none))
  last, last_none = (
    part["loss"][..., -LAST_EPOCHS:].mean(axis=-1) for part in (arm, none)
  )
  on = {"norm": norm, "dataset": dataset}
  for how in ("equal rate", "tuned"):
    start, start_none, end, end_none = (
      best_rate(values) if how == "tuned" else EQUAL
      for values in (first, first_none, last, last_none)
    )
    ratio = paired_ratio(first[start], first_none[start_none])
    run.judge(FASTER, ratio, how=how, **on)
    ratio = paired_ratio(last[end], last_none[end_none])
    run.judge(LOWER, ratio, how=how, **on)
    difference = paired_difference(
      arm["accuracy"][end], none["accuracy"][end_none]
    )
    run.judge(BETTER, difference, how=how, **on)
  ratio = paired_ratio(
    roughness(arm["loss"][EQUAL]), roughness(none["loss"][EQUAL])
  )
  run.judge(SMOOTHER, ratio, **on)


def _draw(
  arms: dict[str, Parts], config: Config, data: Batch, run: Run
) -> None:
  with figures.drawing(
    run,
    "boundaries",
    columns=1 + len(arms),
    title=f"{config.dataset}: training loss, and what evaluation mode decides",
    caption=f"{figures.seeds_caption(config.seeds)}; learning rate 0.01."
    f" Shades: probability of the classes for seed {config.seed}, line: equal",
  ) as axes:
    epochs = np.arange(1, config.epochs + 1)
    for norm, arm in arms.items():
      figures.curve(axes[0], epochs, arm["loss"][EQUAL], norm, geometric=True)
    figures.label(
      axes[0], "Training", "Epoch", "Cross-entropy (nats)", log_y=True
    )
    x, y = points.grid(data, GRID).reshape(GRID, GRID, 2).transpose(2, 0, 1)
    for panel, (norm, arm) in zip(axes[1:], arms.items(), strict=True):
      share = arm["boundary"].reshape(GRID, GRID)
      panel.contourf(x, y, share, np.linspace(0, 1, 11), cmap="PuOr", alpha=0.6)
      panel.contour(x, y, share, [0.5], colors=figures.norm_color(norm))
      for label, color in enumerate(("#7f3b08", "#2d004b")):
        shown = np.asarray(data.inputs)[np.asarray(data.targets) == label][:300]
        panel.plot(*shown.T, ".", color=color, markersize=3)
      accuracy = interval(arm["accuracy"][EQUAL])
      figures.label(panel, f"{norm}: {accuracy:.1f}% right", "x", "y")


if __name__ == "__main__":
  study.main(
    "moons", measure, Config(), CLAIMS, quick={"seeds": 2, "epochs": 8}
  )
