"""Whether batch norm makes the loss smoother along the gradient.

    python -m experiments.smoothness

A net of eight hidden layers of 100 ReLUs (He's initialization, images halved to
14x14) is trained by SGD, batches of 128, 300 steps, at a learning rate of 0.1
and at the best rate of each norm. Every 20 steps the loss and its gradient are
computed at eight points along the gradient of the minibatch, at 0.5 to 4
learning rates. Every 100 steps at the rate 0.1, the largest eigenvalue of the
Hessian is computed with the Lanczos method. Another arm, "noisy", is only
trained: batch norm followed by noise, with a different distribution at each
step. About three minutes on two cores.

The best rate is that with the lowest validation loss of other seeds, in
training mode: batch norm uses the statistics of each batch, and there is noise.
A seed determines initialization, order of the data, noise, and which images are
for training and validation; arms share it, so they are paired.

The range and the changes along the gradient, and the eigenvalue, are medians
over the probes of a training; the cosine is a mean. Medians below 1.2e-7, the
rounding of float32, count as this. At the best rates, the steps of the norms
differ in length. Internal covariate shift is measured by the cosine between a
layer's gradients before and after the step of the layers below it: 1 if their
step does not matter, 0 if the gradients are unrelated. In a net with norms, the
scale of the weights changes the smoothness arbitrarily; so the table also shows
smoothness times the weights' squared length.

Sources: Santurkar et al., 2018, https://arxiv.org/abs/1805.11604, sections 2.1
(noise), 2.2 (shift) and 3.1 (smoothness), with VGG on CIFAR-10; the sizes of
the noise here are our own. On the Hessian: Ghorbani et al., 2019,
https://arxiv.org/abs/1901.10159, report that residual nets without batch norm
have isolated large eigenvalues, which batch norm suppresses. Yao et al., 2020
(PyHessian), https://arxiv.org/abs/1912.07145, find that batch norm does not
always smooth the loss, especially in shallower nets.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from absl import flags
from flax import linen as nn

from experiments.lab import figures, options, parsers, study, tuning
from experiments.lab.claims import (
  Below,
  Claim,
  Difference,
  Effect,
  Ratio,
  Within,
)
from experiments.lab.data.arrays import Pool
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.probes import landscape
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification, lanes
from experiments.smoothness.noisy import NoisyBatchNorm

RATES = tuning.half_decades(-4, 1)
EQUAL = 0.1
BATCH = 128
PROBE_EVERY, SHARPNESS_EVERY = 20, 5  # Steps, probes.
SHARPNESS_BATCH, LAST = 500, 50  # Examples, steps.
ROUNDING = float(np.finfo(np.float32).eps)  # Smaller medians count as this.
QUANTITIES = ("range", "change", "beta", "scaled_beta", "cosine")
PANELS = {
  "Range of the loss": "Cross-entropy (nats)",
  "Change of the gradient": "Norm (nats per weight)",
  "Effective smoothness": "Change / step length",
  "Sharpness": "Largest eigenvalue of the Hessian",
}

_SMOOTHNESS = "Santurkar et al. 2018, section 3.1"
_DIRECTION = f"ours; {_SMOOTHNESS}, show curves without numbers"
_AT_EQUAL = "at a learning rate of 0.1"
_AT_BEST = "each at its best rate"
_HALF_DECADE = "ours: half an order of magnitude; the source gives no number"
_MEDIAN = (
  "over probes, the geometric mean was taken until the seeds 100 to 119 on the"
  " digits had been judged"
)


def _smoother(name: str, what: str, **others: Any) -> Claim:
  """Returns the claim that batch norm has a smaller quantity."""
  return Claim(
    name,
    f"without a norm, {what} at least {{margin}} times as much as with batch"
    " norm, "
    + (
      "along steps of the best rate of each"
      if name.endswith("_best_rates")
      else _AT_EQUAL
    ),
    samples=("none", "bn"),
    analysis=Ratio(),
    **others,
  )


_RANGE: dict[str, Any] = {
  "what": "the loss varies along the gradient",
  "source": _DIRECTION,
  "quantity": "range of the loss along the gradient",
  "criterion": Effect(3, none=1),
  "why": _HALF_DECADE,
  "pilot": _MEDIAN,
}
_PREDICTIVENESS: dict[str, Any] = {
  "what": "the gradient changes along its direction",
  "source": _SMOOTHNESS,
  "quantity": "largest change of the gradient along it",
  "criterion": Effect(10, none=1),
  "why": "one order of magnitude; the source says 'close to two orders'",
  "pilot": "the margin was 2, without a source, when a pilot on MNIST gave 7;"
  f" {_MEDIAN}",
}
RANGE = _smoother("range", headline=True, spread=0.94, **_RANGE)
RANGE_TUNED = _smoother("range_best_rates", spread=0.83, **_RANGE)
PREDICTIVENESS = _smoother("predictiveness", spread=0.6, **_PREDICTIVENESS)
PREDICTIVENESS_TUNED = _smoother(
  "predictiveness_best_rates", spread=0.56, **_PREDICTIVENESS
)
BETA = _smoother(
  "beta",
  "the gradient changes per length of the step",
  source=_DIRECTION,
  quantity="largest change of the gradient / length of the step",
  criterion=Effect(3, none=1),
  why="ours: half an order of magnitude, as for the range of the loss; by the"
  " pilot it will not be reached, and the size of the effect is what is of"
  " interest",
  spread=0.17,
  pilot="the margin was 1, any effect at all, when a pilot on MNIST gave 1.6;"
  f" {_MEDIAN}",
)
SHARPNESS = Claim(
  "sharpness",
  "without a norm, the largest eigenvalue of the Hessian is at least {margin}"
  f" times as large as with batch norm, {_AT_EQUAL}",
  source="ours; Ghorbani et al. 2019 report fewer outliers with batch norm, Yao"
  " et al. 2020 no smoother loss in shallow nets",
  quantity="largest eigenvalue of the Hessian",
  samples=("none", "bn"),
  analysis=Ratio(),
  criterion=Effect(3, none=1),
  why="ours: half an order of magnitude; the sources are on other quantities",
  spread=0.2,
  pilot="the margin was 1, any effect at all, when a pilot on MNIST gave 4.5;"
  f" {_MEDIAN}",
)
SHIFT = Claim(
  "shift",
  "batch norm does not reduce internal covariate shift: it raises the cosine by"
  f" less than {{margin}}, {_AT_EQUAL}",
  source="Santurkar et al. 2018, section 2.2",
  quantity="cosine of a layer's gradients",
  samples=("bn", "none"),
  analysis=Difference(),
  criterion=Below(0.05),
  why="ours: a twentieth of the way from unrelated to equal gradients; the"
  " source reports similar or more shift, without a number",
  form="+.3f",
  spread=0.032,
)
_NOISE: dict[str, Any] = {
  "source": "Santurkar et al. 2018, section 2.1",
  "quantity": "training error of the last 50 steps",
  "analysis": Difference(),
  "unit": "points",
  "form": "+.2f",
}
NOISY_ALIKE = Claim(
  "noisy_as_good_as_clean",
  "batch norm followed by noise, which moves its distributions, errs within"
  f" {{margin}} point of batch norm without, {_AT_BEST}",
  samples=("noisy bn", "bn"),
  criterion=Within(1),
  spread=0.21,
  pilot="rates were chosen by a validation loss without noise, until a pilot on"
  " MNIST showed that it is above that of no norm, because the running"
  " statistics are those with noise",
  why="the source calls the difference almost non-existent; one point is a"
  " third of the three or so that its batch norm gains",
  headline=True,
  **_NOISE,
)
NOISY_BETTER = Claim(
  "noisy_better_than_none",
  "batch norm followed by noise errs at least {margin} point less than no norm,"
  f" {_AT_BEST}",
  samples=("noisy bn", "none"),
  criterion=Effect(-1),
  why="a point is the largest difference that counts as none in"
  " noisy_as_good_as_clean",
  pilot="judged by rank, because without a norm a few seeds did not train: the"
  " spread was 6.5; on seeds 100 to 119 on the digits, where none failed, the"
  " mean was +0.1 points, UNRESOLVED; the median of these numbers would be"
  " REFUTED",
  headline=True,
  **_NOISE | {"analysis": Difference(by_rank=True)},
)
CLAIMS = (
  RANGE,
  RANGE_TUNED,
  PREDICTIVENESS,
  PREDICTIVENESS_TUNED,
  BETA,
  SHARPNESS,
  SHIFT,
  NOISY_ALIKE,
  NOISY_BETTER,
)


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The arms."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "ln"),
    "Norms to compare; the first must be none.",
    parsers.NORMS_AFTER_NONE,
  )
  hidden: tuple[int, ...] = option(
    (100,) * 8, "Width of each hidden layer.", parsers.COUNTS
  )
  steps: int = option(
    300,
    "Training steps.",
    flags.IntegerParser(lower_bound=PROBE_EVERY * SHARPNESS_EVERY),
  )


Norm = Callable[..., nn.Module]


def net(norm: Norm, config: Config) -> MLP:
  """Returns the net with this norm."""
  init = nn.initializers.he_normal()
  return MLP(norm=norm, hidden=config.hidden, kernel_init=init)


def train(
  norm: Norm,
  config: Config,
  pool: Pool,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  """Returns validation losses and training errors in percent `[rates, seeds]`.

  The error is of the minibatches of the last steps, before each step.
  """
  images = pool.split(seeds, len(rates))
  engine, state, records = classification.train_at_rates(
    net(norm, config),
    optax.sgd,
    images,
    batch_size=BATCH,
    seeds=seeds,
    rates=rates,
    steps=config.steps,
    gain=config.gain,
  )
  assert images.validation is not None  # Pools have one.
  # In training mode, because the running statistics are those with noise.
  metrics = engine.evaluate(
    state.variables, images.validation, size=BATCH, train=True
  )
  right = records.sums["accuracy"] / records.sums["count"]
  found = {
    "validation": metrics["loss"],
    "error": 100 * (1 - right[:, -LAST:].mean(axis=1)),
  }
  return lanes.by_rate(found, len(rates))


def probe(
  norm: Norm, config: Config, pool: Pool, rates: Sequence[float]
) -> Parts:
  """Returns probes `[rates, seeds, probes]`, and sharpness at the first rate.

  Sharpness is `[seeds, probes]`, at fewer probes.
  """
  seeds = config.seed_numbers
  images = pool.split(seeds, len(rates))
  engine, state = classification.at_rates(
    net(norm, config),
    optax.sgd,
    images,
    batch_size=BATCH,
    seeds=seeds,
    rates=rates,
    gain=config.gain,
  )
  first = lanes.one(state, 0)
  loss = landscape.make_loss(engine.model, first.variables, images.prepare)
  sharpness = landscape.Sharpness(loss, first.params)
  fixed = images.train.first(SHARPNESS_BATCH)
  along = jax.jit(jax.vmap(functools.partial(landscape.probe, loss)))

  probes, sharp = [], []
  for number in range(-(-config.steps // PROBE_EVERY)):
    batch = engine.next_batch(state)
    probes.append(along(state.params, batch, lanes.per_lane(rates, len(seeds))))
    if number % SHARPNESS_EVERY == SHARPNESS_EVERY - 1:
      sharp.append(
        [
          sharpness(lanes.one(state.params, lane), fixed.lane(lane))
          for lane in range(len(seeds))
        ]
      )
    left = config.steps - number * PROBE_EVERY
    state, _ = engine.train(state, min(PROBE_EVERY, left))
  found = {
    name: np.stack([p[name] for p in probes], axis=1) for name in QUANTITIES
  }
  return {
    **lanes.by_rate(found, len(rates)),
    "sharpness": np.transpose(sharp),
  }


def typical(values: np.ndarray) -> np.ndarray:
  """Returns the median over the probes, which are the last axis."""
  return np.maximum(np.median(values, axis=-1), ROUNDING)


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  pool = run.load_pool(config.dataset, halved=config.halve)
  norms: dict[str, Norm] = {name: norm_factory(name) for name in config.norm}
  judged = "bn" in norms
  arms = {
    name: tuning.tuned(
      run, name, functools.partial(train, norm, config, pool), RATES, config
    )
    for name, norm in [*norms.items(), *[("noisy", NoisyBatchNorm)] * judged]
  }
  equal = EQUAL * config.rate_factor
  probes = {}
  for name, norm in norms.items():
    rates = list(dict.fromkeys([equal, float(arms[name]["rate"])]))
    part = functools.partial(probe, norm, config, pool, rates)
    probes[name] = run.part(f"{name}_probes", part)
  _show(arms, probes, equal)
  if judged:
    judge(arms, probes, run)
  _draw(probes, config, pool.name, run)


def _show(
  arms: Mapping[str, Parts], probes: Mapping[str, Parts], equal: float
) -> None:
  rows = [
    [
      name,
      f"{arm['rate']:.2g}",
      shown(arm["validation"], ".3f"),
      shown(arm["error"], ".2f"),
    ]
    for name, arm in arms.items()
  ]
  headers = ["norm", "best rate", "validation loss", "training error (%)"]
  print(table(rows, headers))
  rows = []
  for name, found in probes.items():
    at = dict.fromkeys([equal, float(arms[name]["rate"])])
    for index, rate in enumerate(at):
      cells = [
        np.log10(typical(found[quantity][index]))
        for quantity in QUANTITIES[:-1]
      ]
      cells.append(found["cosine"][index].mean(axis=-1))
      rows.append(
        [name, f"{rate:.2g}", *(shown(values, ".2f") for values in cells)]
      )
  headers = ["norm", "rate", "lg range", "lg change", "lg beta"]
  print(table(rows, [*headers, "lg beta |W|²", "cosine"]))


def judge(
  arms: Mapping[str, Parts], probes: Mapping[str, Parts], run: Run
) -> None:
  """Judges batch norm, and batch norm followed by noise, against none.

  Args:
    arms: Every arm at its best rate.
    probes: From `probe`; the first rate is equal, the last the best one.
    run: Gets the samples.
  """
  none, bn = probes["none"], probes["bn"]
  for claim, name, rate in (
    (RANGE, "range", 0),
    (RANGE_TUNED, "range", -1),
    (PREDICTIVENESS, "change", 0),
    (PREDICTIVENESS_TUNED, "change", -1),
    (BETA, "beta", 0),
  ):
    run.judge(claim, *(typical(arm[name][rate]) for arm in (none, bn)))
  sharp = (typical(arm["sharpness"]) for arm in (none, bn))
  run.judge(SHARPNESS, *sharp)
  # Of diverged seeds, gradients are unrelated.
  cosines = (np.nan_to_num(arm["cosine"][0]) for arm in (bn, none))
  run.judge(SHIFT, *(cosine.mean(axis=-1) for cosine in cosines))
  run.judge(NOISY_ALIKE, arms["noisy"]["error"], arms["bn"]["error"])
  run.judge(NOISY_BETTER, arms["noisy"]["error"], arms["none"]["error"])


def _draw(
  probes: Mapping[str, Parts], config: Config, data: str, run: Run
) -> None:
  steps = np.arange(0, config.steps, PROBE_EVERY)
  sharp = steps[SHARPNESS_EVERY - 1 :: SHARPNESS_EVERY]
  with figures.drawing(
    run,
    "smoothness",
    rows=2,
    title=f"Along the gradient, {data}, {len(config.hidden)} layers, SGD"
    f" {EQUAL * config.rate_factor:g}",
    caption=figures.seeds_caption(config.seeds),
  ) as axes:
    for norm, found in probes.items():
      for panel, name in zip(axes, ("range", "change", "beta"), strict=False):
        figures.curve(panel, steps, found[name][0], norm, geometric=True)
      figures.curve(axes[3], sharp, found["sharpness"], norm, geometric=True)
    for panel, (title, unit) in zip(axes, PANELS.items(), strict=True):
      figures.label(panel, title, "Training step", unit, log_y=True)


STUDY = study.Study(
  "smoothness",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "steps": 100,
    "hidden": (50, 50, 50),
    "norm": ("none", "bn"),
  },
  full={"steps": 15_000, "halve": False},
  confirm={"seed": 120, "seeds": 20},
  sensitivity={
    "rate_factor": (10**-0.5, 10**0.5),
    "gain": (0.5, 2.0),
    "steps": (150, 600),
    "hidden": ((50,) * 8, (200,) * 8),
  },
)

if __name__ == "__main__":
  study.main(STUDY)
