"""Deep nets of sigmoids: what trains, what drifts, what vanishes.

    python -m experiments.deep_sigmoid
    python -m experiments.deep_sigmoid --depths=3,8,20 --steps=2500

The paper's net for its figure 1, layers of 100 sigmoids on binarized images in
batches of 60, at depths 3 and 8, with SGD at 0.1 and 1 and Adam at 0.001 and
0.003, 1,000 steps, images halved to 14x14. About two minutes on two cores.
Beside it, at depth 20 before training: gradient norm and spread of the
activations' inputs by layer, for sigmoids and for ReLUs.

Claims, tested on test errors in percent with seeds paired:
  1. At the last depth of --depths (8) SGD with batch norm trains: error below
     15 % at its best rate, and
  2. without a norm it does not: error above 80 % at every rate.
  3. At the first depth (3) batch norm is faster: error after half of the steps
     below 0.5 times that of none, both at rate 0.1 and both at their best.
     No claim about the end.
  4. Inputs of the last sigmoids drift less: |change of a unit's median between
     probes| over the distance of its 15th and 85th percentiles, mean over units
     and probes, below 0.5 times that of none; first depth, SGD at each arm's
     best rate.
The best rate is that of the lowest mean training loss. Each claim is CONFIRMED
or REFUTED where the whole 95% interval is on one side.

Source: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, sections 4.1
and 4.2.2 (a sigmoid Inception: 69.8 % with batch norm, chance without).
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

from experiments.lab import panels, reporting, signals, study
from experiments.lab.models import MLP
from experiments.lab.reporting import paired_ratio
from experiments.lab.study import Parts, Run, option
from experiments.lab.sweep import (
  Images,
  Sweep,
  best_rate,
  load_images,
  norm_factory,
)

SOURCE = "Ioffe & Szegedy 2015"
RATES: Mapping[str, tuple[float, ...]] = {"sgd": (0.1, 1), "adam": (1e-3, 3e-3)}
OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
  "sgd": optax.sgd,
  "adam": optax.adam,
}
TRAINS_BELOW, FAILS_ABOVE = 15.0, 80.0  # Percent of errors.
FASTER_BELOW, CALMER_BELOW = 0.5, 0.5  # Ratios.
PROBE = 500  # Images whose activations are watched.


@dataclasses.dataclass(frozen=True)
class Config(study.HalvedImageConfig):
  """The arms."""

  norm: tuple[str, ...] = option(
    ("none", "bn", "ln"), "The norms, none first.", study.NORMS
  )
  depths: tuple[int, ...] = option(
    (3, 8), "Numbers of hidden layers.", study.COUNTS
  )
  steps: int = option(1000, "Training steps.", study.COUNT)
  signal_depth: int = option(
    20,
    "Hidden layers of the nets that are looked at before training.",
    study.COUNT,
  )
  probes: int = option(20, "How often to look in between.", study.COUNT)


def train(
  norm: str, depth: int, optimizer: str, config: Config, images: Images
) -> Parts:
  """Returns error, loss and percentiles over time, `[rates, seeds, probes]`."""
  model = MLP(
    norm=norm_factory(norm), hidden=(100,) * depth, activation=nn.sigmoid
  )
  sweep = Sweep(
    model, OPTIMIZERS[optimizer], prepare=images.prepare, batch_size=60
  )
  state = sweep.start(
    config.seed_numbers, RATES[optimizer], images.train.inputs
  )
  orders = sweep.orders(state, images.train, config.steps)
  inputs = images.prepare(images.test.inputs[:PROBE])

  @jax.jit
  @jax.vmap
  def percentiles(params: Any, batch_stats: Any) -> jax.Array:
    variables = {"params": params, "batch_stats": batch_stats}
    last = signals.activation_inputs(model, variables, inputs, train=False)[-1]
    return jnp.percentile(last, jnp.array([15.0, 50.0, 85.0]), axis=0)

  length = config.steps // config.probes
  errors, losses, spreads = [], [], []
  for probe in range(config.probes):
    part = orders[:, probe * length : (probe + 1) * length]
    state, records = sweep.advance(state, part, images.train)
    losses.append(records["loss"].mean(axis=1))
    errors.append(sweep.error(state, images.test))
    spreads.append(percentiles(state.params, state.batch_stats))
  shape = len(RATES[optimizer]), config.seeds
  statistics = sweep.reestimated(state, images.train)
  return {
    "error": np.stack(errors, axis=-1).reshape(*shape, -1),
    "loss": np.stack(losses, axis=-1).reshape(*shape, -1),
    # [rates, seeds, probes, 3, units]
    "inputs": np.stack(spreads, axis=1).reshape(*shape, len(spreads), 3, -1),
    "reestimated": sweep.error(state, images.test, statistics).reshape(shape),
  }


def best(part: Parts, at: int = -1) -> int:
  """Returns the index of the rate with the lowest mean loss at a probe."""
  return best_rate(part["loss"][..., at])


def drift(inputs: np.ndarray) -> np.ndarray:
  """Returns how far medians move between probes, per spread, `[seeds]`.

  Args:
    inputs: The percentiles, `[seeds, probes, 3, units]`.
  """
  low, median, high = np.moveaxis(inputs, 2, 0)
  moved = np.abs(np.diff(median, axis=1)).mean(axis=1)
  return (moved / (high - low).mean(axis=1)).mean(axis=-1)


def measure(config: Config, run: Run) -> None:
  """Trains the grid, prints, judges and draws."""
  images = load_images(run, config.dataset, test=2000, halved=config.halve)
  grey = images.prepare
  images = images._replace(
    prepare=lambda x: (grey(x) > 0.5).astype(jnp.float32)
  )
  arms = {
    (norm, depth, optimizer): run.part(
      f"{norm}_{depth}_{optimizer}",
      functools.partial(train, norm, depth, optimizer, config, images),
    )
    for depth in config.depths
    for norm in config.norm
    for optimizer in RATES
  }
  half = config.probes // 2 - 1
  rows = []
  for (norm, depth, optimizer), arm in arms.items():
    for rate, error, again, inputs in zip(
      RATES[optimizer],
      arm["error"],
      arm["reestimated"],
      arm["inputs"],
      strict=True,
    ):
      shown = (error[:, half], error[:, -1], again)
      rows.append(
        [depth, norm, optimizer, rate]
        + [f"{reporting.interval(values):.1f}" for values in shown]
        + [f"{reporting.interval(drift(inputs)):.2f}"]
      )
  print(
    reporting.table(
      rows,
      [
        "depth", "norm", "optimizer", "rate", "error halfway (%)",
        "error (%)", "re-estimated (%)", "drift",
      ],
    )
  )  # fmt: skip
  judge(arms, config, run)
  _draw(arms, config, images.name, run)
  _draw_signals(config, images, run)


def judge(
  arms: Mapping[tuple[str, int, str], Parts], config: Config, run: Run
) -> None:
  """Judges batch norm against none, where both were trained."""
  if not {"none", "bn"} <= set(config.norm):
    return
  first, last = config.depths[0], config.depths[-1]
  bn, none = (arms[norm, last, "sgd"] for norm in ("bn", "none"))
  error = reporting.interval(bn["error"][best(bn), :, -1])
  say = functools.partial(run.judge, source=SOURCE)
  say(
    f"SGD trains {last} layers of sigmoids with batch norm",
    f"{error:.1f} %",
    reporting.verdict_below(error, TRAINS_BELOW),
    criterion="error at the best rate below 15 %",
  )
  error = reporting.interval(none["error"][..., -1].min(axis=0))
  say(
    f"SGD does not train {last} layers of sigmoids without a norm",
    f"{error:.1f} %",
    reporting.verdict_above(error, FAILS_ABOVE),
    criterion="smallest error over the rates above 80 %",
  )
  bn, none = (arms[norm, first, "sgd"] for norm in ("bn", "none"))
  half = config.probes // 2 - 1
  for how, rates in (
    ("rate 0.1", (0, 0)),
    ("each at its best rate", (best(bn, half), best(none, half))),
  ):
    ratio = paired_ratio(
      bn["error"][rates[0], :, half], none["error"][rates[1], :, half]
    )
    say(
      f"batch norm is faster at depth {first} ({how})",
      f"{ratio:.2f}",
      reporting.verdict_below(ratio, FASTER_BELOW),
      criterion="ratio of errors to none, halfway, below 0.5",
    )
  ratio = paired_ratio(
    drift(bn["inputs"][best(bn)]), drift(none["inputs"][best(none)])
  )
  say(
    f"inputs of the last of {first} layers drift less with batch norm",
    f"{ratio:.2f}",
    reporting.verdict_below(ratio, CALMER_BELOW),
    criterion="ratio of drifts to none below 0.5",
  )


def _draw(
  arms: Mapping[tuple[str, int, str], Parts],
  config: Config,
  data: str,
  run: Run,
) -> None:
  length = config.steps // config.probes
  steps = length * np.arange(1, config.probes + 1)
  depths = config.depths
  with panels.drawing(
    run,
    "errors",
    columns=len(depths),
    title=f"Layers of 100 sigmoids, binarized {data}, SGD at the best rate",
    caption=panels.seeds_caption(config.seeds),
  ) as axes:
    for panel, depth in zip(axes, depths, strict=True):
      for norm in config.norm:
        arm = arms[norm, depth, "sgd"]
        panels.curve(
          panel, steps, arm["error"][best(arm)], norm, geometric=True
        )
      panels.label(
        panel, f"{depth} layers", "Training step", "Test error (%)", log_y=True
      )
  with panels.drawing(
    run,
    "percentiles",
    columns=len(config.norm),
    title=f"Input of one sigmoid in layer {depths[0]} of {depths[0]}:"
    " 15th, 50th and 85th percentile",
    caption=f"SGD at the best rate, seed {config.seed}, unit 0",
    legend=False,
  ) as axes:
    for panel, norm in zip(axes, config.norm, strict=True):
      arm = arms[norm, depths[0], "sgd"]
      low, median, high = arm["inputs"][best(arm), 0, :, :, 0].T
      color = panels.plots.norm_color(norm)
      panel.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)
      panel.plot(steps, median, color=color, linewidth=2)
      panels.label(panel, norm, "Training step", "Input of the sigmoid")
    limits = np.array([panel.get_ylim() for panel in axes])
    for panel in axes:
      panel.set_ylim(limits[:, 0].min(), limits[:, 1].max())


def _draw_signals(config: Config, images: Images, run: Run) -> None:
  """Draws gradients and activations by layer, before training."""
  batch = images.train._replace(
    inputs=images.prepare(images.train.inputs[:128]),
    labels=images.train.labels[:128],
  )
  layers = np.arange(1, config.signal_depth + 1)
  with panels.drawing(
    run,
    "signals",
    rows=2,
    title=f"{config.signal_depth} layers before training",
    caption=panels.seeds_caption(config.seeds),
  ) as axes:
    for column, activation in enumerate((nn.sigmoid, nn.relu)):
      for norm in config.norm:
        model = MLP(
          norm=norm_factory(norm),
          hidden=(100,) * config.signal_depth,
          activation=activation,
        )
        found = run.part(
          f"signals_{norm}_{column}",
          functools.partial(signals.at_init, model, config.seed_numbers, batch),
        )
        for panel, name in zip(
          axes[column::2], ("gradient", "spread"), strict=True
        ):
          panels.curve(panel, layers, found[name], norm, geometric=True)
      name = ("sigmoids", "ReLUs")[column]
      panels.label(
        axes[column], name, "Layer", "Norm of the kernel's gradient", log_y=True
      )
      panels.label(
        axes[2 + column], name, "Layer", "Std of activation inputs", log_y=True
      )


if __name__ == "__main__":
  study.main(
    "deep_sigmoid",
    measure,
    Config(),
    quick={
      "seeds": 2, "depths": (2, 4), "steps": 60, "probes": 4,
      "signal_depth": 6,
    },
    full={"steps": 50_000, "probes": 100, "halve": False},
  )  # fmt: skip
