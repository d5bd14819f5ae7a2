"""The gradient at initialization against the number of blocks."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import panels, reporting, transformer_figures
from experiments.lab import transformer_studies as studies
from experiments.lab.sequence_tasks import Task
from experiments.lab.study import Run
from experiments.lab.transformer import block_name
from experiments.lab.transformer_options import Config
from experiments.lab.transformer_run import make_trainer

# What the theorem says of the exponent of the number of blocks.
EXPONENTS = {"post": 0.0, "pre": -0.5}
WITHIN = 0.15

_SOURCE = "Xiong et al., 2020, arXiv:2002.04745, theorem 1"


def measure(config: Config, task: Task, run: Run) -> None:
  """Measures, draws and judges."""
  depths = np.array(
    [layers for layers in studies.DEPTHS if layers <= config.layers]
  )
  norms: dict[str, np.ndarray] = {}
  for placement in EXPONENTS:
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
    reporting.table(
      [
        [placement, *(f"{reporting.interval(v)}" for v in values.T)]
        for placement, values in norms.items()
      ],
      ["placement", *(f"{layers} blocks" for layers in depths)],
    )
    + "\n"
  )
  _draw(run, config, depths, norms, exponents)
  for placement, exponent in EXPONENTS.items():
    interval = reporting.interval(exponents[placement])
    shifted = reporting.Interval(interval.mean - exponent, interval.half_width)
    run.judge(
      f"In {placement}-LN, the gradient of the last block at initialization"
      + (
        " does not depend on the number of blocks"
        if exponent == 0
        else f" goes with the number of blocks to the power of {exponent:g}"
      ),
      interval,
      reporting.verdict_within(shifted, WITHIN),
      criterion=f"exponent within {WITHIN:g} of {exponent:g}",
      source=_SOURCE,
    )


def _part(config: Config, task: Task) -> dict[str, np.ndarray]:
  return {"norm": gradient_norms(config, task)}


def gradient_norms(config: Config, task: Task) -> np.ndarray:
  """Returns the norm of the last block's second feed-forward kernel's gradient.

  Args:
    config: With one norm and one placement.
    task: Gives a batch, which differs from seed to seed.

  Returns:
    Norms `[seeds]`, of the mean loss at initialization.
  """
  trainer = make_trainer(config, task)

  def norm(seed: jax.Array) -> jax.Array:
    state, _ = trainer.init_seed(seed)
    batch = task.draw(state.key, trainer.task.data, config.batch_size)
    grads = trainer.gradient(state, batch)
    kernel = grads[block_name(config.layers - 1)]["feed_forward_out"]["kernel"]
    return jnp.linalg.norm(kernel)

  # Runs once for each seed: optimizing it takes longer than it gains.
  compiled = jax.jit(
    norm, compiler_options={"xla_backend_optimization_level": 0}
  )
  return np.array([compiled(np.uint32(seed)) for seed in config.seed_numbers])


def fitted_exponents(depths: np.ndarray, norms: np.ndarray) -> np.ndarray:
  """Returns the slopes `[seeds]` of lines through logarithms.

  Args:
    depths: `[n]`.
    norms: `[seeds, n]`.

  >>> fitted_exponents(np.array([1, 4]), np.array([[2.0, 1.0], [3.0, 3.0]]))
  array([-0.5,  0. ])
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
  with panels.drawing(
    run,
    "depth",
    title="Gradient at initialization",
    columns=1,
    size=(7, 5.2),
    caption=panels.seeds_caption(config.seeds),
  ) as (panel,):
    for placement, values in norms.items():
      color = transformer_figures.PLACEMENT_COLORS[placement]
      exponent = reporting.interval(exponents[placement])
      transformer_figures.line(
        panel, depths, values, color, f"{placement}: exponent {exponent}"
      )
      mean = np.log(values).mean(axis=0)
      fit = np.polyfit(np.log(depths), mean, 1)
      panel.plot(
        depths, np.exp(np.polyval(fit, np.log(depths))), ":", color=color
      )
    panels.label(
      panel,
      "Last block, second feed-forward kernel",
      "Blocks",
      "Norm of the gradient",
      log_x=True,
      log_y=True,
    )
    panel.set_xticks(depths, labels=[str(layers) for layers in depths])
    panel.minorticks_off()
