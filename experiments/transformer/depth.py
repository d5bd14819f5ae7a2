"""The gradient at initialization as a function of the number of blocks."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import figures
from experiments.lab.data.sequences import Task
from experiments.lab.models.transformer import block_name
from experiments.lab.statistics import interval, shown
from experiments.lab.study import Run
from experiments.lab.tables import table
from experiments.transformer import arms, drawing
from experiments.transformer.claims import DEPTH
from experiments.transformer.options import Config
from experiments.transformer.training import make_engine


def measure(config: Config, task: Task, run: Run) -> None:
  """Measures, draws and judges."""
  depths = np.array(
    [layers for layers in arms.DEPTHS if layers <= config.layers]
  )
  norms: dict[str, np.ndarray] = {}
  for placement in DEPTH:
    columns = []
    for layers in depths.tolist():
      model = dataclasses.replace(config, placement=(placement,), layers=layers)
      part = run.part(
        f"{placement}-{layers}",
        functools.partial(_part, model, task),
      )
      columns.append(part["norm"])
    norms[placement] = np.stack(columns, axis=1)
  exponents = {
    placement: fitted_exponents(depths, values)
    for placement, values in norms.items()
  }
  print(
    table(
      [
        [placement, *(shown(v) for v in values.T)]
        for placement, values in norms.items()
      ],
      ["placement", *(f"{layers} blocks" for layers in depths)],
    )
    + "\n"
  )
  _draw(run, config, depths, norms, exponents)
  for placement, claim in DEPTH.items():
    run.judge(claim, interval(exponents[placement]))


def _part(config: Config, task: Task) -> dict[str, np.ndarray]:
  return {"norm": gradient_norms(config, task)}


def gradient_norms(config: Config, task: Task) -> np.ndarray:
  """Returns gradient norms of the last block's second feed-forward kernel.

  Args:
    config: Configuration with one norm and one placement.
    task: Gives a batch, a different one for each seed.

  Returns:
    Norms `[seeds]` of the gradient of the mean loss at initialization.
  """
  engine = make_engine(config, task)

  def norm(seed: jax.Array) -> jax.Array:
    state = engine.init_lane(seed)
    batch = task.draw(state.key, engine.source.data, config.batch_size)
    gradients = engine.gradient(state, batch)
    block = gradients[block_name(config.layers - 1)]
    return jnp.linalg.norm(block["feed_forward_out"]["kernel"])

  # It runs only once per seed, so optimizing does not pay.
  compiled = jax.jit(
    norm, compiler_options={"xla_backend_optimization_level": 0}
  )
  return np.array([compiled(np.uint32(seed)) for seed in config.seed_numbers])


def fitted_exponents(depths: np.ndarray, norms: np.ndarray) -> np.ndarray:
  """Returns the slopes `[seeds]` of lines fitted to logarithms.

  Args:
    depths: Numbers of blocks `[n]`.
    norms: Gradient norms `[seeds, n]`.

  >>> fitted_exponents(np.array([1, 4]), np.array([[2.0, 1.0], [3.0, 6.0]]))
  array([-0.5,  0.5])
  """
  slopes, _ = np.polyfit(np.log(depths), np.log(norms).T, 1)
  return slopes


def _draw(
  run: Run,
  config: Config,
  depths: np.ndarray,
  norms: Mapping[str, np.ndarray],
  exponents: Mapping[str, np.ndarray],
) -> None:
  with figures.drawing(
    run,
    "depth",
    title="Gradient at initialization",
    columns=1,
    size=(7, 5.2),
    caption=f"{figures.seeds_caption(config.seeds)}; dotted: fitted power",
  ) as (panel,):
    for placement, values in norms.items():
      color = drawing.PLACEMENT_COLORS[placement]
      exponent = interval(exponents[placement])
      figures.curve(
        panel,
        depths,
        values,
        "none",
        name=f"{placement}: exponent {exponent}",
        color=color,
        marker="o",
      )
      mean = np.log(values).mean(axis=0)
      fit = np.polyfit(np.log(depths), mean, 1)
      panel.plot(
        depths, np.exp(np.polyval(fit, np.log(depths))), ":", color=color
      )
    figures.label(
      panel,
      "Last block, second feed-forward kernel",
      "Blocks",
      "Norm of the gradient",
      log_x=True,
      log_y=True,
    )
    panel.set_xticks(depths, labels=[str(layers) for layers in depths])
    panel.minorticks_off()
