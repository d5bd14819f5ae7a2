"""Whether batch norm smooths the loss, as the optimizer sees it.

    python -m experiments.smoothness

A net of eight hidden layers of 100 ReLUs (He's initialization, images halved to
14x14) under SGD, batches of 128, 300 steps at each of three learning rates.
Every 20 steps the loss and its gradient are computed at eight points along the
gradient of the minibatch, 0.5 to 4 learning rates away; every 100 steps, the
largest eigenvalue of the Hessian, by Lanczos' method. One more arm only trains:
"noisy", batch norm with noise after it, of another distribution at each step.
About two minutes on two cores.

Claims, seeds paired; a number is the mean over probes of the logarithm to base
10, and the claim is on the difference none - batch norm. 1 to 4 at the equal
rate 0.1; 1 and 2 also with both arms at their best rate (lowest final loss).
  1. The loss varies less along the gradient: by a factor above 3.
  2. The gradient changes less: by a factor above 2.
  3. Effective smoothness, |change of the gradient| over the step's length, is
     better: by a factor above 1.
  4. Sharpness after the start is lower: by a factor above 1.
  5. Batch norm does not reduce internal covariate shift (the paper's finding):
     the cosine between a layer's gradient before and after the layers below
     took their step is higher by less than 0.05, at the equal rate.
  6. What batch norm does is not to hold distributions still: with noise that
     moves them, it trains no worse than none; final loss minus that of none,
     both at their best rate, below 0.
Each is CONFIRMED or REFUTED where the whole 95% interval is on one side. A net
with norms has any smoothness one likes, by the scale of its weights: the table
therefore shows smoothness times the weights' squared length too.

Source: Santurkar et al., 2018, https://arxiv.org/abs/1805.11604, sections 2.1,
2.2 and 3.1; the constants of the noise are our own.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax
from flax import linen as nn

from experiments.lab import landscape, panels, reporting, study
from experiments.lab.models import MLP
from experiments.lab.noisy import NoisyBatchNorm
from experiments.lab.study import Parts, Run, option
from experiments.lab.sweep import (
  Images,
  Sweep,
  best_rate,
  load_images,
  norm_factory,
)
from experiments.lab.train_step import Examples, TrainState

SOURCE = "Santurkar et al. 2018"
RATES = (0.03, 0.1, 0.3)
EQUAL = RATES.index(0.1)
PROBE_EVERY, SHARPNESS_EVERY = 20, 5  # Steps, probes.
SHARPNESS_BATCH = 500
LAST = 50  # Steps.
QUANTITIES = ("range", "change", "beta", "scaled_beta", "cosine")


@dataclasses.dataclass(frozen=True)
class Config(study.HalvedImageConfig):
  """The arms."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "ln"), "The norms, none first.", study.NORMS
  )
  hidden: tuple[int, ...] = option(
    (100,) * 8, "Width of each hidden layer.", study.COUNTS
  )
  steps: int = option(300, "Training steps.", study.COUNT)


def begin(
  norm: Callable[..., nn.Module], config: Config, images: Images
) -> tuple[Sweep, TrainState, jax.Array]:
  """Returns what trains a net, where it starts, and the minibatches."""
  model = MLP(
    norm=norm,
    hidden=config.hidden,
    kernel_init=nn.initializers.he_normal(),
  )
  sweep = Sweep(model, optax.sgd, prepare=images.prepare, batch_size=128)
  state = sweep.start(config.seed_numbers, RATES, images.train.inputs)
  return sweep, state, sweep.orders(state, images.train, config.steps)


def final_losses(losses: np.ndarray, config: Config) -> np.ndarray:
  """Returns the mean losses `[rates, seeds]` of the last steps of a run."""
  final = losses[:, -LAST:].mean(axis=1)
  return final.reshape(len(RATES), config.seeds)


def train_noisy(config: Config, images: Images) -> Parts:
  """Returns the final losses with noise after batch norm."""
  sweep, state, orders = begin(NoisyBatchNorm, config, images)
  _, records = sweep.advance(state, orders, images.train)
  return {"final": final_losses(records["loss"], config)}


def train(norm: str, config: Config, images: Images) -> Parts:
  """Returns probes `[rates, seeds, probes]`, losses, and sharpness."""
  sweep, state, orders = begin(norm_factory(norm), config, images)
  rates = sweep.per_lane(RATES, config.seeds)
  one_lane = jax.tree.map(
    lambda leaf: leaf[0], (state.params, state.batch_stats)
  )
  loss = landscape.make_loss(sweep.model, one_lane[1], images.prepare)
  sharpness = landscape.Sharpness(loss, one_lane[0])
  fixed = Examples(*(array[:SHARPNESS_BATCH] for array in images.train))

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, 0, 0, None))
  def probe(
    params: object, indices: jax.Array, rate: jax.Array, data: Examples
  ) -> dict[str, jax.Array]:
    batch = Examples(*(array[indices] for array in data))
    return landscape.probe(loss, params, batch, rate)

  probes, losses, sharp = [], [], []
  for number, start in enumerate(range(0, config.steps, PROBE_EVERY)):
    part = orders[:, start : start + PROBE_EVERY]
    probes.append(probe(state.params, part[:, 0], rates, images.train))
    if number % SHARPNESS_EVERY == SHARPNESS_EVERY - 1:
      lanes = range(EQUAL * config.seeds, (EQUAL + 1) * config.seeds)
      sharp.append(
        [sharpness(_lane(state.params, lane), fixed) for lane in lanes]
      )
    state, records = sweep.advance(state, part, images.train)
    losses.append(records["loss"])
  shape = len(RATES), config.seeds, -1
  return {
    **{
      name: np.stack([p[name] for p in probes], axis=1).reshape(shape)
      for name in QUANTITIES
    },
    "final": final_losses(np.concatenate(losses, axis=1), config),
    "sharpness": np.transpose(sharp),
  }


def _lane(tree: object, lane: int) -> object:
  return jax.tree.map(lambda leaf: leaf[lane], tree)


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  images = load_images(run, config.dataset, halved=config.halve)
  arms = {
    norm: run.part(norm, functools.partial(train, norm, config, images))
    for norm in config.norm
  }
  rows = []
  for norm, arm in arms.items():
    for index, rate in enumerate(RATES):
      cells = [arm["final"][index]]
      cells += [_mean_log(arm[name][index]) for name in QUANTITIES[:-1]]
      cells.append(arm["cosine"][index].mean(axis=-1))
      rows.append([norm, rate, *map(_shown, cells)])
  headers = ["norm", "rate", "final loss", "log10 loss range"]
  headers += ["log10 gradient change", "log10 beta", "log10 beta |W|²"]
  if {"none", "bn"} <= set(config.norm):
    noisy = run.part("noisy", functools.partial(train_noisy, config, images))
    rows += [
      ["noisy", rate, _shown(final), *[""] * 5]
      for rate, final in zip(RATES, noisy["final"], strict=True)
    ]
  print(reporting.table(rows, [*headers, "gradient cosine"]))
  if {"none", "bn"} <= set(config.norm):
    judge(arms["none"], arms["bn"], noisy, run)
  _draw(arms, config, images.name, run)


def _shown(values: np.ndarray) -> str:
  if not np.isfinite(values).all():
    return "diverged"
  return f"{reporting.interval(values):.3f}"


def _mean_log(values: np.ndarray) -> np.ndarray:
  """Returns the mean over probes of log10, `[..., probes]`."""
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.log10(values).mean(axis=-1)


def judge(none: Parts, bn: Parts, noisy: Parts, run: Run) -> None:
  """Judges batch norm, and batch norm with noise after it, against none."""
  for what, name, factor, best in (
    ("the loss varies less along the gradient", "range", 3, False),
    ("the loss varies less along the gradient", "range", 3, True),
    ("the gradient changes less", "change", 2, False),
    ("the gradient changes less", "change", 2, True),
    ("effective smoothness is better", "beta", 1, False),
    ("sharpness is lower", "sharpness", 1, False),
  ):
    first, second = (
      _mean_log(
        arm[name]
        if name == "sharpness"
        else arm[name][best_rate(arm["final"]) if best else EQUAL]
      )
      for arm in (none, bn)
    )
    claim = (
      f"with batch norm, {what}"
      f" ({'each at its best rate' if best else 'rate 0.1'})"
    )
    criterion = f"factor none / bn above {factor}, in decades"
    difference = reporting.paired_difference(first, second)
    run.judge(
      claim,
      f"{difference:.2f} decades",
      reporting.verdict_above(difference, float(np.log10(factor))),
      criterion=criterion,
      source=SOURCE,
    )
  first, second = (arm["cosine"][EQUAL].mean(axis=-1) for arm in (bn, none))
  difference = reporting.paired_difference(first, second)
  run.judge(
    "batch norm does not reduce internal covariate shift (rate 0.1)",
    f"{difference:+.3f}",
    reporting.verdict_below(difference, 0.05),
    criterion="cosine of layer gradients, bn - none, below 0.05",
    source=SOURCE,
  )
  final = {
    name: arm["final"][best_rate(arm["final"])]
    for name, arm in (("none", none), ("bn", bn), ("noisy", noisy))
  }
  difference = reporting.paired_difference(final["noisy"], final["none"])
  beside = reporting.paired_difference(final["noisy"], final["bn"])
  run.judge(
    "with noise that moves distributions, batch norm trains no worse than none",
    f"{difference:+.3f} nats ({beside:+.3f} to batch norm)",
    reporting.verdict_below(difference, 0),
    criterion="final loss minus none's, each at its best rate, below 0",
    source=SOURCE,
  )


def _draw(
  arms: Mapping[str, Parts], config: Config, data: str, run: Run
) -> None:
  steps = np.arange(0, config.steps, PROBE_EVERY)
  sharp = steps[SHARPNESS_EVERY - 1 :: SHARPNESS_EVERY]
  with panels.drawing(
    run,
    "smoothness",
    rows=2,
    title=f"Along the gradient, {data}, {len(config.hidden)} hidden layers,"
    " SGD at 0.1",
    caption=panels.seeds_caption(config.seeds),
  ) as axes:
    for norm, arm in arms.items():
      for panel, name in zip(axes, ("range", "change", "beta"), strict=False):
        panels.curve(panel, steps, arm[name][EQUAL], norm, geometric=True)
      panels.curve(axes[3], sharp, arm["sharpness"], norm, geometric=True)
    for panel, title, unit in zip(
      axes,
      ("Range of the loss", "Change of the gradient", "Effective smoothness",
       "Sharpness"),
      ("Cross-entropy (nats)", "Norm (nats per weight)", "Change / step length",
       "Largest eigenvalue"),
      strict=True,
    ):  # fmt: skip
      panels.label(panel, title, "Training step", unit, log_y=True)


if __name__ == "__main__":
  study.main(
    "smoothness",
    measure,
    Config(),
    quick={"seeds": 2, "steps": 100, "hidden": (50, 50, 50)},
    full={"steps": 15_000, "halve": False},
  )
