"""Whether batch norm regularizes, and whether it replaces dropout.

    python -m experiments.regularize

An MLP 196-256-256-10 on halved images: 2,048 for training, 20% of them with
random labels, and another 2,048 with correct labels for validation. Adam,
batches of 128, 30 epochs. About two minutes on two cores. The arms:

* none, bn and ln with dropout 0, 0.2 and 0.5 after each activation;
* batch norm over ghost batches of 8 and 32 of the 128 examples: more noise,
  the same optimizer.

Every arm has the best learning rate of 0.001 and 0.003. This and the "best
dropout" are chosen by the validation error.

Claims are judged on test errors in percent, with paired seeds. The variance
shift is the mean of max(r, 1/r) over the units of the second norm, where r is
the variance of a unit's input over the test set in evaluation mode, divided by
its running variance.

Sources: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 3.4;
Hoffer et al., 2017, https://arxiv.org/abs/1705.08741 (ghost batches); Li et
al., 2018, https://arxiv.org/abs/1801.05134 (variance shift: a DenseNet falls
from 77.42 to 68.55 % on CIFAR-100 with dropout 0.5 in every bottleneck).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax
from flax import linen as nn

from experiments.lab import figures, options, parsers, study
from experiments.lab.claims import Above, Below, Claim, Rises
from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Batch, with_random_targets
from experiments.lab.errors import RefusedError
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.probes import signals
from experiments.lab.statistics import (
  interval,
  paired_difference,
  trend,
)
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification
from experiments.regularize.ghost import make_ghost

RATES = (1e-3, 3e-3)
DROPOUTS = (0.0, 0.2, 0.5)
GHOSTS = (8, 32)
BATCH = 128

REPLACES = Claim(
  "batch norm replaces dropout (best: {dropout})",
  source="Ioffe & Szegedy 2015",
  quantity="error without dropout minus none with its best dropout",
  criterion=Below(0),
  unit="points",
  form="+.2f",
)
REGULARIZES = Claim(
  "batch norm regularizes where labels are noisy",
  source="Ioffe & Szegedy 2015",
  quantity="error without dropout minus none without dropout",
  criterion=Below(0),
  unit="points",
  form="+.2f",
)
NOISE = Claim(
  "the noise of batch norm regularizes",
  source="Hoffer et al. 2017",
  quantity="error over ghost sizes 8, 32, 128",
  criterion=Rises(0.05),
)
SHIFTS = Claim(
  "dropout 0.5 before batch norm shifts the variance",
  source="Li et al. 2018",
  quantity="test variance over running variance",
  criterion=Above(1.1),
  form=".2f",
)
CLAIMS = (REPLACES, REGULARIZES, NOISE, SHIFTS)

QUICK = {"seeds": 2, "epochs": 5, "hidden": (32, 32)}
FULL = {"train": 30_000, "epochs": 100, "halve": False}


@dataclasses.dataclass(frozen=True)
class Config(options.HalvedImageConfig):
  """The data, and how long to train."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "ln"),
    "Norms to compare; the first must be none.",
    parsers.NORMS_AFTER_NONE,
  )
  train: int = option(2048, "Maximum number of training images.", parsers.COUNT)
  noise: float = option(
    0.2, "Share of training labels that are random.", parsers.NUMBER
  )
  epochs: int = option(30, "Number of epochs.", parsers.COUNT)
  hidden: tuple[int, ...] = option(
    (256, 256), "Width of each hidden layer.", parsers.COUNTS
  )


def train(
  norm: Callable[..., nn.Module],
  dropout: float,
  config: Config,
  images: Images,
  validation: Batch,
) -> Parts:
  """Returns errors, losses and variance shift `[seeds]` at the best rate."""
  model = MLP(norm=norm, hidden=config.hidden, dropout=dropout)
  steps = config.epochs * (len(images.train.targets) // BATCH)
  engine, state, records = classification.train_at_rates(
    model,
    optax.adam,
    images,
    batch_size=BATCH,
    seeds=config.seed_numbers,
    rates=RATES,
    steps=steps,
  )
  variables = state.variables
  others = {
    "validation": classification.error(engine, variables, validation),
    "nll": engine.evaluate(variables, images.test)["loss"],
    "train_loss": records.loss[:, -steps // config.epochs :].mean(axis=1),
  }
  if "batch_stats" in variables:
    inputs = images.prepare(images.test.inputs)
    shift = functools.partial(signals.variance_shift, model, inputs)
    others["shift"] = np.asarray(jax.vmap(shift)(variables))
  found = classification.results(engine, state, images, len(RATES), **others)
  return classification.at_best_rate(found, "validation", RATES)


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  images = run.load_images(config.dataset, halved=config.halve)
  count = min(config.train, len(images.train.targets) // 2)
  if count < BATCH:
    raise RefusedError(f"--train must be at least {BATCH}, got {count} images.")
  validation = images.train.some(slice(count, 2 * count))
  noisy = with_random_targets(
    images.train.first(count), config.noise, images.num_classes
  )
  images = images._replace(train=noisy)
  part = functools.partial(
    train, config=config, images=images, validation=validation
  )
  arms = {
    (norm, dropout): run.part(
      f"{norm}_{dropout}",
      functools.partial(part, norm_factory(norm), dropout),
    )
    for norm in config.norm
    for dropout in DROPOUTS
  }
  for size in GHOSTS if "bn" in config.norm else ():
    ghost = functools.partial(make_ghost, size=size)
    arms[f"ghost {size}", 0.0] = run.part(
      f"ghost_{size}", functools.partial(part, ghost, 0.0)
    )
  columns = ("error", "reestimated", "nll", "train_loss", "shift")
  rows = [
    [norm, dropout, float(arm["rate"])]
    + [
      f"{interval(arm[name]):.2f}" if name in arm else None for name in columns
    ]
    for (norm, dropout), arm in arms.items()
  ]
  headers = ["norm", "dropout", "rate", "error (%)"]
  headers += ["re-estimated (%)", "test loss", "training loss"]
  print(table(rows, [*headers, "shift"]))
  if {"none", "bn"} <= set(config.norm):
    judge(arms, run)
  _draw(arms, config, images.name, run)


def judge(arms: Mapping[tuple[str, float], Parts], run: Run) -> None:
  """Judges the claims on arms by norm and dropout."""
  best = min(DROPOUTS, key=lambda p: arms["none", p]["validation"].mean())
  plain = arms["bn", 0.0]["error"]
  replaces, regularizes = (
    paired_difference(plain, arms["none", dropout]["error"])
    for dropout in (best, 0.0)
  )
  run.judge(REPLACES, replaces, dropout=best)
  run.judge(REGULARIZES, regularizes)
  errors = [arms[f"ghost {size}", 0.0]["error"] for size in GHOSTS]
  run.judge(NOISE, trend([*errors, plain]))
  run.judge(SHIFTS, interval(arms["bn", 0.5]["shift"]))


def _draw(
  arms: Mapping[tuple[str, float], Parts], config: Config, data: str, run: Run
) -> None:
  with figures.drawing(
    run,
    "regularize",
    title=f"{100 * config.noise:g}% random labels, {data}",
    caption=f"{figures.seeds_caption(config.seeds)}; each at its best rate",
  ) as axes:
    for norm in config.norm:
      values = [arms[norm, dropout]["error"] for dropout in DROPOUTS]
      figures.curve(axes[0], DROPOUTS, np.transpose(values), norm)
    figures.label(axes[0], "Dropout", "Share dropped", "Test error (%)")
    if "bn" in config.norm:
      sizes = [*GHOSTS, BATCH]
      values = [arms[f"ghost {size}", 0.0]["error"] for size in GHOSTS]
      values.append(arms["bn", 0.0]["error"])
      figures.curve(axes[1], sizes, np.transpose(values), "bn")
      axes[1].set_xscale("log", base=2)
      axes[1].set_xticks(sizes, map(str, sizes))
    figures.label(
      axes[1], "Batch norm over ghost batches", "Examples in a ghost batch",
      "Test error (%)",
    )  # fmt: skip


if __name__ == "__main__":
  study.main("regularize", measure, Config(), CLAIMS, quick=QUICK, full=FULL)
