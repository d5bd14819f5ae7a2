"""From numbers per seed to an estimate: what a claim does with its samples.

Seeds are paired: the same position in two samples is the same seed, which
shares data, initial kernels and order. The analysis is of the differences or
ratios, seed by seed.

The interval of a mean is Student's t. With five to nine seeds, or if the sample
is skewed (skewness beyond 1), it is that of the studentized bootstrap, because
Student's t is then too narrow on the side of the tail.

A seed that diverged has no number. It is never left out. It counts as `cap` if
the analysis has one, such as the loss of guessing. Otherwise it is infinitely
bad: the estimate is then the median, with the interval by rank (sign test).

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
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from experiments.lab import statistics
from experiments.lab.statistics import Seeds

FEW, SKEWED = 10, 1.0  # Seeds, skewness: see above.
_LEAST = 5  # Resamples of fewer seeds say too little.


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A quantity with its 95% interval and its tests.

  Attributes:
    center: The estimate.
    low, high: Ends of the interval; infinite if it has no bounds.
    seeds: Number of seeds.
    method: What the interval is: "t", "bootstrap" or "ranks".
    test: Two-sided p value of "the quantity is this number".
    effect: Size of the effect against a number: the distance in standard
      deviations over seeds (Cohen's d for pairs), for ranks the share of seeds
      above it minus the share below.
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
  """Turns samples, one number per seed, into an estimate."""

  def estimate(self, *samples: Seeds) -> Estimate: ...


@dataclasses.dataclass(frozen=True)
class Level:
  """The mean of one sample.

  Attributes:
    cap: Larger numbers, and seeds that diverged, count as this.
  """

  cap: float | None = None

  def estimate(self, *samples: Seeds) -> Estimate:
    (values,) = _paired(samples, 1, self.cap)
    return _estimate(values)

  def __str__(self) -> str:
    return f"mean over seeds{_capped(self.cap)}"


@dataclasses.dataclass(frozen=True)
class Difference:
  """The mean of the first sample minus the second, seed by seed.

  Attributes:
    cap: As in `Level`.
  """

  cap: float | None = None

  def estimate(self, *samples: Seeds) -> Estimate:
    first, second = _paired(samples, 2, self.cap)
    with np.errstate(invalid="ignore"):
      return _estimate(np.nan_to_num(first - second, nan=0, posinf=np.inf,
                                     neginf=-np.inf))  # fmt: skip

  def __str__(self) -> str:
    return f"mean of paired differences{_capped(self.cap)}"


@dataclasses.dataclass(frozen=True)
class Ratio:
  """The geometric mean of first / second, seed by seed, by logarithms.

  Attributes:
    cap: As in `Level`.
    by_rank: Whether to take the median instead, with the interval by rank, for
      numbers that are not known exactly but in order, such as bounds.

  Raises:
    ValueError: `estimate` gets a number that is not positive.
  """

  cap: float | None = None
  by_rank: bool = False

  def estimate(self, *samples: Seeds) -> Estimate:
    first, second = _paired(samples, 2, self.cap)
    if (first <= 0).any() or (second <= 0).any():
      raise ValueError(
        f"A ratio needs positive numbers, got {first.tolist()} and"
        f" {second.tolist()}; use Difference."
      )
    with np.errstate(invalid="ignore"):
      logs = np.log(first) - np.log(second)
    logs = np.nan_to_num(logs, nan=0, posinf=np.inf, neginf=-np.inf)
    found = _by_rank(logs) if self.by_rank else _estimate(logs)
    return dataclasses.replace(
      found,
      **{
        name: math.exp(getattr(found, name))
        for name in ("center", "low", "high")
      },
      test=lambda ratio: found.test(math.log(ratio)),
      effect=lambda ratio: found.effect(math.log(ratio)),
    )

  def __str__(self) -> str:
    mean = "median" if self.by_rank else "geometric mean"
    ranks = ", by rank (sign test)" if self.by_rank else ""
    return f"{mean} of paired ratios{ranks}{_capped(self.cap)}"


@dataclasses.dataclass(frozen=True)
class Ranks:
  """The median of the first sample minus the second, by ranks.

  For numbers that are not known exactly but in order, such as bounds.
  """

  def estimate(self, *samples: Seeds) -> Estimate:
    first, second = _paired(samples, 2, None)
    with np.errstate(invalid="ignore"):
      difference = first - second
    return _by_rank(np.nan_to_num(difference, posinf=np.inf, neginf=-np.inf))

  def __str__(self) -> str:
    return "median of paired differences, by rank (sign test)"


def _capped(cap: float | None) -> str:
  return "" if cap is None else f", of numbers of at most {cap:.4g}"


def _paired(
  samples: tuple[Seeds, ...], count: int, cap: float | None
) -> list[np.ndarray]:
  """Returns the samples as arrays; seeds that diverged are infinite or `cap`.

  Raises:
    ValueError: Their number is not `count`, or they have other seeds.
  """
  arrays = [statistics.per_seed("a sample", sample) for sample in samples]
  if len(arrays) != count or len({array.size for array in arrays}) != 1:
    raise ValueError(
      f"This analysis takes {count} samples of the same seeds, got"
      f" {[array.size for array in arrays]} seeds."
    )
  filled = [np.where(np.isnan(array), np.inf, array) for array in arrays]
  if cap is None:
    return filled
  return [np.minimum(array, cap) for array in filled]


def _estimate(values: np.ndarray) -> Estimate:
  """Returns the mean, or the median if values are infinite."""
  if not np.isfinite(values).all():
    return _by_rank(values)
  spread = values.std(ddof=1) if values.size > 1 else math.nan

  def effect(number: float) -> float:
    distance = float(values.mean()) - number
    if not spread > 0:
      return math.copysign(math.inf, distance) if distance else 0.0
    return float(distance / spread)

  few = _LEAST <= values.size < FEW
  skewed = abs(statistics.skewness(values)) > SKEWED
  if spread > 0 and values.size >= _LEAST and (few or skewed):
    resampled = statistics.bootstrapped(values)
    low, high = resampled.interval()
    test, method = resampled.test, "bootstrap"
  else:
    found = statistics.interval(values)
    low, high, method = found.low, found.high, "t"
    if values.size == 1:  # One seed shows nothing of the others.
      low, high = -math.inf, math.inf

    def test(mean: float) -> float:
      return statistics.t_test(values, mean)

  return Estimate(
    float(values.mean()), low, high, values.size, method, test, effect
  )


def _by_rank(values: np.ndarray) -> Estimate:
  low, high = statistics.median_interval(values)
  return Estimate(
    float(np.median(values)),
    low,
    high,
    values.size,
    "ranks",
    lambda median: statistics.sign_test(values, median),
    lambda number: float(np.sign(values - number).mean()),
  )
