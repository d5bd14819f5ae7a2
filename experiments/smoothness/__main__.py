"""Whether batch norm makes the loss smoother along the gradient.

    python -m experiments.smoothness

A net of eight hidden layers of 100 ReLUs (He's initialization, images halved to
14x14) is trained by SGD, batches of 128, 300 steps at each of three learning
rates. Every 20 steps the loss and its gradient are computed at eight points
along the gradient of the minibatch, at 0.5 to 4 learning rates. Every 100
steps, the largest eigenvalue of the Hessian is computed with the Lanczos
method. Another arm, "noisy", is only trained: batch norm followed by noise,
with a different distribution at each step. About two minutes on two cores.

Seeds are paired. A number in decades is the mean over probes of the logarithm
to base 10, none minus batch norm. Internal covariate shift is measured by the
cosine between a layer's gradients before and after the step of the layers below
it. In a net with norms, the scale of the weights changes the smoothness
arbitrarily; so the table also shows smoothness times the weights' squared
length.

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

from experiments.lab import figures, options, parsers, study
from experiments.lab.claims import Above, Below, Claim
from experiments.lab.data.arrays import Images
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.probes import landscape
from experiments.lab.statistics import (
  best_rate,
  mean_log10,
  paired_difference,
  shown,
)
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification, lanes
from experiments.lab.training.engine import Engine
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.step import TrainState
from experiments.smoothness.noisy import NoisyBatchNorm

RATES = (0.03, 0.1, 0.3)
EQUAL = RATES.index(0.1)
PROBE_EVERY, SHARPNESS_EVERY = 20, 5  # Steps, probes.
SHARPNESS_BATCH, LAST = 500, 50  # Examples, steps.
QUANTITIES = ("range", "change", "beta", "scaled_beta", "cosine")
PANELS = {
  "Range of the loss": "Cross-entropy (nats)",
  "Change of the gradient": "Norm (nats per weight)",
  "Effective smoothness": "Change / step length",
  "Sharpness": "Largest eigenvalue of the Hessian",
}

SOURCE = "Santurkar et al. 2018"


def _smoother(what: str, factor: float, meaning: str = "") -> Claim:
  return Claim(
    f"with batch norm, {what} ({{how}})",
    source=SOURCE,
    quantity="log10(none / bn)",
    criterion=Above(float(np.log10(factor)), meaning),
    unit="decades",
    form=".2f",
  )


RANGE = _smoother("the loss varies less along the gradient", 3, "a factor of 3")
CHANGE = _smoother("the gradient changes less", 2, "a factor of 2")
BETA = _smoother("effective smoothness is better", 1)
SHARPNESS = _smoother("sharpness is lower", 1)
SHIFT = Claim(
  "batch norm does not reduce internal covariate shift (rate 0.1)",
  source=SOURCE,
  quantity="cosine of layer gradients, bn - none,",
  criterion=Below(0.05),
  form="+.3f",
)
NOISY = Claim(
  "with noise that moves distributions, batch norm trains no worse than none",
  source=SOURCE,
  quantity="final loss minus that of none, each at its best rate,",
  criterion=Below(0),
  unit="nats",
  form="+.3f",
)
CLAIMS = (RANGE, CHANGE, BETA, SHARPNESS, SHIFT, NOISY)

QUICK = {"seeds": 2, "steps": 100, "hidden": (50, 50, 50)}
FULL = {"steps": 15_000, "halve": False}


@dataclasses.dataclass(frozen=True)
class Config(options.HalvedImageConfig):
  """The arms."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "ln"),
    "Norms to compare; the first must be none.",
    parsers.NORMS_AFTER_NONE,
  )
  hidden: tuple[int, ...] = option(
    (100,) * 8, "Width of each hidden layer.", parsers.COUNTS
  )
  steps: int = option(300, "Training steps.", parsers.COUNT)


def begin(
  norm: Callable[..., nn.Module], config: Config, images: Images
) -> tuple[Engine, TrainState]:
  """Returns the engine that trains a net, and its initial state."""
  init = nn.initializers.he_normal()
  model = MLP(norm=norm, hidden=config.hidden, kernel_init=init)
  engine = classification.classifier(
    model, swept(optax.sgd), images, batch_size=128
  )
  return engine, engine.init(config.seed_numbers, learning_rate=RATES)


def final_losses(losses: np.ndarray, config: Config) -> np.ndarray:
  """Returns the mean losses `[rates, seeds]` of the last steps."""
  final = losses[:, -LAST:].mean(axis=1)
  return final.reshape(len(RATES), config.seeds)


def train_noisy(config: Config, images: Images) -> Parts:
  """Returns the final losses with noise after batch norm."""
  engine, state = begin(NoisyBatchNorm, config, images)
  _, records = engine.train(state, config.steps)
  return {"final": final_losses(records.loss, config)}


def train(norm: str, config: Config, images: Images) -> Parts:
  """Returns probes `[rates, seeds, probes]`, losses, and sharpness."""
  engine, state = begin(norm_factory(norm), config, images)
  rates = lanes.per_lane(RATES, config.seeds)
  first = lanes.one(state, 0)
  loss = landscape.make_loss(engine.model, first.variables, images.prepare)
  sharpness = landscape.Sharpness(loss, first.params)
  fixed = images.train.first(SHARPNESS_BATCH)
  probe = jax.jit(jax.vmap(functools.partial(landscape.probe, loss)))

  probes, losses, sharp = [], [], []
  for number in range(-(-config.steps // PROBE_EVERY)):
    batch = engine.next_batch(state)
    probes.append(probe(state.params, batch, rates))
    if number % SHARPNESS_EVERY == SHARPNESS_EVERY - 1:
      equal = range(EQUAL * config.seeds, (EQUAL + 1) * config.seeds)
      sharp.append(
        [sharpness(lanes.one(state.params, lane), fixed) for lane in equal]
      )
    left = config.steps - number * PROBE_EVERY
    state, records = engine.train(state, min(PROBE_EVERY, left))
    losses.append(records.loss)
  shape = len(RATES), config.seeds, -1
  return {
    **{
      name: np.stack([p[name] for p in probes], axis=1).reshape(shape)
      for name in QUANTITIES
    },
    "final": final_losses(np.concatenate(losses, axis=1), config),
    "sharpness": np.transpose(sharp),
  }


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  images = run.load_images(config.dataset, halved=config.halve)
  arms = {
    norm: run.part(norm, functools.partial(train, norm, config, images))
    for norm in config.norm
  }
  rows = []
  for norm, arm in arms.items():
    for index, rate in enumerate(RATES):
      cells = [arm["final"][index]]
      cells += [mean_log10(arm[name][index]) for name in QUANTITIES[:-1]]
      cells.append(arm["cosine"][index].mean(axis=-1))
      rows.append([norm, rate, *(shown(values, ".3f") for values in cells)])
  headers = ["norm", "rate", "final loss", "lg range"]
  headers += ["lg change", "lg beta", "lg beta |W|²"]
  if {"none", "bn"} <= set(config.norm):
    noisy = run.part("noisy", functools.partial(train_noisy, config, images))
    rows += [
      ["noisy", rate, shown(final, ".3f"), *[""] * 5]
      for rate, final in zip(RATES, noisy["final"], strict=True)
    ]
  print(table(rows, [*headers, "cosine"]))
  if {"none", "bn"} <= set(config.norm):
    judge(arms["none"], arms["bn"], noisy, run)
  _draw(arms, config, images.name, run)


def judge(none: Parts, bn: Parts, noisy: Parts, run: Run) -> None:
  """Judges batch norm, and batch norm followed by noise, against none."""

  def smoother(claim: Claim, name: str, tuned: bool = False) -> None:
    first, second = (
      mean_log10(arm[name][best_rate(arm["final"]) if tuned else EQUAL])
      for arm in (none, bn)
    )
    how = "each at its best rate" if tuned else "rate 0.1"
    run.judge(claim, paired_difference(first, second), how=how)

  for claim, name in ((RANGE, "range"), (CHANGE, "change")):
    smoother(claim, name)
    smoother(claim, name, tuned=True)
  smoother(BETA, "beta")
  sharp = (mean_log10(arm["sharpness"]) for arm in (none, bn))
  run.judge(SHARPNESS, paired_difference(*sharp), how="rate 0.1")
  cosines = (arm["cosine"][EQUAL].mean(axis=-1) for arm in (bn, none))
  run.judge(SHIFT, paired_difference(*cosines))
  final = (arm["final"][best_rate(arm["final"])] for arm in (noisy, none))
  run.judge(NOISY, paired_difference(*final))


def _draw(
  arms: Mapping[str, Parts], config: Config, data: str, run: Run
) -> None:
  steps = np.arange(0, config.steps, PROBE_EVERY)
  sharp = steps[SHARPNESS_EVERY - 1 :: SHARPNESS_EVERY]
  with figures.drawing(
    run,
    "smoothness",
    rows=2,
    title=f"Along the gradient, {data}, {len(config.hidden)} layers, SGD 0.1",
    caption=figures.seeds_caption(config.seeds),
  ) as axes:
    for norm, arm in arms.items():
      for panel, name in zip(axes, ("range", "change", "beta"), strict=False):
        figures.curve(panel, steps, arm[name][EQUAL], norm, geometric=True)
      figures.curve(axes[3], sharp, arm["sharpness"], norm, geometric=True)
    for panel, (title, unit) in zip(axes, PANELS.items(), strict=True):
      figures.label(panel, title, "Training step", unit, log_y=True)


if __name__ == "__main__":
  study.main("smoothness", measure, Config(), CLAIMS, quick=QUICK, full=FULL)
