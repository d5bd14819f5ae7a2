"""The length of weights before a norm: no effect, but on the learning rate.

    python -m experiments.scale_invariance

A norm divides by what the weights before it are scaled by. So the gradient at
a W is 1/a of that at W and orthogonal to W, training from (a W, a^2 learning
rate) is training from (W, learning rate), and weight decay does nothing but set
the speed: the weights' direction turns, per step, by an angle that learning
rate and weight decay fix. 784-100-100-10 with batch norm; about a minute.

Claims, exact ones first (float32, epsilon 1e-12, no seeds):
  1. The gradient at a W is 1/a of that at W: relative error of the vector
     below 1e-5 for a = 0.01 to 100, if each unit has its own a; with the usual
     epsilon of 1e-5 and a = 0.01 it is not (error above 1e-2).
  2. The gradient of a unit is orthogonal to its weights: |cosine| below 1e-5.
  3. Training from (a W, a^2 learning rate) has the same losses over 100 steps:
     difference below 1e-5.
  4. In equilibrium a unit turns by sqrt(2 r d) a step with SGD, r being the
     learning rate and d the weight decay, sqrt(2 r d / (1 + m)) with momentum
     m, sqrt(2 r d (1 - b1) / (1 + b1)) with AdamW: for each optimizer the 95%
     interval over seeds of the largest |measured / predicted - 1| lies below
     0.1, and that of the log-log slope within 1 ± 0.05.
Changed after first looks: the a's of 3 are powers of two, since others may
switch a ReLU; one of the settings of SGD in 4, so that all lengths settle.

Sources: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 3.3
(1); van Laarhoven, 2017, https://arxiv.org/abs/1706.05350 (3); Kosson et al.,
2024, https://arxiv.org/abs/2305.17212 (4; formulas rederived and measured).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lab import invariance, panels, plots, reporting, study
from experiments.lab.reporting import Verdict
from experiments.lab.study import Run, option
from experiments.lab.sweep import Images, Sweep, load_images
from experiments.lab.train_step import Examples, TrainState

FACTORS = (0.01, 0.1, 10.0, 100.0)
EXACT = 1e-5  # Claims 1 to 3.
RATIO_WITHIN, SLOPE_WITHIN = 0.1, 0.05  # Claim 4.
MOMENTUM, B1 = 0.9, 0.9

# Learning rate r and weight decay d. The lengths settle with a time constant of
# 1 / (2 r d) steps: every cell has at least four before it is measured.
CELLS: Mapping[str, tuple[tuple[float, float], ...]] = {
  "sgd": ((0.1, 0.01), (0.2, 0.005), (0.1, 0.02), (0.1, 0.04), (0.2, 0.04)),
  "momentum": ((0.02, 0.05), (0.02, 0.2)),
  "adamw": ((1e-3, 1.0), (2e-3, 0.5), (2e-3, 1.0), (4e-3, 1.0)),
}
MARKERS = {"sgd": "o", "momentum": "s", "adamw": "^"}


@dataclasses.dataclass(frozen=True)
class Config(study.ImageConfig):
  """How long to train."""

  steps: int = option(
    3000, "Training steps; rotation is measured in the last third.", study.COUNT
  )
  batch_size: int = option(32, "Examples in a step.", study.COUNT)


def _optimizer(kind: str) -> Callable[..., optax.GradientTransformation]:
  mask = functools.partial(
    jax.tree_util.tree_map_with_path,
    lambda path, _: invariance.is_invariant(path),
  )

  def make(
    learning_rate: float, weight_decay: float
  ) -> optax.GradientTransformation:
    if kind == "adamw":
      return optax.adamw(
        learning_rate, b1=B1, weight_decay=weight_decay, mask=mask
      )
    return optax.chain(
      optax.add_decayed_weights(weight_decay, mask),
      optax.sgd(learning_rate, MOMENTUM if kind == "momentum" else None),
    )

  return make


def predicted_rotation(kind: str, rate: float, decay: float) -> float:
  """Returns the angle per step in equilibrium, in radians."""
  share = {
    "sgd": 1.0,
    "momentum": 1 / (1 + MOMENTUM),
    "adamw": (1 - B1) / (1 + B1),
  }[kind]
  return float(np.sqrt(2 * rate * decay * share))


def watch(before: TrainState, after: TrainState) -> dict[str, jax.Array]:
  """Returns length and squared rotation of the first layer's units, means."""
  old, new = (state.params["Dense_0"]["kernel"] for state in (before, after))
  lengths = [jnp.linalg.norm(w, axis=0, keepdims=True) for w in (old, new)]
  # The chord, since the arc cosine of a small angle has no digits left.
  chord = new / lengths[1] - old / lengths[0]
  return {
    "length": lengths[0].mean(),
    "turn": jnp.square(chord).sum(axis=0).mean(),
  }


def rotation(
  kind: str, images: Images, config: Config
) -> dict[str, np.ndarray]:
  """Trains every cell; returns rotation and length, `[cells, seeds, steps]`."""
  rates, decays = zip(*CELLS[kind], strict=True)
  sweep = Sweep(
    invariance.model(epsilon=1e-5),
    _optimizer(kind),
    prepare=images.prepare,
    batch_size=config.batch_size,
    hyperparams=("weight_decay",),
    watch=watch,
  )
  state = sweep.start(
    config.seed_numbers, rates, images.train.inputs, weight_decay=decays
  )
  orders = sweep.orders(state, images.train, config.steps)
  _, records = sweep.advance(state, orders, images.train)
  shape = len(rates), config.seeds, config.steps
  return {
    name: np.asarray(records[name]).reshape(shape)
    for name in ("turn", "length")
  }


def measure(config: Config, run: Run) -> None:
  """Runs all four claims."""
  images = load_images(run, config.dataset)
  batch = Examples(
    images.prepare(images.train.inputs[:128]), images.train.labels[:128]
  )
  _judge_gradients(batch, run)
  difference = invariance.trajectory_error(images, 100)
  run.judge(
    "training from (a W, a² learning rate) is training from (W, learning rate)",
    f"{difference:.0e}",
    Verdict.CONFIRMED if difference < EXACT else Verdict.REFUTED,
    criterion="losses over 100 steps within 1e-5",
    source="van Laarhoven 2017",
  )
  parts = {
    kind: run.part(kind, functools.partial(rotation, kind, images, config))
    for kind in CELLS
  }
  _judge_rotation(parts, run)
  _draw(parts, run)


def _judge_gradients(batch: Examples, run: Run) -> None:
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
    reporting.table(
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
  worst = max(
    e["error"]
    for (n, eps, *_), e in errors.items()
    if (n, eps) == ("bn", 1e-12)
  )
  usual = errors["bn", 1e-5, 0.01, False]["error"]
  run.judge(
    "batch norm: the gradient at a W is 1/a of that at W, unless epsilon shows",
    f"error {worst:.0e}; with epsilon 1e-5 and a = 0.01 {usual:.2f}",
    Verdict.CONFIRMED if worst < EXACT and usual > 1e-2 else Verdict.REFUTED,
    criterion="relative error below 1e-5 at epsilon 1e-12, above 1e-2 at 1e-5",
    source="Ioffe & Szegedy 2015",
  )
  cosine = errors["bn", 1e-12, 0.1, False]["cosine"]
  run.judge(
    "the gradient of a unit is orthogonal to its weights",
    f"{cosine:.0e}",
    Verdict.CONFIRMED if cosine < EXACT else Verdict.REFUTED,
    criterion="largest |cosine| below 1e-5",
    source="Ioffe & Szegedy 2015",
  )


def measured_rotation(part: study.Parts) -> np.ndarray:
  """Returns the root mean square angle of the last third, `[cells, seeds]`."""
  turn = part["turn"]
  return np.sqrt(turn[..., -(turn.shape[-1] // 3) :].mean(axis=-1))


def _judge_rotation(parts: Mapping[str, study.Parts], run: Run) -> None:
  rows = []
  for kind, part in parts.items():
    found = measured_rotation(part)
    expected = np.array([predicted_rotation(kind, *c) for c in CELLS[kind]])
    ratio = found / expected[:, None]
    for cell, prediction, ratios in zip(
      CELLS[kind], expected, ratio, strict=True
    ):
      shown = reporting.interval(ratios)
      rows.append([kind, *cell, f"{prediction:.4f}", f"{shown:.3f}"])
    slopes = np.polyfit(np.log(expected), np.log(found), 1)[0]
    slope = reporting.interval(slopes)
    deviation = reporting.interval(np.abs(ratio - 1).max(axis=0))
    verdicts = {
      reporting.verdict_within(
        slope._replace(mean=slope.mean - 1), SLOPE_WITHIN
      ),
      reporting.verdict_below(deviation, RATIO_WITHIN),
    }
    run.judge(
      f"{kind}: weight decay and learning rate fix the rotation per step",
      f"deviation {deviation:.3f}, slope {slope:.3f}",
      verdicts.pop()
      if len(verdicts) == 1
      else (
        Verdict.REFUTED if Verdict.REFUTED in verdicts else Verdict.UNRESOLVED
      ),
      criterion="largest |measured/predicted - 1| below 0.1, slope 1 ± 0.05",
      source="Kosson et al. 2024",
    )
  headers = ["optimizer", "learning rate", "weight decay", "predicted angle"]
  print(f"\n{reporting.table(rows, [*headers, 'measured / predicted'])}")


def _draw(parts: Mapping[str, study.Parts], run: Run) -> None:
  color = plots.norm_color("bn")
  with panels.drawing(
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
    panels.label(axes[0], "Mean length", "Training step", "Length of a unit")
    axes[1].plot(steps, np.sqrt(part["turn"][0, 0]), color=color, alpha=0.6)
    axes[1].axhline(predicted_rotation("sgd", *cell), color="k", linestyle="--")
    panels.label(
      axes[1], "Rotation", "Training step", "Angle per step (rad)", log_y=True
    )
    ends = []
    for kind, values in parts.items():
      expected = [predicted_rotation(kind, *c) for c in CELLS[kind]]
      ends += expected
      axes[2].plot(
        expected,
        measured_rotation(values).mean(axis=1),
        MARKERS[kind],
        color=color,
        markersize=8,
        markerfacecolor="none",
        markeredgewidth=2,
        label=kind,
      )
    line = np.array([min(ends) * 0.9, max(ends) * 1.1])
    axes[2].plot(line, line, "k--", linewidth=1)
    panels.label(
      axes[2],
      "Equilibrium",
      "Predicted angle per step (rad)",
      "Measured angle per step (rad)",
      log_x=True,
      log_y=True,
    )


if __name__ == "__main__":
  study.main(
    "scale_invariance",
    measure,
    Config(),
    quick={"seeds": 2, "steps": 300},
    full={"steps": 20_000, "batch_size": 128},
  )
