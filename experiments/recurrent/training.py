"""Trains the arms of both studies."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lab import tuning
from experiments.lab.data.arrays import Pool
from experiments.lab.data.batch import Batch
from experiments.lab.study import Parts, Run
from experiments.lab.training import classification, lanes
from experiments.lab.training.batches import Drawn
from experiments.lab.training.engine import Engine
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.step import Update
from experiments.recurrent import nets, task
from experiments.recurrent.options import FACTORS, Config
from experiments.recurrent.task import Lengths

PyTree = Any

RATES = tuning.half_decades(-6, -2)
EQUAL = 1e-3  # Adam's default rate.
NORMS = ("none", "ln", "step", "one")
BATCH = 64

_TESTED = 500  # Sequences for validation, and for each length of the test.
_REESTIMATED = 50  # Batches.


class Arm(NamedTuple):
  """A cell with a norm."""

  cell: str
  norm: str


def adam(learning_rate: float) -> optax.GradientTransformation:
  """Returns Adam with the gradient clipped to norm one, as in the source."""
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))


def tuned(
  arms: Sequence[Arm],
  train: Callable[[Arm, Sequence[float], Sequence[int]], Parts],
  config: Config,
  run: Run,
) -> tuple[dict[Arm, Parts], dict[Arm, Parts]]:
  """Returns the arms at their best rates, and at those that train fastest.

  The second are without "one", which is the same as "step" in training.

  Args:
    arms: Cells with norms.
    train: `on_rows` or `on_sums`, from the arm on.
    config: The settings.
    run: Keeps the results as parts, and records the choices.
  """
  best: dict[Arm, Parts] = {}
  fast: dict[Arm, Parts] = {}
  for arm in arms:
    name = "_".join(arm)

    @functools.cache  # What both choices need is trained once.
    def trained(
      rates: tuple[float, ...], seeds: tuple[int, ...], arm: Arm = arm
    ) -> Parts:
      return train(arm, rates, seeds)

    def part(
      rates: Sequence[float], seeds: Sequence[int], trained: Any = trained
    ) -> Parts:
      return trained((*rates,), (*seeds,))

    best[arm] = tuning.tuned(run, name, part, RATES, config)
    if arm.norm != "one":
      fast[arm] = tuning.tuned(
        run, f"{name}_fastest", part, RATES, config, by="mean"
      )
  return best, fast


def by_norm(arms: Mapping[Arm, Parts], cell: str) -> dict[str, Parts]:
  """Returns the arms of a cell by norm."""
  return {arm.norm: part for arm, part in arms.items() if arm.cell == cell}


def on_rows(
  config: Config,
  pool: Pool,
  arm: Arm,
  rates: Sequence[float],
  seeds: Sequence[int],
  again: bool = False,
) -> Parts:
  """Trains an arm on images as sequences.

  Args:
    config: The settings.
    pool: From `task.read_by`.
    arm: Cell and norm.
    rates, seeds: Learning rates, and seeds for each.
    again: Whether to take other kernels and batches, on the same images.

  Returns:
    `[rates, seeds, ...]`: "loss" of every step, and its "mean"; "error" in the
    test in percent, and "reestimated" with re-estimated statistics; and
    "validation", the loss with these.
  """
  images = pool.split(seeds, len(rates))
  assert images.validation is not None
  engine, state, records = classification.train_at_rates(
    nets.Reader(
      arm.cell,
      nets.norm_of(arm.norm, pool.sample.shape[1]),
      config.units,
      pool.num_classes,
    ),
    adam,
    images,
    batch_size=BATCH,
    seeds=[seed + tuning.AGAIN * again for seed in seeds],
    rates=rates,
    steps=config.steps,
    gain=config.gain,
  )
  estimated = classification.reestimated(engine, state, images.train)
  found = {
    "loss": records.loss,
    "mean": records.loss.mean(axis=1),
    "error": classification.error(engine, state.variables, images.test),
    "reestimated": classification.error(engine, estimated, images.test),
    "validation": engine.evaluate(estimated, images.validation)["loss"],
  }
  return lanes.by_rate(found, len(rates))


def on_sums(
  config: Config, arm: Arm, rates: Sequence[float], seeds: Sequence[int]
) -> Parts:
  """Trains an arm on the adding problem.

  Args:
    config, arm, rates, seeds: As in `on_rows`.

  Returns:
    `[rates, seeds, ...]`: "loss" and "mean"; "validation", the loss with
    re-estimated statistics at the lengths of training; and, if there is one
    rate, root mean square errors at the lengths of `config.tested`: "running",
    "reestimated", with the statistics of the "batch", and, where each step has
    its own, with those of the last trained step replaced by the "initial" ones.
  """
  source = Drawn(
    lambda key, _, size: task.draw_sums(key, config.lengths, size), None, BATCH
  )
  model = nets.Reader(
    arm.cell, nets.norm_of(arm.norm, config.length), config.units, 1
  )
  engine = Engine(
    model,
    Update(task.squared_error, swept(adam)),
    source,
    sample=jnp.zeros((1, config.length, 2)),
    gain=config.gain,
  )
  state = engine.init(seeds, learning_rate=rates)
  state, records = engine.train(state, config.sums)
  estimated = engine.reestimate(state.variables, source, _REESTIMATED)
  validation, *tests = _test_sets(config)
  found = {
    "loss": records.loss,
    "mean": records.loss.mean(axis=1),
    "validation": engine.evaluate(estimated, validation)["loss"],
  }
  if len(rates) == 1:
    error = functools.partial(_errors, engine, tests)
    found["reestimated"] = error(estimated)
    if arm.norm in ("step", "one"):
      found["running"] = error(state.variables)
      found["batch"] = error(state.variables, train=True)
    if arm.norm == "step":
      longest = config.tested[-1]
      norm = nets.norm_of("step", longest, debias=False)
      found["initial"] = error(
        with_initial(estimated, longest), model=model.clone(norm=norm)
      )
  return lanes.by_rate(found, len(rates))


def _test_sets(config: Config) -> list[Batch]:
  """Returns sequences for validation, and of each length of the test."""
  draw = jax.jit(task.draw_sums, static_argnums=(1, 2, 3))
  keys = jax.random.split(jax.random.key(0), 1 + len(FACTORS))
  validation = draw(keys[0], config.lengths, _TESTED)
  # All with as much padding as the longest, so that one program serves all.
  return [validation] + [
    draw(key, Lengths(length, length), _TESTED, config.tested[-1])
    for key, length in zip(keys[1:], config.tested, strict=True)
  ]


def _errors(
  engine: Engine, tests: Sequence[Batch], variables: PyTree, **options: Any
) -> np.ndarray:
  """Returns root mean square errors `[lanes, lengths]`."""
  squares = [
    engine.evaluate(variables, test, **options)["loss"] for test in tests
  ]
  return np.sqrt(np.stack(squares, axis=1))


def with_initial(variables: PyTree, steps: int) -> PyTree:
  """Returns variables in which steps that were not trained have statistics.

  Args:
    variables: Of a net with statistics of each time step, `[lanes, steps,
      channels]`.
    steps: Number of steps that get them.

  Returns:
    Variables for `debias=False`: mean zero and variance one from the last
    trained step on, as batch norm starts.
  """

  def longer(stats: PyTree) -> PyTree:
    if "mean" not in stats:
      return {name: longer(value) for name, value in stats.items()}
    more = steps - stats["mean"].shape[1]
    return {
      name: jnp.pad(
        stats[name], [(0, 0), (0, more), (0, 0)], constant_values=initial
      )
      for name, initial in (("mean", 0.0), ("var", 1.0))
    }

  return {**variables, "batch_stats": longer(variables["batch_stats"])}
