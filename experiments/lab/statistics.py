"""Statistics over seeds: intervals, paired comparisons, trends.

Seeds that diverged have no number. They are not left out: a comparison counts
them, and replaces Student's t interval by one that holds without their numbers
(see `paired_difference`).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from experiments.lab.intervals import Bounds as Bounds
from experiments.lab.intervals import Interval as Interval
from experiments.lab.intervals import Trend as Trend

# One number per seed; None or NaN for a seed that diverged.
Seeds = ArrayLike | Sequence[float | None]


def interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
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

  seeds = _per_seed("values", values)
  if not np.isfinite(seeds).all():
    bad = np.flatnonzero(~np.isfinite(seeds))
    raise ValueError(
      f"values must be finite, got {seeds[bad].tolist()} at position"
      f" {bad.tolist()} of {seeds.size}; report diverged seeds separately"
      " rather than averaging over the others."
    )
  if not 0 < confidence < 1:
    raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
  if seeds.size == 1:
    return Interval(float(seeds[0]), math.nan)
  error = seeds.std(ddof=1) / math.sqrt(seeds.size)
  quantile = stats.t.ppf((1 + confidence) / 2, seeds.size - 1)
  return Interval(float(seeds.mean()), float(quantile * error))


def paired_difference(
  values: Seeds,
  baseline: Seeds,
  *,
  confidence: float = 0.95,
  diverged_at_least: float | None = None,
) -> Interval | Bounds:
  """Returns the interval of `values - baseline`, seed by seed.

  Seeds that share data, order and initialization share most of their noise, so
  the interval of the differences is narrower than two separate ones suggest.

  A seed without a finite number diverged. What is known of it decides on the
  interval:
    * Nothing, by default: the interval has no bounds.
    * `diverged_at_least`, a number that it surely reaches, such as the loss of
      guessing: it counts with this number, and the interval is open on the side
      on which the truth may be larger still.
    * `diverged_at_least=math.inf`, for quantities that are infinitely bad: the
      interval is that of the median by rank (the sign test's). It needs six
      seeds; with fewer it has no bounds.

  Args:
    values: One number per seed, `[seeds]`.
    baseline: The same seeds, in the same order, `[seeds]`.
    confidence: As in `interval`.
    diverged_at_least: See above.

  Returns:
    The interval of the difference; `Bounds` if a seed diverged.

  Raises:
    ValueError: The lengths differ, or `interval` refuses the values.

  >>> paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
  Interval(mean=1.0, half_width=0.0)
  >>> losses = [2.0, None, 2.1], [1.0, 1.1, 1.2]
  >>> print(paired_difference(*losses, diverged_at_least=4.0))
  from -1.2 to inf; 1 of 6 runs diverged, and counts as 4
  """
  return _paired_interval(
    np.subtract, values, baseline, confidence, diverged_at_least
  )


def paired_ratio(
  values: Seeds,
  baseline: Seeds,
  *,
  confidence: float = 0.95,
  diverged_at_least: float | None = None,
) -> Interval | Bounds:
  """Returns the interval of `values / baseline`, seed by seed.

  This is the interval of the mean of the ratios, symmetric like every
  `Interval`. If the ratios scatter by more than a factor of two, compare the
  logarithms with `paired_difference` instead.

  Args:
    values, baseline, confidence, diverged_at_least: As in `paired_difference`;
      every baseline must be positive.

  Returns:
    The interval of the ratio; `Bounds` if a seed diverged.

  Raises:
    ValueError: The lengths differ, a baseline is not positive, or `interval`
      refuses the values.

  >>> paired_ratio([1.0, 3.0], [2.0, 6.0])
  Interval(mean=0.5, half_width=0.0)
  """
  known = np.asarray(baseline, np.float64)
  if (known <= 0).any():
    raise ValueError(
      f"paired_ratio needs positive baselines, got {known.tolist()}; use"
      " paired_difference if zero or a sign change is meaningful."
    )
  return _paired_interval(
    np.divide, values, baseline, confidence, diverged_at_least
  )


def shown(values: Seeds, form: str = "") -> str:
  """Returns the interval of `values` as text, for tables.

  >>> shown([1.0, 2.0, 3.0], ".2f"), shown([1.0, None], ".2f")
  ('2.00 ± 2.48', 'diverged')
  """
  seeds = _per_seed("values", values)
  if not np.isfinite(seeds).all():
    return "diverged"
  return f"{interval(seeds):{form}}"


def mean_log10(values: np.ndarray) -> np.ndarray:
  """Returns the mean of the decimal logarithm over the last axis."""
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.log10(values).mean(axis=-1)


def trend(values: Sequence[ArrayLike]) -> Trend:
  """Returns Page's test for a trend over ordered settings.

  Args:
    values: `[settings, seeds]`, settings in the order of the trend.

  Returns:
    The p values; 1 for a single seed.

  Reference: Page, 1963, https://doi.org/10.1080/01621459.1963.10500843.

  >>> trend([[1.0, 1.1], [2.0, 2.1], [3.0, 3.1]]).rises < 0.05
  True
  """
  from scipy import stats

  rising = np.asarray(values, np.float64).T
  if len(rising) < 2:
    return Trend(1.0, 1.0)
  return Trend(
    *(
      float(stats.page_trend_test(ordered).pvalue)
      for ordered in (rising, rising[:, ::-1])
    )
  )


def best_rate(losses: np.ndarray) -> int:
  """Returns the index of the rate with the lowest mean in `[rates, seeds]`.

  A rate at which a seed diverged (NaN) counts as infinite.
  """
  return int(np.nan_to_num(losses.mean(axis=1), nan=np.inf).argmin())


def _per_seed(name: str, values: Seeds) -> np.ndarray:
  seeds = np.asarray(values, np.float64)
  if seeds.ndim != 1 or seeds.size == 0:
    raise ValueError(
      f"{name} must hold one number per seed, got shape {seeds.shape}."
    )
  return seeds


def _paired_interval(
  compare: np.ufunc,
  values: Seeds,
  baseline: Seeds,
  confidence: float,
  diverged_at_least: float | None,
) -> Interval | Bounds:
  """Returns the interval of a comparison; see `paired_difference`."""
  ours, theirs = _per_seed("values", values), _per_seed("baseline", baseline)
  if ours.size != theirs.size:
    raise ValueError(
      "A paired comparison needs the same seeds on both sides, got"
      f" {ours.size} values and {theirs.size} baselines."
    )
  lost, lost_baseline = (~np.isfinite(seeds) for seeds in (ours, theirs))
  count = int(lost.sum() + lost_baseline.sum())
  if count == 0:
    return interval(compare(ours, theirs), confidence)
  note = f"{count} of {2 * ours.size} runs diverged"
  if diverged_at_least is None:
    return Bounds(-math.inf, math.inf, note)
  if diverged_at_least == math.inf:
    known = compare(np.where(lost, 1, ours), np.where(lost_baseline, 1, theirs))
    # If both diverged, the difference is unknown.
    at_least = np.where(lost_baseline, -np.inf, np.where(lost, np.inf, known))
    at_most = np.where(lost, np.inf, np.where(lost_baseline, -np.inf, known))
    low, high = _median_by_rank(at_least, at_most, confidence)
    return Bounds(low, high, f"{note}; the median's interval, by rank")
  bounded = interval(
    compare(
      np.where(lost, diverged_at_least, ours),
      np.where(lost_baseline, diverged_at_least, theirs),
    ),
    confidence,
  )
  return Bounds(
    -math.inf if lost_baseline.any() else bounded.low,
    math.inf if lost.any() else bounded.high,
    f"{note}, and count{'s' * (count == 1)} as {diverged_at_least:.3g}",
  )


def _median_by_rank(
  at_least: np.ndarray, at_most: np.ndarray, confidence: float
) -> tuple[float, float]:
  """Returns the interval of the median between two order statistics.

  The probability that the median is below the k-th smallest of n values is the
  probability that fewer than k of n fair coins show heads.
  """
  from scipy import stats

  k = int(stats.binom.ppf((1 - confidence) / 2, at_least.size, 0.5))
  if k == 0:  # Even minimum and maximum do not reach this confidence.
    return -math.inf, math.inf
  return float(np.sort(at_least)[k - 1]), float(np.sort(at_most)[-k])
