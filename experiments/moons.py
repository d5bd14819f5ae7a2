"""Two half moons, with and without batch norm: curves and boundaries.

    python -m experiments.moons
    python -m experiments.moons --dataset=spirals --norm=none,bn,ln

The tutorials' demonstration: 2-64-64-2 on scikit-learn's make_moons (2,000
points, noise 0.2), Adam, batches of 64, 50 epochs, here with seeds, a fresh
test set of 4,000 points and boundaries drawn in evaluation mode. Every norm
is trained at five learning rates, 0.01 (the tutorials') among them. About a
minute on two cores.

What tutorials claim for batch norm, tested for every norm against none, seeds
paired, at 0.01 ("equal rate") and at each arm's best rate ("tuned": the lowest
mean training loss, of epoch 1 for claim 1, of the last epochs for the others):
  1. Faster: training loss of epoch 1 below 0.8 times that of none.
  2. A smoother curve: roughness, the standard deviation of the epoch's loss
     over the last 30 epochs, below that of none (equal rate).
  3. A lower training loss in the end: mean of the last 5 epochs below none's.
  4. Better: test accuracy above that of none.
Each is CONFIRMED or REFUTED where the whole 95% interval is on one side.

Source: tutorials; none gives intervals. A boundary drawn in training mode, as
some do, shows the statistics of the plotting grid: the study prints the share
of grid points that change class.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments.lab import panels, plots, reporting, study
from experiments.lab.models import MLP
from experiments.lab.reporting import paired_difference, paired_ratio
from experiments.lab.study import Parts, Run, option
from experiments.lab.sweep import Sweep, best_rate, norm_factory
from experiments.lab.train_step import Examples

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
EQUAL = RATES.index(1e-2)
FASTER_BELOW = 0.8
ROUGH_EPOCHS, LAST_EPOCHS = 30, 5
TARGET_LOSS = 0.15  # Epochs to reach it are printed.
GRID = 150  # Points a side.
SOURCE = "tutorials"


@dataclasses.dataclass(frozen=True)
class Config(study.Config):
  """The data and the arms."""

  dataset: str = option(
    "moons", "moons or spirals.", flags.EnumParser(("moons", "spirals"))
  )
  norm: tuple[str, ...] = option(
    ("none", "bn"), "The norms, none first.", study.NORMS
  )
  hidden: tuple[int, ...] = option(
    (64, 64), "Width of each hidden layer.", study.COUNTS
  )
  epochs: int = option(50, "Epochs.", study.COUNT)
  points: int = option(2000, "Training points.", study.COUNT)


def points(dataset: str, count: int, seed: int) -> Examples:
  """Returns points `[count, 2]` in two interleaved classes."""
  if dataset == "moons":
    from sklearn import datasets  # Slow to import.

    x, y = datasets.make_moons(count, noise=0.2, random_state=seed)
  else:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    turn = np.sqrt(rng.uniform(0.05, 1, count))  # Even along the arm.
    angle = 3 * np.pi * turn + np.pi * y
    x = 2 * turn[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x += rng.normal(0, 0.08, x.shape)
  return Examples(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))


def train(norm: str, config: Config, data: Examples, test: Examples) -> Parts:
  """Returns losses `[rates, seeds, epochs]`, test results and boundaries."""
  model = MLP(norm=norm_factory(norm), hidden=config.hidden, num_classes=2)
  sweep = Sweep(model, optax.adam, prepare=lambda x: x, batch_size=64)
  state = sweep.start(config.seed_numbers, RATES, data.inputs)
  per_epoch = len(data.labels) // 64
  orders = sweep.orders(state, data, config.epochs * per_epoch)
  state, records = sweep.advance(state, orders, data)
  shape = len(RATES), config.seeds
  statistics = sweep.reestimated(state, data)

  @functools.partial(jax.jit, static_argnums=0)
  def classes(train: bool) -> jax.Array:
    first = jax.tree.map(
      lambda leaf: leaf[EQUAL * config.seeds],
      {"params": state.params, "batch_stats": state.batch_stats},
    )
    logits, _ = model.apply(
      first, grid(data), train=train, mutable=["batch_stats"]
    )
    return jax.nn.softmax(logits)[:, 1]

  return {
    "loss": records["loss"].reshape(*shape, config.epochs, -1).mean(axis=-1),
    "accuracy": 100 - sweep.error(state, test).reshape(shape),
    "reestimated": 100 - sweep.error(state, test, statistics).reshape(shape),
    "boundary": np.asarray(classes(False)),
    "train_mode": np.asarray(classes(True)),
  }


def grid(data: Examples) -> jax.Array:
  """Returns `[GRID * GRID, 2]` points around the data."""
  low, high = data.inputs.min(axis=0) - 0.3, data.inputs.max(axis=0) + 0.3
  axes = [jnp.linspace(low[i], high[i], GRID) for i in range(2)]
  return jnp.stack(jnp.meshgrid(*axes), axis=-1).reshape(-1, 2)


def roughness(loss: np.ndarray) -> np.ndarray:
  """Returns the standard deviation of the last epochs' losses."""
  return loss[..., -ROUGH_EPOCHS:].std(axis=-1)


def measure(config: Config, run: Run) -> None:
  """Trains every norm, prints, judges and draws."""
  data = points(config.dataset, config.points, seed=0)
  test = points(config.dataset, 2 * config.points, seed=1)
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
        f"{reporting.interval(loss[:, 0]):.3f}",
        f"{reporting.interval(loss[:, -LAST_EPOCHS:].mean(axis=1)):.4f}",
        f"{np.nanmean(reached):.1f}" if np.isfinite(reached).any() else None,
        f"{reporting.interval(roughness(loss)):.4f}",
        f"{reporting.interval(arm['accuracy'][EQUAL]):.2f}",
        f"{reporting.interval(arm['reestimated'][EQUAL]):.2f}",
        f"{100 * moved.mean():.1f}",
      ]
    )
  print(
    reporting.table(
      rows,
      [
        "norm", "epoch 1 loss", "final loss", f"epochs to {TARGET_LOSS}",
        "roughness", "test accuracy (%)", "re-estimated (%)",
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
  for tuned in (False, True):
    how = "tuned" if tuned else "equal rate"
    start, start_none, end, end_none = (
      best_rate(values) if tuned else EQUAL
      for values in (first, first_none, last, last_none)
    )
    ratio = paired_ratio(first[start], first_none[start_none])
    run.judge(
      f"{norm} is faster on {dataset} ({how})",
      f"{ratio:.2f}",
      reporting.verdict_below(ratio, FASTER_BELOW),
      criterion="ratio of epoch 1 losses to none below 0.8",
      source=SOURCE,
    )
    ratio = paired_ratio(last[end], last_none[end_none])
    run.judge(
      f"{norm} ends with a lower training loss on {dataset} ({how})",
      f"{ratio:.2f}",
      reporting.verdict_below(ratio, 1),
      criterion="ratio of final losses to none below 1",
      source=SOURCE,
    )
    difference = paired_difference(
      arm["accuracy"][end], none["accuracy"][end_none]
    )
    run.judge(
      f"{norm} ends with a better test accuracy on {dataset} ({how})",
      f"{difference:+.2f} points",
      reporting.verdict_above(difference, 0),
      criterion="difference to none above 0",
      source=SOURCE,
    )
  ratio = paired_ratio(
    roughness(arm["loss"][EQUAL]), roughness(none["loss"][EQUAL])
  )
  run.judge(
    f"{norm} makes the loss curve smoother on {dataset} (equal rate)",
    f"{ratio:.2f}",
    reporting.verdict_below(ratio, 1),
    criterion="ratio of roughness to none below 1",
    source=SOURCE,
  )


def _draw(
  arms: dict[str, Parts], config: Config, data: Examples, run: Run
) -> None:
  with panels.drawing(
    run,
    "boundaries",
    columns=1 + len(arms),
    title=f"{config.dataset}: training loss, and what evaluation mode decides",
    caption=f"{panels.seeds_caption(config.seeds)}; learning rate 0.01;"
    f" boundaries of seed {config.seed}",
  ) as axes:
    epochs = np.arange(1, config.epochs + 1)
    for norm, arm in arms.items():
      panels.curve(axes[0], epochs, arm["loss"][EQUAL], norm, geometric=True)
    panels.label(
      axes[0], "Training", "Epoch", "Cross-entropy (nats)", log_y=True
    )
    x, y = np.asarray(grid(data)).reshape(GRID, GRID, 2).transpose(2, 0, 1)
    for panel, (norm, arm) in zip(axes[1:], arms.items(), strict=True):
      share = arm["boundary"].reshape(GRID, GRID)
      panel.contourf(x, y, share, np.linspace(0, 1, 11), cmap="PuOr", alpha=0.6)
      panel.contour(x, y, share, [0.5], colors=plots.norm_color(norm))
      for label, color in enumerate(("#7f3b08", "#2d004b")):
        shown = np.asarray(data.inputs)[np.asarray(data.labels) == label][:300]
        panel.plot(*shown.T, ".", color=color, markersize=3)
      accuracy = reporting.interval(arm["accuracy"][EQUAL])
      panels.label(panel, f"{norm}: {accuracy:.1f}% right", "x", "y")


if __name__ == "__main__":
  study.main("moons", measure, Config(), quick={"seeds": 2, "epochs": 8})
