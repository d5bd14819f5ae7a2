"""Statistics over seeds: intervals, tests, and how many seeds are needed.

Every analysis of a claim (see `analyses`) rests on the functions here. They are
compared with SciPy, and by simulation, in tests.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from experiments.lab.intervals import Interval as Interval

# One number per seed; None or NaN for a seed that diverged.
Seeds = ArrayLike | Sequence[float | None]

LEVEL = 0.05  # Intervals are at 95%.
RESAMPLES = 19_999  # Then 2.5% of RESAMPLES + 1 is a whole number.


def interval(values: ArrayLike, confidence: float = 1 - LEVEL) -> Interval:
  """Returns the mean of `values` and its Student t confidence interval.

  Args:
    values: One number per seed, `[seeds]`.
    confidence: Share of such intervals that contain the true mean.

  Returns:
    The interval; its half width is NaN for a single value.

  Raises:
    ValueError: `values` is empty, not one-dimensional or not finite.

  >>> print(interval([1.0, 2.0, 3.0]))
  2.0 ± 2.5
  """
  # Slow to import, and not needed before the end of training.
  from scipy import stats

  seeds = per_seed("values", values)
  if not np.isfinite(seeds).all():
    bad = np.flatnonzero(~np.isfinite(seeds))
    raise ValueError(
      f"values must be finite, got {seeds[bad].tolist()} at position"
      f" {bad.tolist()} of {seeds.size}; cap diverged seeds or compare ranks"
      " rather than averaging over the others."
    )
  if not 0 < confidence < 1:
    raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
  if seeds.size == 1:
    return Interval(float(seeds[0]), math.nan)
  error = seeds.std(ddof=1) / math.sqrt(seeds.size)
  quantile = stats.t.ppf((1 + confidence) / 2, seeds.size - 1)
  return Interval(float(seeds.mean()), float(quantile * error))


def t_test(values: ArrayLike, mean: float) -> float:
  """Returns the two-sided p value of "the true mean is `mean`".

  It is 1 if all values are equal, or if there is one: they show no spread.

  >>> round(t_test([1.0, 2.0, 3.0], 0.0), 4)
  0.0742
  """
  from scipy import stats

  seeds = per_seed("values", values)
  if np.ptp(seeds) == 0:
    return 1.0
  error = seeds.std(ddof=1) / math.sqrt(seeds.size)
  distance = abs(seeds.mean() - mean)
  return float(2 * stats.t.sf(distance / error, seeds.size - 1))


class Bootstrapped(NamedTuple):
  """Sorted t statistics of resamples around the mean of the sample.

  The interval is that of the studentized bootstrap: its ends use the quantiles
  of these statistics in place of Student's, so it follows the skewness. An end
  is infinite if too many resamples are of one value only.

  References: DiCiccio & Efron, 1996, section 4,
  https://doi.org/10.1214/ss/1032280214; for the p value Davison & Hinkley,
  1997, Bootstrap Methods and their Application, section 4.2.
  """

  mean: float
  error: float
  statistics: np.ndarray

  def interval(self) -> tuple[float, float]:
    """Returns the two ends of the interval."""
    tail = round(LEVEL / 2 * (len(self.statistics) + 1))
    low, high = self.statistics[-tail], self.statistics[tail - 1]
    return self.mean - low * self.error, self.mean - high * self.error

  def test(self, mean: float) -> float:
    """Returns the two-sided p value of "the true mean is `mean`"."""
    statistic = (self.mean - mean) / self.error
    below = np.searchsorted(self.statistics, statistic, "right")
    above = len(self.statistics) - np.searchsorted(self.statistics, statistic)
    tail = (1 + min(below, above)) / (1 + len(self.statistics))
    return float(min(1.0, 2 * tail))


def bootstrapped(values: ArrayLike) -> Bootstrapped:
  """Resamples seeds, always in the same way, for a studentized bootstrap.

  Args:
    values: One number per seed, not all equal.

  >>> low, high = bootstrapped([1.0, 2.0, 2.5, 3.0, 9.0, 2.2]).interval()
  >>> bool(3.28 - low < high - 3.28)  # The long tail is on the right.
  True
  """
  seeds = per_seed("values", values)
  rng = np.random.default_rng(0)
  drawn = seeds[rng.integers(0, seeds.size, (RESAMPLES, seeds.size))]
  distances = drawn.mean(axis=1) - seeds.mean()
  # Without a spread, a mean is infinitely far from any other.
  spread = drawn.std(axis=1, ddof=1) * (np.ptp(drawn, axis=1) > 0)
  with np.errstate(divide="ignore", invalid="ignore"):
    statistics = distances / (spread / math.sqrt(seeds.size))
  statistics[np.isnan(statistics)] = 0.0
  error = seeds.std(ddof=1) / math.sqrt(seeds.size)
  return Bootstrapped(float(seeds.mean()), float(error), np.sort(statistics))


def skewness(values: ArrayLike) -> float:
  """Returns the adjusted Fisher-Pearson skewness; 0 for equal values."""
  seeds = per_seed("values", values)
  count = seeds.size
  if count < 3 or np.ptp(seeds) == 0:
    return 0.0
  standard = (seeds - seeds.mean()) / seeds.std(ddof=1)
  return float(count / ((count - 1) * (count - 2)) * (standard**3).sum())


def sign_test(values: ArrayLike, median: float) -> float:
  """Returns the two-sided p value of "the true median is `median`".

  Values may be infinite. Those equal to the median count on both sides, so that
  the test agrees with `median_interval`.

  >>> sign_test([1.0, 2.0, 3.0, math.inf, 4.0], 0.0)
  0.0625
  """
  from scipy import stats

  seeds = per_seed("values", values)
  fewer = min((seeds <= median).sum(), (seeds >= median).sum())
  return float(min(1.0, 2 * stats.binom.cdf(fewer, seeds.size, 0.5)))


def median_interval(values: ArrayLike) -> tuple[float, float]:
  """Returns the interval of the median between two order statistics.

  The probability that the median is below the k-th smallest of n values is the
  probability that fewer than k of n fair coins show heads. With fewer than six
  values the interval has no bounds.

  >>> median_interval(np.arange(1.0, 21.0))
  (6.0, 15.0)
  """
  from scipy import stats

  seeds = np.sort(per_seed("values", values))
  k = int(stats.binom.ppf(LEVEL / 2, seeds.size, 0.5))
  if k == 0:
    return -math.inf, math.inf
  return float(seeds[k - 1]), float(seeds[-k])


def holm(p_values: Sequence[float]) -> list[float]:
  """Returns p values corrected for the number of tests.

  Rejecting every hypothesis with a corrected value of at most 5% rejects a true
  one with a probability of at most 5%, however the tests depend on each other.

  Reference: Holm, 1979, https://www.jstor.org/stable/4615733.

  >>> holm([0.01, 0.04, 0.03])
  [0.03, 0.06, 0.06]
  """
  order = np.argsort(p_values, kind="stable")
  corrected = np.empty(len(p_values))
  largest = 0.0
  for rank, index in enumerate(order):
    largest = max(largest, (len(p_values) - rank) * p_values[index])
    corrected[index] = min(1.0, largest)
  return [float(value) for value in corrected]


def power(distance: float, seeds: int, level: float = LEVEL) -> float:
  """Returns how often a two-sided t test resolves a distance.

  Args:
    distance: Distance of the true mean from the boundary, in standard
      deviations over seeds.
    seeds: Number of seeds.
    level: Level of the test.

  Reference: Cohen, 1988, Statistical Power Analysis, chapter 2 (noncentral t).

  >>> round(power(0.9, 12), 2)
  0.81
  """
  from scipy import stats

  if seeds < 2:
    return 0.0
  quantile = stats.t.ppf(1 - level / 2, seeds - 1)
  shift = abs(distance) * math.sqrt(seeds)
  return float(stats.nct.sf(quantile, seeds - 1, shift))


def resolved_by(seeds: int, share: float = 0.8, level: float = LEVEL) -> float:
  """Returns the distance that a number of seeds resolves.

  Args:
    seeds: Number of seeds, two or more.
    share: Share of runs in which it is to be resolved.
    level: Level of the test.

  Returns:
    The distance from a boundary, in standard deviations over seeds.

  >>> round(resolved_by(20), 2), round(resolved_by(5), 2)
  (0.66, 1.68)
  """
  from scipy import optimize

  return float(
    optimize.brentq(
      lambda distance: power(distance, seeds, level) - share, 1e-3, 100
    )
  )


def seeds_for(distance: float, share: float = 0.8, level: float = LEVEL) -> int:
  """Returns how many seeds a t test needs to resolve a distance.

  Args:
    distance: As in `power`, not 0.
    share: Share of runs in which it is to be resolved.
    level: Level of the test.

  >>> seeds_for(0.66), seeds_for(1.68)
  (21, 6)
  """
  few, enough = 1, 2
  while power(distance, enough, level) < share:
    few, enough = enough, 2 * enough
  while enough - few > 1:
    middle = (few + enough) // 2
    if power(distance, middle, level) < share:
      few = middle
    else:
      enough = middle
  return enough


def wrong_seeds(seeds: int, level: float = LEVEL) -> int | None:
  """Returns how many seeds may contradict a verdict by rank.

  Args:
    seeds: Number of seeds.
    level: Level of the sign test.

  Returns:
    The largest number of seeds on the other side of the boundary at which the
    test still resolves; None if it never does.

  >>> wrong_seeds(20), wrong_seeds(6), wrong_seeds(5)
  (5, 0, None)
  """
  from scipy import stats

  counts = [
    count
    for count in range(seeds // 2 + 1)
    if 2 * stats.binom.cdf(count, seeds, 0.5) <= level
  ]
  return counts[-1] if counts else None


def shown(values: Seeds, form: str = "") -> str:
  """Returns the interval of `values` as text, for tables.

  >>> shown([1.0, 2.0, 3.0], ".2f"), shown([1.0, None], ".2f")
  ('2.00 ± 2.48', 'diverged')
  """
  seeds = per_seed("values", values)
  if not np.isfinite(seeds).all():
    return "diverged"
  return f"{interval(seeds):{form}}"


def best_rate(losses: np.ndarray) -> int:
  """Returns the index of the rate with the lowest mean in `[rates, seeds]`.

  A rate at which a seed diverged (NaN) counts as infinite.
  """
  return int(np.nan_to_num(losses.mean(axis=1), nan=np.inf).argmin())


def per_seed(name: str, values: Seeds) -> np.ndarray:
  """Returns the values as float64 `[seeds]`; raises ValueError otherwise."""
  seeds = np.asarray(values, np.float64)
  if seeds.ndim != 1 or seeds.size == 0:
    raise ValueError(
      f"{name} must hold one number per seed, got shape {seeds.shape}."
    )
  return seeds
