"""Chooses learning rates on other seeds than those that are judged.

An arm is trained at every rate of a grid with the tuning seeds. The rate with
the lowest mean loss is taken, by default of the validation loss. If it is the
first or last one, the grid grows by its own step until it is not. Then the arm
is trained at this rate with the seeds of the study, which had no part in the
choice.

One tuning seed says too little to choose by. It is for --quick, where only the
two rates in the middle of the grid are tried, and the grid does not grow.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from experiments.lab import statistics
from experiments.lab.errors import RefusedError
from experiments.lab.options import TuningConfig
from experiments.lab.run import Parts, Run

SEEDS = (1000, 1001, 1002)
# Added to a seed, it gives other kernels and batches on the same examples, for
# arms that show by how much two trainings differ anyway.
AGAIN = 500_000
MOST = 6  # Rates that a grid may grow by.

# `train(rates, seeds)` returns arrays `[rates, seeds, ...]`, among them the
# losses to choose by, `[rates, seeds]`.
Train = Callable[[Sequence[float], Sequence[int]], Parts]


class RateChoice(NamedTuple):
  """The chosen rate of an arm, and what it was chosen from.

  Attributes:
    rate: The chosen rate.
    rates: The whole grid, ascending.
    validation: Mean loss to choose by at each rate; None if a seed diverged.
    interior: Whether the grid has worse rates on both sides of the chosen one.
  """

  rate: float
  rates: list[float]
  validation: list[float | None]
  interior: bool

  @property
  def loss(self) -> float | None:
    """The mean loss at the chosen rate; None if a seed diverged."""
    return self.validation[self.rates.index(self.rate)]


def half_decades(first: int, last: int) -> tuple[float, ...]:
  """Returns rates from 10 ** (first / 2) to 10 ** (last / 2).

  >>> [f"{rate:.2g}" for rate in half_decades(-4, 0)]
  ['0.01', '0.032', '0.1', '0.32', '1']
  """
  return tuple(10 ** (np.arange(first, last + 1) / 2))


def tuned(
  run: Run,
  name: str,
  train: Train,
  rates: Sequence[float],
  config: TuningConfig,
  by: str = "validation",
) -> Parts:
  """Returns the results of an arm at its best rate.

  Args:
    run: Keeps the results as parts, and records the choice.
    name: Name of the arm, and of its parts.
    train: Trains the arm.
    rates: The grid, ascending, evenly spaced as logarithms; five or more.
    config: Gives the seeds to judge, and how many to choose with.
    by: Name of the loss to choose by.

  Returns:
    The arrays of `train` without their axis of rates, the "rate", and
    "tuning", the mean loss for which it was chosen.

  Raises:
    RefusedError: A seed of the study is one for choosing.
  """
  overlap = sorted({*config.seed_numbers} & {*SEEDS})
  if overlap:
    raise RefusedError(
      f"The seeds {overlap} choose learning rates, so they cannot be judged;"
      " use another --seed."
    )
  choice = chosen(run, name, train, rates, SEEDS[: config.tuning_seeds], by)
  run.record_rates(name, choice)
  rate = choice.rate * config.rate_factor
  arm = at_rate(run, name, train, rate, config.seed_numbers)
  return arm | {"tuning": np.asarray(choice.loss, np.float64)}


def at_rate(
  run: Run, name: str, train: Train, rate: float, seeds: Sequence[int]
) -> Parts:
  """Returns the results of an arm at a given rate.

  Args:
    run: Keeps the results as a part.
    name: Name of the part.
    train: Trains the arm.
    rate: The learning rate.
    seeds: The seeds.

  Returns:
    The arrays of `train` without their axis of rates, and the "rate".
  """
  found = run.part(name, lambda: train([float(rate)], seeds))
  arm = {key: values[0] for key, values in found.items()}
  return arm | {"rate": np.asarray(rate)}


def chosen(
  run: Run,
  name: str,
  train: Train,
  rates: Sequence[float],
  seeds: Sequence[int] = SEEDS,
  by: str = "validation",
) -> RateChoice:
  """Chooses a rate; see `tuned`."""
  grid = [float(rate) for rate in rates]
  step = (grid[-1] / grid[0]) ** (1 / (len(grid) - 1))
  most = MOST
  if len(seeds) == 1:
    # As many lanes as the two seeds of --quick, hence the same programs.
    middle = (len(grid) - 1) // 2
    grid, most = grid[middle : middle + 2], 0
  losses = [*run.part(f"{name}_tuning", lambda: train(grid, seeds))[by]]
  for count in range(1, most + 1):
    best = statistics.best_rate(np.array(losses))
    if 0 < best < len(grid) - 1:
      break
    rate = grid[0] / step if best == 0 else grid[-1] * step
    more = functools.partial(train, [rate], seeds)
    (loss,) = run.part(f"{name}_tuning_{count}", more)[by]
    at = 0 if best == 0 else len(grid)
    grid.insert(at, rate)
    losses.insert(at, loss)
  best = statistics.best_rate(np.array(losses))
  interior = 0 < best < len(grid) - 1
  if most and not interior:
    logging.warning(
      "The best rate of %s is at the edge of its grid: %.2g of %.2g to %.2g.",
      name,
      grid[best],
      grid[0],
      grid[-1],
    )
  means = [float(np.mean(loss)) for loss in losses]
  return RateChoice(
    grid[best],
    grid,
    [mean if np.isfinite(mean) else None for mean in means],
    interior,
  )
