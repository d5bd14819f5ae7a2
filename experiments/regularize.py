"""Whether batch norm regularizes, and whether it replaces dropout.

    python -m experiments.regularize

196-256-256-10 on halved images, 2,048 of them for training with 20% of their
labels random and as many others, clean, for choices; Adam, batches of 128, 30
epochs. About two minutes on two cores. The arms:

* none, bn and ln with dropout 0, 0.2 and 0.5 after each activation;
* batch norm over ghost batches of 8 and 32 of the 128: more noise, the same
  optimizer.

Every arm has its best learning rate of 0.001 and 0.003, and "best dropout" is
the best one, both by the error on the clean images that are not the test set.

Claims, tested on test errors in percent with seeds paired:
  1. Batch norm replaces dropout: its error without dropout minus that of none
     with its best dropout is below 0.
  2. Batch norm regularizes: its error minus none's, both without dropout, is
     below 0.
  3. Its noise regularizes: the error rises with the ghost size. Page's test for
     the trend over 8, 32, 128: CONFIRMED where p < 0.05, REFUTED where the
     opposite trend has p < 0.05.
  4. Dropout 0.5 before batch norm shifts variances: max(r, 1/r), r being a
     unit's variance over the test set in evaluation mode over its running
     variance, mean over the units of the second norm, is above 1.1.
1, 2 and 4 are CONFIRMED or REFUTED where the whole 95% interval is on one side.

Sources: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 3.4
(1, 2); Hoffer et al., 2017, https://arxiv.org/abs/1705.08741 (ghost batches);
Li et al., 2018, https://arxiv.org/abs/1801.05134 (4: a DenseNet falls from
77.42 to 68.55 % on CIFAR-100 with dropout 0.5 in every bottleneck).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.lab import panels, reporting, study
from experiments.lab.ghost import GhostBatchNorm
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
from experiments.lab.train_step import Examples

RATES = (1e-3, 3e-3)
DROPOUTS = (0.0, 0.2, 0.5)
GHOSTS = (8, 32)
BATCH = 128
SHIFTED_ABOVE, P_BELOW = 1.1, 0.05


@dataclasses.dataclass(frozen=True)
class Config(study.HalvedImageConfig):
  """The data and how long to train."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "ln"), "The norms, none first.", study.NORMS
  )
  train: int = option(2048, "Training images.", study.COUNT)
  noise: float = option(
    0.2, "Share of training labels that are random.", study.NUMBER
  )
  epochs: int = option(30, "Epochs.", study.COUNT)
  hidden: tuple[int, ...] = option(
    (256, 256), "Width of each hidden layer.", study.COUNTS
  )


def with_random_labels(
  examples: Examples, share: float, num_classes: int
) -> Examples:
  """Returns the examples with a share of labels drawn anew, always the same."""
  rng = np.random.default_rng(0)
  labels = np.array(examples.labels)
  chosen = rng.permutation(len(labels))[: round(share * len(labels))]
  labels[chosen] = rng.integers(0, num_classes, len(chosen))
  return examples._replace(labels=jnp.asarray(labels))


def train(
  norm: Callable[..., nn.Module],
  dropout: float,
  config: Config,
  images: Images,
  validation: Examples,
) -> Parts:
  """Returns the seeds of the best rate: errors, losses, variance shift."""
  model = MLP(norm=norm, hidden=config.hidden, dropout=dropout)
  sweep = Sweep(model, optax.adam, prepare=images.prepare, batch_size=BATCH)
  state = sweep.start(config.seed_numbers, RATES, images.train.inputs)
  steps = config.epochs * (len(images.train.labels) // BATCH)
  orders = sweep.orders(state, images.train, steps)
  state, records = sweep.advance(state, orders, images.train)
  statistics = sweep.reestimated(state, images.train)
  test = sweep.trainer.evaluate(state.params, state.batch_stats, images.test)
  found = {
    "validation": sweep.error(state, validation),
    "error": sweep.error(state, images.test),
    "nll": test.means()["loss"],
    "train_loss": records["loss"][:, -steps // config.epochs :].mean(axis=1),
    "reestimated": sweep.error(state, images.test, statistics),
  }
  if state.batch_stats:
    inputs = images.prepare(images.test.inputs)
    found["shift"] = jax.vmap(functools.partial(variance_shift, model, inputs))(
      state.params, state.batch_stats
    )
  shaped = {
    name: np.reshape(values, (len(RATES), config.seeds))
    for name, values in found.items()
  }
  best = best_rate(shaped["validation"])
  return {name: values[best] for name, values in shaped.items()} | {
    "rate": np.asarray(RATES[best])
  }


def variance_shift(
  model: MLP, inputs: jax.Array, params: Any, batch_stats: Any
) -> jax.Array:
  """Returns mean max(r, 1/r) of the second norm's units; see the claims."""
  _, state = model.apply(
    {"params": params, "batch_stats": batch_stats},
    inputs,
    train=False,
    capture_intermediates=True,
    mutable=["intermediates"],
  )
  (before,) = state["intermediates"]["Dense_1"]["__call__"]
  (running,) = (
    stats["var"] for name, stats in batch_stats.items() if name.endswith("_1")
  )
  ratio = before.var(axis=0) / running
  return jnp.maximum(ratio, 1 / ratio).mean()


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  images = load_images(run, config.dataset, halved=config.halve)
  count = min(config.train, len(images.train.labels) // 2)
  if count < BATCH:
    raise study.RefusedError(f"--train must be at least {BATCH}.")
  validation = Examples(*(a[count : 2 * count] for a in images.train))
  some = Examples(*(array[:count] for array in images.train))
  noisy = with_random_labels(some, config.noise, images.num_classes)
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
      f"{reporting.interval(arm[name]):.2f}" if name in arm else None
      for name in columns
    ]
    for (norm, dropout), arm in arms.items()
  ]
  headers = ["norm", "dropout", "best rate", "test error (%)"]
  headers += ["re-estimated (%)", "test loss", "training loss"]
  print(reporting.table(rows, [*headers, "variance shift"]))
  if {"none", "bn"} <= set(config.norm):
    judge(arms, run)
  _draw(arms, config, images.name, run)


def make_ghost(
  *, size: int, train: bool, dtype: Any = None, momentum: float = 0.9
) -> nn.Module:
  """Returns the norm as a model asks for it."""
  return GhostBatchNorm(size, train, momentum=momentum, dtype=dtype)


def judge(arms: Mapping[tuple[str, float], Parts], run: Run) -> None:
  """Judges batch norm by norm and dropout."""
  best = min(DROPOUTS, key=lambda p: arms["none", p]["validation"].mean())
  plain = arms["bn", 0.0]["error"]
  for claim, other, which in (
    (f"batch norm replaces dropout (best: {best})", best, "best dropout"),
    ("batch norm regularizes where labels are noisy", 0.0, "no dropout"),
  ):
    difference = paired_difference(plain, arms["none", other]["error"])
    run.judge(
      claim,
      f"{difference:+.2f} points",
      reporting.verdict_below(difference, 0),
      criterion=f"error without dropout minus none with {which} below 0",
      source="Ioffe & Szegedy 2015",
    )
  errors = [arms[f"ghost {size}", 0.0]["error"] for size in GHOSTS]
  p, opposite = trend([*errors, plain])
  run.judge(
    "the noise of batch norm regularizes",
    f"p = {p:.2g}, opposite trend p = {opposite:.2g}",
    Verdict.CONFIRMED
    if p < P_BELOW
    else Verdict.REFUTED
    if opposite < P_BELOW
    else Verdict.UNRESOLVED,
    criterion="Page's test: error rises with ghost size 8, 32, 128, p < 0.05",
    source="Hoffer et al. 2017",
  )
  shift = reporting.interval(arms["bn", 0.5]["shift"])
  run.judge(
    "dropout 0.5 before batch norm shifts the variance",
    f"{shift:.2f}",
    reporting.verdict_above(shift, SHIFTED_ABOVE),
    criterion="test variance over running variance above 1.1",
    source="Li et al. 2018",
  )


def trend(errors: list[np.ndarray]) -> tuple[float, float]:
  """Returns p of Page's test that errors rise, and that they fall."""
  from scipy import stats  # Slow to import.

  if len(errors[0]) < 2:
    return 1.0, 1.0
  rising = np.transpose(errors)
  p, opposite = (
    stats.page_trend_test(values).pvalue for values in (rising, rising[:, ::-1])
  )
  return float(p), float(opposite)


def _draw(
  arms: Mapping[tuple[str, float], Parts], config: Config, data: str, run: Run
) -> None:
  with panels.drawing(
    run,
    "regularize",
    title=f"{100 * config.noise:g}% random labels, {data}",
    caption=f"{panels.seeds_caption(config.seeds)}; each at its best rate",
  ) as axes:
    for norm in config.norm:
      values = [arms[norm, dropout]["error"] for dropout in DROPOUTS]
      panels.curve(axes[0], DROPOUTS, np.transpose(values), norm)
    panels.label(axes[0], "Dropout", "Share dropped", "Test error (%)")
    if "bn" in config.norm:
      sizes = [*GHOSTS, BATCH]
      values = [arms[f"ghost {size}", 0.0]["error"] for size in GHOSTS]
      values.append(arms["bn", 0.0]["error"])
      panels.curve(axes[1], sizes, np.transpose(values), "bn")
      axes[1].set_xscale("log", base=2)
      axes[1].set_xticks(sizes, map(str, sizes))
    panels.label(
      axes[1], "Ghost batches", "Examples that share statistics",
      "Test error (%)",
    )  # fmt: skip


if __name__ == "__main__":
  study.main(
    "regularize",
    measure,
    Config(),
    quick={"seeds": 2, "epochs": 5, "hidden": (32, 32)},
    full={"train": 30_000, "epochs": 100, "halve": False},
  )
