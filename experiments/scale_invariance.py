"""The length of the weights before a norm affects only the learning rate.

    python -m experiments.scale_invariance

A norm cancels the scale of the weights before it. So the gradient at a W is 1/a
of that at W and orthogonal to W, and training from (a W, a^2 learning rate) is
training from (W, learning rate). Weight decay only sets the speed: per step,
the direction of the weights rotates by an angle that depends on learning rate
and weight decay. The net is 784-100-100-10 with batch norm, trained with
batches of 32. About three minutes on two cores.

The first statements are identities, which are checked in float32 with an
epsilon of 1e-12 and have no seeds. The factors a of the gradients are 0.01 to
100, of all units or of every second one.

The claims are of the equilibrium, in which a unit rotates per step by sqrt(2 r
d) with SGD, where r is the learning rate and d the weight decay, by sqrt(2 r d
/ (1 + m)) with momentum m = 0.9, and by sqrt(2 r d (1 - b1) / (1 + b1)) with
AdamW and b1 = 0.9. The formulas hold for small angles and gradients that are
mostly noise. Lengths come to their equilibrium in a multiple of 1 / (2 r d)
steps, which are at most 250 here, and rotation is measured in the last third of
4,500 steps. Learning rates are part of the claims, so none is chosen. A seed
determines its images, the initial weights and the order of the data.

Sources: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 3.3,
for the gradient. Salimans & Kingma, 2016, https://arxiv.org/abs/1602.07868,
section 2, say of weight normalization that the gradient is orthogonal to the
weights; for batch norm it follows from the invariance that van Laarhoven, 2017,
https://arxiv.org/abs/1706.05350, starts from. His effective learning rate,
r / ||W||^2 for SGD, is the third identity. Kosson et al., 2024,
https://arxiv.org/abs/2305.17212, for the rotation; its formulas were derived
again.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from experiments.lab import figures, options, parsers, study
from experiments.lab.claims import Above, Below, Check, Claim, Level
from experiments.lab.data.arrays import Pool
from experiments.lab.data.batch import Batch
from experiments.lab.options import option
from experiments.lab.probes import invariance, rotation
from experiments.lab.probes.rotation import CELLS, measured, predicted
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table

FACTORS = (0.01, 0.1, 10.0, 100.0)
EXACT = 1e-5
MARKERS = {"sgd": "o", "momentum": "s", "adamw": "^"}

_IOFFE = "Ioffe & Szegedy 2015, section 3.3"
INVERSE = Check(
  "inverse",
  "before batch norm, the gradient at a W is 1/a of that at W",
  source=_IOFFE,
  quantity="relative error at epsilon 1e-12",
  criterion=Below(EXACT),
)
EPSILON_SHOWS = Check(
  "epsilon_shows",
  "at the usual epsilon of 1e-5, small weights have another gradient",
  source="ours",
  quantity="relative error at a = 0.01",
  criterion=Above(1e-2),
)
ORTHOGONAL = Check(
  "orthogonal",
  "the gradient of a unit is orthogonal to its weights",
  source="Salimans & Kingma 2016, section 2, for weight normalization; for"
  " batch norm from the invariance in van Laarhoven 2017",
  quantity="largest |cosine|",
  criterion=Below(EXACT),
)
SAME_TRAINING = Check(
  "same_training",
  "training from (a W, a² learning rate) is training from (W, learning rate)",
  source="van Laarhoven 2017; factors are powers of two, since others may"
  " switch a ReLU",
  quantity="largest difference of losses over 100 steps",
  criterion=Below(EXACT),
)
CHECKS = (INVERSE, EPSILON_SHOWS, ORTHOGONAL, SAME_TRAINING)

_ANGLES = {
  "sgd": "with SGD of rate r and weight decay d, units rotate per step by"
  " sqrt(2 r d)",
  "momentum": "with SGD of rate r, weight decay d and momentum m, units rotate"
  " per step by sqrt(2 r d / (1 + m))",
  "adamw": "with AdamW of rate r, weight decay d and b1, units rotate per step"
  " by sqrt(2 r d (1 - b1) / (1 + b1))",
}
_SPREADS = {"sgd": 0.0049, "momentum": 0.0016, "adamw": 0.010}
ROTATION = {
  kind: Claim(
    f"{kind}_rotation",
    f"{angle}, with a relative error below {{margin}} at every setting",
    source="Kosson et al. 2024",
    quantity="largest |measured / predicted angle - 1| of"
    f" {len(CELLS[kind])} settings",
    samples=(kind,),
    analysis=Level(cap=1.0),  # That of a unit that does not rotate.
    criterion=Below(0.1),
    why="the predicted angles differ between products r d by factors of 1.4 and"
    " more, so an error of a tenth does not confuse them",
    form=".3f",
    pilot="the settings: with products r d of 0.001 and 3,000 steps, lengths"
    " were still falling on digits, where angles were up to 15% too small; all"
    " products are now 0.002 or more (with momentum, which is faster, 0.001),"
    " and there are 4,500 steps",
    spread=_SPREADS[kind],
  )
  for kind, angle in _ANGLES.items()
}
CLAIMS = tuple(ROTATION.values())


@dataclasses.dataclass(frozen=True)
class Config(options.ImageConfig):
  """How long to train."""

  steps: int = option(
    4500,
    "Training steps; rotation is measured in the last third.",
    parsers.COUNT,
  )
  batch_size: int = option(32, "Examples in a step.", parsers.COUNT)


def measure(config: Config, run: Run) -> None:
  """Measures, checks, judges and draws."""
  pool = run.load_pool(config.dataset)
  check_gradients(pool.prepared(128), run)
  images = pool.split([config.seed], len(invariance.FACTORS))
  run.check(SAME_TRAINING, invariance.trajectory_error(images, 100))
  parts = {
    kind: run.part(kind, functools.partial(rotate, kind, pool, config))
    for kind in CELLS
  }
  for kind, part in parts.items():
    judge(kind, part, run)
  _show(parts)
  _draw(parts, run)


def rotate(kind: str, pool: Pool, config: Config) -> Parts:
  """Trains with an optimizer at all its settings; see `rotation.train`."""
  return rotation.train(
    kind,
    pool.split(config.seed_numbers, len(CELLS[kind])),
    seeds=config.seed_numbers,
    steps=config.steps,
    batch_size=config.batch_size,
  )


def check_gradients(batch: Batch, run: Run) -> None:
  """Prints and checks the gradients of scaled weights."""
  errors = {
    (name, epsilon, factor, units): invariance.gradient_errors(
      invariance.model(name, epsilon), batch, factor, units
    )
    for name, epsilon, units in (
      ("bn", 1e-12, False),
      ("bn", 1e-12, True),
      ("bn", 1e-5, False),
      ("ln", 1e-12, False),
      ("ln", 1e-12, True),
    )
    for factor in FACTORS
  }
  print()
  print(
    table(
      [
        [name, "every second unit" if units else "all", f"{epsilon:g}"]
        + [f"{errors[name, epsilon, a, units]['error']:.1e}" for a in FACTORS]
        for name, epsilon, units in dict.fromkeys(
          (n, e, u) for n, e, _, u in errors
        )
      ],
      ["norm", "scaled", "epsilon", *(f"a = {a:g}" for a in FACTORS)],
    )
  )
  worst = np.max(
    [
      found["error"]
      for (name, epsilon, *_), found in errors.items()
      if (name, epsilon) == ("bn", 1e-12)
    ]
  )
  run.check(INVERSE, worst)
  run.check(EPSILON_SHOWS, errors["bn", 1e-5, 0.01, False]["error"])
  run.check(ORTHOGONAL, errors["bn", 1e-12, 0.1, False]["cosine"])


def _ratios(kind: str, part: Parts) -> np.ndarray:
  """Returns measured / predicted angles, `[settings, seeds]`."""
  expected = np.array([predicted(kind, *cell) for cell in CELLS[kind]])
  return measured(part) / expected[:, None]


def judge(kind: str, part: Parts, run: Run) -> None:
  """Judges the claim of an optimizer."""
  deviations = np.abs(_ratios(kind, part) - 1).max(axis=0)
  run.judge(ROTATION[kind], deviations)


def _show(parts: Mapping[str, Parts]) -> None:
  """Prints the angles of every setting."""
  rows = [
    [kind, *cell, f"{predicted(kind, *cell):.4f}", shown(ratios, ".3f")]
    for kind, part in parts.items()
    for cell, ratios in zip(CELLS[kind], _ratios(kind, part), strict=True)
  ]
  headers = ["optimizer", "learning rate", "weight decay", "predicted angle"]
  print(f"\n{table(rows, [*headers, 'measured / predicted'])}")


def _draw(parts: Mapping[str, Parts], run: Run) -> None:
  color = figures.norm_color("bn")
  with figures.drawing(
    run,
    "rotation",
    columns=3,
    title="Units before a batch norm: length and rotation",
    caption="Left and middle: SGD, learning rate {:g}, weight decay {:g}, one"
    " seed; dashed: prediction".format(*CELLS["sgd"][0]),
  ) as axes:
    part, cell = parts["sgd"], CELLS["sgd"][0]
    steps = np.arange(part["turn"].shape[-1])
    axes[0].plot(steps, part["length"][0, 0], color=color)
    figures.label(axes[0], "Mean length", "Training step", "Length of a unit")
    axes[1].plot(steps, np.sqrt(part["turn"][0, 0]), color=color, alpha=0.6)
    axes[1].axhline(predicted("sgd", *cell), color="k", linestyle="--")
    figures.label(
      axes[1], "Rotation", "Training step", "Angle per step (rad)", log_y=True
    )
    ends = []
    for kind, values in parts.items():
      expected = [predicted(kind, *c) for c in CELLS[kind]]
      ends += expected
      axes[2].plot(
        expected,
        measured(values).mean(axis=1),
        MARKERS[kind],
        color=color,
        markersize=8,
        markerfacecolor="none",
        markeredgewidth=2,
        label=kind,
      )
    line = np.array([min(ends) * 0.9, max(ends) * 1.1])
    axes[2].plot(line, line, "k--", linewidth=1)
    figures.label(
      axes[2],
      "Equilibrium",
      "Predicted angle per step (rad)",
      "Measured angle per step (rad)",
      log_x=True,
      log_y=True,
    )


STUDY = study.Study(
  "scale_invariance",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  CHECKS,
  quick={"seeds": 2, "steps": 100},
  full={"steps": 20_000, "batch_size": 128},
  confirm={"seed": 100, "seeds": 10},
)

if __name__ == "__main__":
  study.main(STUDY)
