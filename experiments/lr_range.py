"""The range of learning rates and initializations at which a net trains.

    python -m experiments.lr_range

An MLP 196-100-100-100-100-100-10 with ReLUs and He's initialization on images
halved to 14x14, batches of 128, 200 steps. The learning rates are half a decade
apart: SGD from 0.03 to 300, Adam from 0.0003 to 3. Then every norm is trained
by SGD at its best rate, with initial kernels scaled by 0.01 to 100, half a
decade apart. About three minutes on two cores.

Seeds are paired. A rate "trains" a seed if the mean loss of the last 20 steps
is below 0.5. A finite loss is not enough, because nets with batch norm stall
rather than diverge. Losses above 10 nats, or not finite, count as 10.

Source: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 4.2:
13.3M instead of 31.0M steps with batch norm alone, 2.1M with 5 times the rate
and six further changes; Inception diverged at 5 times its rate. Bjorck et al.,
2018, https://arxiv.org/abs/1806.02375, attribute the gain to the higher rate.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import optax
from flax import linen as nn

from experiments.lab import figures, options, parsers, statistics, study
from experiments.lab.claims import Above, Below, Claim
from experiments.lab.data.arrays import Images
from experiments.lab.models import kernels
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification, lanes
from experiments.lab.training.hyperparams import swept

HALF_DECADES = 10 ** (np.arange(9) / 2)
RATES = {"sgd": 0.03 * HALF_DECADES, "adam": 3e-4 * HALF_DECADES}
SCALES = 0.01 * HALF_DECADES
OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}
TRAINS_BELOW, LAST = 0.5, 20  # Nats, steps.
WORST = 10.0  # Nats; larger losses, and those not finite, count as this.

HIGHER = Claim(
  "batch norm trains at a learning rate ten times as high ({optimizer})",
  source="Ioffe & Szegedy 2015",
  quantity="log10(bn / none) of the largest rate that trains",
  criterion=Above(0.75),  # More than one step of the grid.
  unit="decades",
  form=".2f",
)
LOWER = Claim(
  "batch norm ends lower when both are tuned ({optimizer})",
  source="Ioffe & Szegedy 2015",
  quantity="bn / none of losses at the best rates",
  criterion=Below(0.9),
  form=".2f",
)
# As a logarithm, because the ratios scatter by more than a factor of two.
_FACTOR = math.log10(2), "a factor of 2"
_SCALES = {
  "source": "folklore",
  "quantity": "log10(worst / best loss) over scales of 0.01 to 100",
  "unit": "decades",
  "form": ".2f",
}
ROBUST = Claim(
  "batch norm does not mind the scale of the initial kernels",
  criterion=Below(*_FACTOR),
  **_SCALES,
)
SENSITIVE = Claim(
  "without a norm the scale of the initial kernels matters",
  criterion=Above(*_FACTOR),
  **_SCALES,
)
WIDER = Claim(
  "batch norm trains from more scales of the initial kernels",
  source="folklore",
  quantity="bn minus none in scales that train",
  criterion=Above(1),
  unit="decades",
  form=".2f",
  changed="added when the first data showed that the two claims before are"
  " decided by how small the best loss is, before other data were seen",
)
CLAIMS = (HIGHER, LOWER, ROBUST, SENSITIVE, WIDER)

QUICK = {"seeds": 2, "steps": 30, "hidden": (50, 50)}
FULL = {"steps": 20_000, "halve": False}


@dataclasses.dataclass(frozen=True)
class Config(options.HalvedImageConfig):
  """The arms."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "ln", "rms"),
    "Norms to compare; the first must be none.",
    parsers.NORMS_AFTER_NONE,
  )
  hidden: tuple[int, ...] = option(
    (100,) * 5, "Width of each hidden layer.", parsers.COUNTS
  )
  steps: int = option(200, "Training steps.", parsers.COUNT)


def train(
  norm: str,
  optimizer: str,
  rates: Sequence[float],
  scales: Sequence[float],
  config: Config,
  images: Images,
) -> Parts:
  """Returns final losses `[cells, seeds]`; a cell is a rate and a scale."""
  model = MLP(
    norm=norm_factory(norm),
    hidden=config.hidden,
    kernel_init=nn.initializers.he_normal(),
  )
  engine = classification.classifier(
    model, swept(OPTIMIZERS[optimizer]), images, batch_size=128
  )
  state = engine.init(config.seed_numbers, learning_rate=rates)
  factors = lanes.per_lane(scales, config.seeds)
  params = jax.vmap(kernels.scaled)(state.params, factors)
  state = dataclasses.replace(state, params=params)
  _, records = engine.train(state, config.steps)
  loss = records.loss[:, -LAST:].mean(axis=1)
  loss = np.minimum(np.nan_to_num(loss, nan=WORST, posinf=WORST), WORST)
  return {"loss": loss.reshape(len(rates), config.seeds)}


def largest_rate(loss: np.ndarray, rates: np.ndarray) -> np.ndarray:
  """Returns the largest rate that trains, else half a decade below the first.

  Args:
    loss: Losses `[rates, seeds]`.
    rates: Rates `[rates]`, ascending.
  """
  trains = loss < TRAINS_BELOW
  last = len(rates) - 1 - trains[::-1].argmax(axis=0)
  return np.where(trains.any(axis=0), rates[last], rates[0] / np.sqrt(10))


def measure(config: Config, run: Run) -> None:
  """Trains the grids, prints, judges and draws."""
  images = run.load_images(config.dataset, halved=config.halve)
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
  best = {arm: statistics.best_rate(loss) for arm, loss in arms.items()}
  starts = {}
  for norm in config.norm:
    rates = np.full(len(SCALES), RATES["sgd"][best["sgd", norm]])
    measure_scales = functools.partial(part, norm, "sgd", rates, SCALES)
    starts[norm] = run.part(f"scales_{norm}", measure_scales)["loss"]
  rows = []
  for (optimizer, norm), loss in arms.items():
    rates, chosen = RATES[optimizer], best[optimizer, norm]
    row = [optimizer, norm, f"{np.median(largest_rate(loss, rates)):.2g}"]
    row.append(f"{0.5 * (loss < TRAINS_BELOW).all(axis=1).sum():.1f}")
    row += [f"{rates[chosen]:.2g}", statistics.shown(loss[chosen], ".3f")]
    over_scales = statistics.shown(spread(starts[norm]), ".1f")
    rows.append([*row, over_scales if optimizer == "sgd" else None])
  headers = ["optimizer", "norm", "largest rate", "decades"]
  headers += ["best rate", "its loss", "worst / best"]
  print(table(rows, headers))
  if {"none", "bn"} <= set(config.norm):
    judge(arms, starts, run)
  _draw(arms, starts, config, images.name, run)


def spread(loss: np.ndarray) -> np.ndarray:
  """Returns worst / best loss `[seeds]` for losses `[scales, seeds]`."""
  return loss.max(axis=0) / loss.min(axis=0)


def judge(
  arms: Mapping[tuple[str, str], np.ndarray],
  starts: Mapping[str, np.ndarray],
  run: Run,
) -> None:
  """Judges batch norm against none; all losses are `[cells, seeds]`."""
  for optimizer, rates in RATES.items():
    bn, none = (arms[optimizer, norm] for norm in ("bn", "none"))
    higher = np.log10(largest_rate(bn, rates) / largest_rate(none, rates))
    run.judge(HIGHER, statistics.interval(higher), optimizer=optimizer)
    ratio = statistics.paired_ratio(
      *(loss[statistics.best_rate(loss)] for loss in (bn, none))
    )
    run.judge(LOWER, ratio, optimizer=optimizer)
  for norm, claim in (("bn", ROBUST), ("none", SENSITIVE)):
    run.judge(claim, statistics.interval(np.log10(spread(starts[norm]))))
  bn, none = (
    0.5 * (starts[norm] < TRAINS_BELOW).sum(axis=0) for norm in ("bn", "none")
  )
  run.judge(WIDER, statistics.paired_difference(bn, none))


def _draw(
  arms: Mapping[tuple[str, str], np.ndarray],
  starts: Mapping[str, np.ndarray],
  config: Config,
  data: str,
  run: Run,
) -> None:
  with figures.drawing(
    run,
    "lr_range",
    columns=3,
    title=f"Loss after {config.steps} steps, {data},"
    f" {len(config.hidden)} hidden layers of ReLUs",
    caption=f"{figures.seeds_caption(config.seeds)}; losses are at most"
    f" {WORST:g} nats; dotted: what counts as training",
  ) as axes:
    for panel, (optimizer, rates) in zip(axes, RATES.items(), strict=False):
      for norm in config.norm:
        loss = arms[optimizer, norm].T
        figures.curve(panel, rates, loss, norm, geometric=True)
      figures.label(
        panel, {"sgd": "SGD", "adam": "Adam"}[optimizer],
        "Learning rate", "Cross-entropy (nats)", log_x=True, log_y=True,
      )  # fmt: skip
    for norm in config.norm:
      figures.curve(axes[2], SCALES, starts[norm].T, norm, geometric=True)
    figures.label(
      axes[2], "SGD, best rate", "Factor of the initial kernels",
      "Cross-entropy (nats)", log_x=True, log_y=True,
    )  # fmt: skip
    for panel in axes:
      panel.axhline(TRAINS_BELOW, color="k", linestyle=":", linewidth=1)


if __name__ == "__main__":
  study.main("lr_range", measure, Config(), CLAIMS, quick=QUICK, full=FULL)
