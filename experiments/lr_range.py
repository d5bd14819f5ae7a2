"""How wide the range of learning rates and initializations is that trains.

    python -m experiments.lr_range

784-100-100-100-100-100-10 with ReLUs and He's initialization, batches of 128,
200 steps, at learning rates half a decade apart: SGD from 0.03 to 300, Adam
from 0.0003 to 3. Then every arm at its best rate with its initial kernels
scaled by 0.01 to 100, half a decade apart. Images are halved to 14x14. About
three minutes on two cores.

Claims, seeds paired. A rate "trains" a seed if the mean loss of the last 20
steps is below 0.5; that a loss is finite says little, since nets with batch
norm stall rather than diverge.
  1. Batch norm trains at ten times the rate: the ratio bn / none of the
     largest rates that train, as its logarithm to base 10, is above 0.75 (more
     than the grid's half decade); for SGD and for Adam.
  2. A tuned net gains as well: ratio of the losses at each arm's best rate
     below 0.9; for SGD and for Adam.
  3. Batch norm does not mind the initialization: over four decades of its
     scale, the ratio of the worst to the best loss is below 2 with batch norm,
  4. and above 2 without.
  5. Batch norm trains from more initializations: decades of scales that train,
     batch norm minus none, above 1. (Added when the first data showed that 3
     is decided by how small the best loss is, and before others were seen.)
Each is CONFIRMED or REFUTED where the whole 95% interval is on one side.

Source: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 4.2:
13.3M instead of 31.0M steps with batch norm alone, 2.1M with 5 times the rate
and six further changes; Inception diverged at 5 times its rate. Bjorck et al.,
2018, https://arxiv.org/abs/1806.02375, name the rate as the cause.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.lab import panels, reporting, study
from experiments.lab.models import MLP
from experiments.lab.study import Parts, Run, option
from experiments.lab.sweep import (
  Images,
  Sweep,
  best_rate,
  load_images,
  norm_factory,
)

IOFFE = "Ioffe & Szegedy 2015"
HALF_DECADES = 10 ** (np.arange(9) / 2)
RATES: Mapping[str, np.ndarray] = {
  "sgd": 0.03 * HALF_DECADES,
  "adam": 3e-4 * HALF_DECADES,
}
SCALES = 0.01 * HALF_DECADES
OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
  "sgd": optax.sgd,
  "adam": optax.adam,
}
TRAINS_BELOW = 0.5  # Nats.
DECADES_ABOVE, BETTER_BELOW, ROBUST_BELOW = 0.75, 0.9, 2.0
WIDER_BY = 1.0  # Decades.
LAST = 20  # Steps.
WORST = (
  10.0  # Nats; a loss above, or none at all, is drawn and counted as this.
)


@dataclasses.dataclass(frozen=True)
class Config(study.HalvedImageConfig):
  """The arms."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "ln", "rms"), "The norms, none first.", study.NORMS
  )
  hidden: tuple[int, ...] = option(
    (100,) * 5, "Width of each hidden layer.", study.COUNTS
  )
  steps: int = option(200, "Training steps.", study.COUNT)


def train(
  norm: str,
  optimizer: str,
  rates: Sequence[float],
  scales: Sequence[float],
  config: Config,
  images: Images,
) -> Parts:
  """Returns final losses `[cells, seeds]`; cells pair a rate and a scale."""
  model = MLP(
    norm=norm_factory(norm),
    hidden=config.hidden,
    kernel_init=nn.initializers.he_normal(),
  )
  sweep = Sweep(
    model, OPTIMIZERS[optimizer], prepare=images.prepare, batch_size=128
  )
  state = sweep.start(config.seed_numbers, rates, images.train.inputs)
  lanes = sweep.per_lane(scales, config.seeds)

  def scaled(params: object, scale: jax.Array) -> object:
    return jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf * scale if path[-1].key == "kernel" else leaf,
      params,
    )

  state = dataclasses.replace(
    state, params=jax.vmap(scaled)(state.params, jnp.asarray(lanes))
  )
  orders = sweep.orders(state, images.train, config.steps)
  state, records = sweep.advance(state, orders, images.train)
  loss = records["loss"][:, -LAST:].mean(axis=1)
  loss = np.minimum(np.nan_to_num(loss, nan=WORST, posinf=WORST), WORST)
  return {"loss": loss.reshape(len(rates), config.seeds)}


def largest_rate(loss: np.ndarray, rates: np.ndarray) -> np.ndarray:
  """Returns the largest rate that trains each seed, half the first if none.

  Args:
    loss: `[rates, seeds]`.
    rates: `[rates]`, ascending.
  """
  trains = loss < TRAINS_BELOW
  last = len(rates) - 1 - trains[::-1].argmax(axis=0)
  return np.where(trains.any(axis=0), rates[last], rates[0] / np.sqrt(10))


def measure(config: Config, run: Run) -> None:
  """Trains the grids, prints, judges and draws."""
  images = load_images(run, config.dataset, halved=config.halve)
  part = functools.partial(train, config=config, images=images)
  ones = np.ones(len(HALF_DECADES))
  arms = {
    (optimizer, norm): run.part(
      f"{optimizer}_{norm}",
      functools.partial(part, norm, optimizer, rates, ones),
    )["loss"]
    for optimizer, rates in RATES.items()
    for norm in config.norm
  }
  best = {arm: best_rate(loss) for arm, loss in arms.items()}
  starts = {}
  for norm in config.norm:
    rates = np.full(len(SCALES), RATES["sgd"][best["sgd", norm]])
    measure_scales = functools.partial(part, norm, "sgd", rates, SCALES)
    starts[norm] = run.part(f"scales_{norm}", measure_scales)["loss"]
  rows = []
  for (optimizer, norm), loss in arms.items():
    rates = RATES[optimizer]
    trains = (loss < TRAINS_BELOW).all(axis=1)
    rows.append(
      [
        optimizer,
        norm,
        f"{np.median(largest_rate(loss, rates)):.2g}",
        f"{0.5 * trains.sum():.1f}",
        f"{rates[best[optimizer, norm]]:.2g}",
        f"{reporting.interval(loss[best[optimizer, norm]]):.3f}",
        f"{reporting.interval(_spread(starts[norm])):.1f}"
        if optimizer == "sgd"
        else None,
      ]
    )
  headers = ["optimizer", "norm", "largest rate that trains", "decades"]
  headers += ["best rate", "its loss", "worst / best over scales"]
  print(reporting.table(rows, headers))
  if {"none", "bn"} <= set(config.norm):
    judge(arms, starts, run)
  _draw(arms, starts, config, images.name, run)


def _spread(loss: np.ndarray) -> np.ndarray:
  return loss.max(axis=0) / loss.min(axis=0)


def judge(
  arms: Mapping[tuple[str, str], np.ndarray],
  starts: Mapping[str, np.ndarray],
  run: Run,
) -> None:
  """Judges batch norm against none; losses `[cells, seeds]`."""
  for optimizer, rates in RATES.items():
    bn, none = (arms[optimizer, norm] for norm in ("bn", "none"))
    decades = reporting.interval(
      np.log10(largest_rate(bn, rates) / largest_rate(none, rates))
    )
    run.judge(
      f"batch norm trains at a learning rate ten times as high ({optimizer})",
      f"{decades:.2f} decades",
      reporting.verdict_above(decades, DECADES_ABOVE),
      criterion="largest rate that trains, bn / none, above 0.75 decades",
      source=IOFFE,
    )
    ratio = reporting.paired_ratio(
      *(loss[best_rate(loss)] for loss in (bn, none))
    )
    run.judge(
      f"batch norm ends lower when both are tuned ({optimizer})",
      f"{ratio:.2f}",
      reporting.verdict_below(ratio, BETTER_BELOW),
      criterion="ratio of losses at the best rates, bn / none, below 0.9",
      source=IOFFE,
    )
  for norm, verdict, what, side in (
    ("bn", reporting.verdict_below, "does not mind", "below"),
    ("none", reporting.verdict_above, "minds", "above"),
  ):
    # Logarithms, since the ratios scatter by more than a factor of two.
    spread = reporting.interval(np.log10(_spread(starts[norm])))
    run.judge(
      f"{norm} {what} the scale of the initial kernels, 0.01 to 100",
      f"{spread:.2f} decades",
      verdict(spread, float(np.log10(ROBUST_BELOW))),
      criterion=f"worst / best loss over scales {side} a factor of 2,"
      " 0.30 decades",
      source="folklore",
    )
  wider = reporting.paired_difference(
    *(
      0.5 * (starts[norm] < TRAINS_BELOW).sum(axis=0) for norm in ("bn", "none")
    )
  )
  run.judge(
    "batch norm trains from more scales of the initial kernels",
    f"{wider:.2f} decades",
    reporting.verdict_above(wider, WIDER_BY),
    criterion="decades of scales that train, bn - none, above 1",
    source="folklore",
  )


def _draw(
  arms: Mapping[tuple[str, str], np.ndarray],
  starts: Mapping[str, np.ndarray],
  config: Config,
  data: str,
  run: Run,
) -> None:
  with panels.drawing(
    run,
    "lr_range",
    columns=3,
    title=f"Loss after {config.steps} steps, {data},"
    f" {len(config.hidden)} hidden layers of ReLUs",
    caption=f"{panels.seeds_caption(config.seeds)}; losses above {WORST:g} nats"
    f" or not finite at {WORST:g}; dotted: what counts as training",
  ) as axes:
    for panel, (optimizer, rates) in zip(axes, RATES.items(), strict=False):
      for norm in config.norm:
        loss = arms[optimizer, norm].T
        panels.curve(panel, rates, loss, norm, geometric=True)
      panels.label(
        panel, optimizer.upper() if optimizer == "sgd" else "Adam",
        "Learning rate", "Cross-entropy (nats)", log_x=True, log_y=True,
      )  # fmt: skip
    for norm in config.norm:
      panels.curve(axes[2], SCALES, starts[norm].T, norm, geometric=True)
    panels.label(
      axes[2], "SGD, best rate", "Initial kernels times",
      "Cross-entropy (nats)", log_x=True, log_y=True,
    )  # fmt: skip
    for panel in axes:
      panel.axhline(TRAINS_BELOW, color="k", linestyle=":", linewidth=1)


if __name__ == "__main__":
  study.main(
    "lr_range",
    measure,
    Config(),
    quick={"seeds": 2, "steps": 30, "hidden": (50, 50)},
    full={"steps": 20_000, "halve": False},
  )
