"""The length of the weights before a norm affects only the learning rate.

    python -m experiments.scale_invariance

A norm cancels the scale of the weights before it. So the gradient at a W is 1/a
of that at W and orthogonal to W, and training from (a W, a^2 learning rate) is
training from (W, learning rate). Weight decay only sets the speed: per step,
the direction of the weights rotates by an angle that depends on learning rate
and weight decay. The net is 784-100-100-10 with batch norm; about a minute.

The first claims are exact (float32, epsilon 1e-12, no seeds). For gradients,
the factors a are 0.01 to 100, of all units or of every second one. In
equilibrium, a unit rotates per step by sqrt(2 r d) with SGD, where r is the
learning rate and d the weight decay, by sqrt(2 r d / (1 + m)) with momentum m,
and by sqrt(2 r d (1 - b1) / (1 + b1)) with AdamW.

Sources: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 3.3
(1); van Laarhoven, 2017, https://arxiv.org/abs/1706.05350 (3); Kosson et al.,
2024, https://arxiv.org/abs/2305.17212 (4; formulas derived again and measured).
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from experiments.lab import figures, options, parsers, study
from experiments.lab.claims import Above, AllOf, Below, Claim, Within
from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Batch
from experiments.lab.options import option
from experiments.lab.probes import invariance, rotation
from experiments.lab.probes.rotation import CELLS, measured, predicted
from experiments.lab.statistics import interval, shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table

FACTORS = (0.01, 0.1, 10.0, 100.0)
EXACT = 1e-5
MARKERS = {"sgd": "o", "momentum": "s", "adamw": "^"}

INVERSE = Claim(
  "batch norm: the gradient at a W is 1/a of that at W, unless epsilon shows",
  source="Ioffe & Szegedy 2015",
  quantity="relative error",
  criterion=AllOf(
    {"at epsilon 1e-12": Below(EXACT), "at 1e-5 and a = 0.01": Above(1e-2)}
  ),
)
ORTHOGONAL = Claim(
  "the gradient of a unit is orthogonal to its weights",
  source="Ioffe & Szegedy 2015",
  quantity="largest |cosine|",
  criterion=Below(EXACT),
)
SAME_TRAINING = Claim(
  "training from (a W, a² learning rate) is training from (W, learning rate)",
  source="van Laarhoven 2017",
  quantity="largest difference of losses over 100 steps",
  criterion=Below(EXACT),
  changed="the factors are powers of two, since others may switch a ReLU; after"
  " a first look",
)
ROTATION = Claim(
  "{optimizer}: weight decay and learning rate fix the rotation per step",
  source="Kosson et al. 2024",
  quantity="measured / predicted angle:",
  criterion=AllOf(
    {"largest deviation": Below(0.1), "log-log slope": Within(0.05, of=1)}
  ),
  form=".3f",
  changed="one setting of SGD, so that all lengths settle; after a first look",
)
CLAIMS = (INVERSE, ORTHOGONAL, SAME_TRAINING, ROTATION)

QUICK = {"seeds": 2, "steps": 300}
FULL = {"steps": 20_000, "batch_size": 128}


@dataclasses.dataclass(frozen=True)
class Config(options.ImageConfig):
  """How long to train."""

  steps: int = option(
    3000,
    "Training steps; rotation is measured in the last third.",
    parsers.COUNT,
  )
  batch_size: int = option(32, "Examples in a step.", parsers.COUNT)


def measure(config: Config, run: Run) -> None:
  """Measures, judges and draws."""
  images = run.load_images(config.dataset)
  _judge_gradients(images.prepared(128), run)
  run.judge(SAME_TRAINING, invariance.trajectory_error(images, 100))
  parts = {
    kind: run.part(kind, functools.partial(_rotate, kind, images, config))
    for kind in CELLS
  }
  _judge_rotation(parts, run)
  _draw(parts, run)


def _rotate(kind: str, images: Images, config: Config) -> Parts:
  return rotation.train(
    kind,
    images,
    seeds=config.seed_numbers,
    steps=config.steps,
    batch_size=config.batch_size,
  )


def _judge_gradients(batch: Batch, run: Run) -> None:
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
  usual = errors["bn", 1e-5, 0.01, False]["error"]
  run.judge(INVERSE, {"at epsilon 1e-12": worst, "at 1e-5 and a = 0.01": usual})
  run.judge(ORTHOGONAL, errors["bn", 1e-12, 0.1, False]["cosine"])


def _judge_rotation(parts: Mapping[str, Parts], run: Run) -> None:
  rows = []
  for kind, part in parts.items():
    found = measured(part)
    expected = np.array([predicted(kind, *cell) for cell in CELLS[kind]])
    ratio = found / expected[:, None]
    for cell, prediction, ratios in zip(
      CELLS[kind], expected, ratio, strict=True
    ):
      rows.append([kind, *cell, f"{prediction:.4f}", shown(ratios, ".3f")])
    slopes = np.polyfit(np.log(expected), np.log(found), 1)[0]
    deviations = np.abs(ratio - 1).max(axis=0)
    run.judge(
      ROTATION,
      {
        "largest deviation": interval(deviations),
        "log-log slope": interval(slopes),
      },
      optimizer=kind,
    )
  headers = ["optimizer", "learning rate", "weight decay", "predicted angle"]
  print(f"\n{table(rows, [*headers, 'measured / predicted'])}")


def _draw(parts: Mapping[str, Parts], run: Run) -> None:
  color = figures.norm_color("bn")
  with figures.drawing(
    run,
    "rotation",
    columns=3,
    title="Units before a batch norm: length and rotation",
    caption="Left and middle: SGD, learning rate 0.1, weight decay 0.01, one"
    " seed; dashed: prediction",
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


if __name__ == "__main__":
  study.main(
    "scale_invariance", measure, Config(), CLAIMS, quick=QUICK, full=FULL
  )
