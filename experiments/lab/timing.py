"""Times several programs in turns, so that disturbances affect all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Runs the given number of steps, and returns when they are done.
Run = Callable[[int], None]


class Spread(NamedTuple):
  """A median and the quartiles.

  >>> print(Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]))
  Spread(low=2.0, median=3.0, high=4.0)
  """

  low: float
  median: float
  high: float

  @classmethod
  def of(cls, values: Sequence[float]) -> "Spread":
    return cls(*map(float, np.quantile(values, (0.25, 0.5, 0.75))))


def steps_within(
  run: Run, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> int:
  """Returns how many steps take about `seconds`, at least one.

  Args:
    run: The program. It first runs untimed, so that it is compiled, perhaps for
      a number of steps.
    seconds: The time that all steps together should take.
    clock: For tests.
  """
  steps = 1
  while True:
    run(steps)
    began = clock()
    run(steps)
    taken = clock() - began
    if taken >= seconds / 4:
      return max(1, round(steps * seconds / taken))
    steps *= 4


def interleaved(
  runs: Mapping[str, Run],
  *,
  seconds: float,
  rounds: int,
  clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
  """Times programs in turns.

  Args:
    runs: The programs by name.
    seconds: The approximate length of a sample.
    rounds: The number of samples per program. Each round starts with another
      program, so that no program always runs first.
    clock: For tests.

  Returns:
    Seconds per step, `{name: [rounds]}`.
  """
  steps = {
    name: steps_within(run, seconds, clock) for name, run in runs.items()
  }
  for name, run in runs.items():
    run(steps[name])  # Compiled for this number of steps.
  samples: dict[str, list[float]] = {name: [] for name in runs}
  names = list(runs)
  for _ in range(rounds):
    for name in names:
      began = clock()
      runs[name](steps[name])
      samples[name].append((clock() - began) / steps[name])
    names = names[1:] + names[:1]
  return samples
