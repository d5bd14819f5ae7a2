"""From numbers per seed to an estimate: what a claim does with its samples.

Seeds are paired: the same position in two samples is the same seed, which
shares data, initial kernels and order. The analysis is of the differences or
ratios, seed by seed.

The interval of a mean is Student's t. If ten seeds or more are skewed (skewness
beyond 1), it is that of the studentized bootstrap, because Student's t is then
too narrow on the side of the tail.

A few seeds may fail, such as nets that never leave the error of guessing. Then
a mean says mostly how many failed, and a sample without a failure says nothing
of the next one. Claims where pilots show this are judged `by_rank`: the
estimate is the median, its interval is between two order statistics, and its
test is the sign test.

A seed that diverged has no number. It is never left out. It counts as `cap` if
the analysis has one, such as the loss of guessing. Otherwise it counts as
infinitely large, which is bad for losses and errors: two that diverged are
equal, and the analysis is by rank. A quantity of which more is better needs a
number instead. The analysis is by rank too if all numbers are equal, since they
have no spread.

>>> print(Difference().estimate([2.0, 3.0, 4.5], [1.0, 2.5, 3.0]))
1 [-0.242, 2.24]
>>> print(Ratio().estimate([1.0, 2.0, 4.4], [2.0, 4.1, 8.0]))
0.512 [0.437, 0.599]
>>> print(Ratio(by_rank=True).estimate([2, 4, 6, 8, 10, 90], [1] * 6))
6.93 [2, 90]
>>> print(Level(cap=4.0).estimate([1.0, 1.1, None]))
2.03 [-2.2, 6.27]
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from experiments.lab import statistics
from experiments.lab.statistics import Seeds

SKEWED, LEAST = 1.0, 10  # Skewness, seeds: see above.


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A quantity with its 95% interval and its tests.

  Attributes:
    center: The estimate.
    low, high: Ends of the interval; infinite if it has no bounds.
    seeds: Number of seeds.
    method: What the interval is: "t", "bootstrap" or "ranks".
    test: Two-sided p value of "the quantity is this number".
    effect: Size of the effect: the distance from a number, such as that without
      an effect, in standard deviations over seeds (for paired samples Cohen's
      d), for ranks the share of seeds above it minus the share below.
  """

  center: float
  low: float
  high: float
  seeds: int
  method: str
  test: Callable[[float], float]
  effect: Callable[[float], float]

  def __str__(self) -> str:
    return self.text(".3g")

  def text(self, form: str, unit: str = "") -> str:
    """Returns the estimate and its interval, with the unit."""
    ends = (format(end, form) for end in (self.low, self.high))
    return f"{self.center:{form}} [{', '.join(ends)}] {unit}".rstrip()


class Analysis(Protocol):
  """Turns samples, one number per seed, into an estimate.

  Converts to text such as "mean of paired differences".
  """

  @property
  def cap(self) -> float | None:
    """The number that larger ones, and seeds that diverged, count as."""

  @property
  def by_rank(self) -> bool:
    """Whether it is always by rank."""

  @property
  def none(self) -> float | None:
    """The estimate without an effect; None if it is of a single sample."""

  def estimate(self, *samples: Seeds) -> Estimate: ...


@dataclasses.dataclass(frozen=True)
class Level:
  """The mean of one sample, or its median by rank.

  Attributes:
    cap: Larger numbers, and seeds that diverged, count as this.
    by_rank: Whether to take the median instead, with the interval by rank: for
      samples in which seeds may fail, and for numbers that are known only in
      order, such as bounds.
  """

  cap: float | None = None
  by_rank: bool = False

  @property
  def none(self) -> None:
    return None

  def estimate(self, *samples: Seeds) -> Estimate:
    (values,) = found = _paired(samples, 1, self.cap)
    return _estimate(values, self.by_rank or _diverged(found))

  def __str__(self) -> str:
    return f"{_average(self)} over seeds{_capped(self.cap)}"


@dataclasses.dataclass(frozen=True)
class Difference:
  """The mean or median of the first sample minus the second, seed by seed.

  Attributes:
    cap, by_rank: As in `Level`.
  """

  cap: float | None = None
  by_rank: bool = False

  @property
  def none(self) -> float:
    return 0.0

  def estimate(self, *samples: Seeds) -> Estimate:
    first, second = found = _paired(samples, 2, self.cap)
    by_rank = self.by_rank or _diverged(found)
    return _estimate(_difference(first, second), by_rank)

  def __str__(self) -> str:
    return f"{_average(self)} of paired differences{_capped(self.cap)}"


@dataclasses.dataclass(frozen=True)
class Ratio:
  """The geometric mean or median of first / second, seed by seed.

  Attributes:
    cap, by_rank: As in `Level`.

  Raises:
    ValueError: `estimate` gets a number that is not positive.
  """

  cap: float | None = None
  by_rank: bool = False

  @property
  def none(self) -> float:
    return 1.0

  def estimate(self, *samples: Seeds) -> Estimate:
    first, second = paired = _paired(samples, 2, self.cap)
    if (first <= 0).any() or (second <= 0).any():
      raise ValueError(
        f"A ratio needs positive numbers, got {first.tolist()} and"
        f" {second.tolist()}; use Difference."
      )
    logs = _difference(np.log(first), np.log(second))
    found = _estimate(logs, self.by_rank or _diverged(paired))
    return dataclasses.replace(
      found,
      center=_exp(found.center),
      low=_exp(found.low),
      high=_exp(found.high),
      test=lambda ratio: found.test(math.log(ratio)),
      effect=lambda ratio: found.effect(math.log(ratio)),
    )

  def __str__(self) -> str:
    return (
      f"{_average(self, 'geometric mean')} of paired ratios{_capped(self.cap)}"
    )


def _average(analysis: Analysis, mean: str = "mean") -> str:
  return "median (sign test)" if analysis.by_rank else mean


def _capped(cap: float | None) -> str:
  return "" if cap is None else f", numbers capped at {cap:.4g}"


def _paired(
  samples: tuple[Seeds, ...], count: int, cap: float | None
) -> list[np.ndarray]:
  """Returns the samples as arrays; seeds that diverged are infinite or `cap`.

  Raises:
    ValueError: Their number is not `count`, they have other seeds, or they
      hold -inf.
  """
  arrays = [statistics.per_seed("a sample", sample) for sample in samples]
  if len(arrays) != count or len({array.size for array in arrays}) != 1:
    raise ValueError(
      f"This analysis takes {count} samples of the same seeds, got"
      f" {[array.size for array in arrays]} seeds."
    )
  if any(np.isneginf(array).any() for array in arrays):
    raise ValueError(
      "A sample holds -inf; a seed that diverged is None or NaN, and counts as"
      " infinitely large."
    )
  filled = [np.where(np.isnan(array), np.inf, array) for array in arrays]
  if cap is None:
    return filled
  return [np.minimum(array, cap) for array in filled]


def _diverged(samples: Sequence[np.ndarray]) -> bool:
  return bool(np.isinf(samples).any())


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Returns the first minus the second; 0 where both diverged."""
  both = np.isinf(first) & (first == second)
  return np.subtract(first, second, out=np.zeros(first.size), where=~both)


def _exp(number: float) -> float:
  with np.errstate(over="ignore"):
    return float(np.exp(number))


def _estimate(values: np.ndarray, by_rank: bool) -> Estimate:
  """Returns the mean of a number per seed, or the median if it is by rank."""
  if by_rank or np.ptp(values) == 0:
    return _by_rank(values)
  known = statistics.interval(values)
  low, high, method = known.low, known.high, "t"
  test: Callable[[float], float] = functools.partial(statistics.t_test, values)
  if values.size >= LEAST and abs(statistics.skewness(values)) > SKEWED:
    resampled = statistics.bootstrapped(values)
    low, high = resampled.interval()
    test, method = resampled.test, "bootstrap"
  mean, spread = float(values.mean()), float(values.std(ddof=1))
  return Estimate(
    mean,
    low,
    high,
    values.size,
    method,
    test,
    lambda number: (mean - number) / spread,
  )


def _by_rank(values: np.ndarray) -> Estimate:
  low, high = statistics.median_interval(values)
  with np.errstate(invalid="ignore"):
    median = np.median(values)
  if np.isnan(median):  # Half are infinitely bad, half infinitely good.
    median = 0.0
  return Estimate(
    float(median),
    low,
    high,
    values.size,
    "ranks",
    lambda median: statistics.sign_test(values, median),
    lambda number: float(np.sign(values - number).mean()),
  )
