"""Analyses: estimates of samples, duality, and coverage by simulation."""

import math

import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.lab import statistics
from experiments.lab.analyses import Difference, Level, Ratio
from experiments.lab.statistics import LEVEL
from tests.experiments.lab import simulated

INF, NAN = math.inf, math.nan
MEDIAN = Difference(by_rank=True)

# Few distinct numbers, so that many are tied; None for a diverged seed.
number = st.one_of(
  st.integers(1, 4).map(lambda value: value / 4),
  st.floats(1e-3, 1e3),
)
pairs = st.lists(st.tuples(number, number), min_size=1, max_size=24)
with_diverged = st.lists(
  st.tuples(st.none() | number, st.none() | number), min_size=1, max_size=24
)


def estimate(analysis, drawn):
  samples = list(zip(*drawn, strict=True))
  return analysis.estimate(*samples[: 1 if isinstance(analysis, Level) else 2])


class EstimateTest(parameterized.TestCase):
  def test_level_is_scipys_t_interval(self):
    values = [1.0, 1.2, 0.9, 1.3, 1.1, 1.4, 0.8, 1.0, 1.15, 1.05]
    found = Level().estimate(values)
    test = stats.ttest_1samp(values, 1)
    self.assertEqual((found.method, found.seeds), ("t", 10))
    np.testing.assert_allclose(
      (found.center, found.low, found.high, found.test(1.0)),
      (np.mean(values), *test.confidence_interval(), test.pvalue),
    )
    distance = (np.mean(values) - 1.0) / np.std(values, ddof=1)
    self.assertAlmostEqual(found.effect(1.0), distance)

  def test_difference_is_of_paired_seeds(self):
    first, second = np.random.default_rng(0).normal(size=(2, 10))
    found = Difference().estimate(first, second)
    test = stats.ttest_rel(first, second)
    self.assertAlmostEqual(found.test(0.0), test.pvalue, 12)
    gaps = first - second
    self.assertAlmostEqual(found.effect(0.0), gaps.mean() / gaps.std(ddof=1))
    np.testing.assert_allclose(
      (found.low, found.high), test.confidence_interval()
    )

  def test_ratio_is_the_difference_of_logarithms(self):
    logs = np.random.default_rng(0).normal(size=(2, 8))
    found, of_logs = (
      Ratio().estimate(*np.exp(logs)),
      Difference().estimate(*logs),
    )
    np.testing.assert_allclose(
      np.log((found.center, found.low, found.high)),
      (of_logs.center, of_logs.low, of_logs.high),
    )
    for ratio in (0.2, 1.0, 3.0):
      log = math.log(ratio)
      self.assertAlmostEqual(found.test(ratio), of_logs.test(log))
      self.assertAlmostEqual(found.effect(ratio), of_logs.effect(log))

  @parameterized.parameters(
    (4, 0.0, "t"),  # So few say nothing of the skewness.
    (4, 9.0, "t"),
    (5, 0.0, "t"),
    (20, 0.0, "t"),
    (9, 9.0, "t"),
    (10, 9.0, "bootstrap"),
    (20, 9.0, "bootstrap"),
    (20, -9.0, "bootstrap"),
  )
  def test_method(self, seeds, outlier, expected):
    values = np.linspace(-1, 1, seeds)
    values[0] += outlier
    self.assertEqual(Level().estimate(values).method, expected)

  def test_by_rank_a_few_failures_change_nothing(self):
    errors = np.linspace(1, 2, 20)
    failed = np.where(np.arange(20) > 17, 90.0, errors)
    for analysis in (MEDIAN, Level(by_rank=True), Ratio(by_rank=True)):
      samples = [np.ones(20)][: not isinstance(analysis, Level)]
      found, same = (
        analysis.estimate(sample, *samples) for sample in (failed, errors)
      )
      self.assertEqual(
        (found.center, found.low, found.high),
        (same.center, same.low, same.high),
      )
      self.assertEqual(found.method, "ranks")

  def test_text(self):
    found = Level().estimate([1.0, 2.0, 3.0])
    self.assertEqual(f"{found}", "2 [-0.484, 4.48]")
    self.assertEqual(found.text("+.1f", "nats"), "+2.0 [-0.5, +4.5] nats")

  def test_huge_ratios(self):
    found = Ratio().estimate([1e-100, 1e300], [1e100, 1e-300])
    self.assertEqual((found.low, found.high), (0.0, INF))

  @parameterized.parameters(
    (Level(), ([1.0], [2.0]), r"takes 1 samples of the same seeds, got \[1, 1"),
    (Difference(), ([1.0],), r"takes 2 samples of the same seeds, got \[1\]"),
    (Ratio(), ([1.0], [1.0, 2.0]), r"got \[1, 2\] seeds"),
    (MEDIAN, ([[1.0]], [1.0]), r"one number per seed, got shape \(1, 1\)"),
    (Ratio(), ([1.0, 0.0], [1.0, 1.0]), "positive numbers.*use Difference"),
    (Ratio(), ([1.0, 1.0], [1.0, -1.0]), "positive numbers.*use Difference"),
    (Level(), ([1.0, -INF],), "holds -inf"),
  )
  def test_refuses(self, analysis, samples, message):
    with self.assertRaisesRegex(ValueError, message):
      analysis.estimate(*samples)


class DivergedTest(parameterized.TestCase):
  """Seeds without a number are never left out."""

  losses = (2.0, 2.1, None, 2.2, 1.9, 2.0)
  baseline = (1.0, 1.1, 1.0, 1.2, 0.9, 1.0)

  @parameterized.parameters(None, NAN, INF, 9.0)
  def test_counts_as_the_cap(self, value):
    losses = [2.0, 2.1, value, 2.2, 1.9, 2.0]
    capped = [2.0, 2.1, 4.0, 2.2, 1.9, 2.0]
    for analysis, *others in (
      (Level,),
      (Difference, self.baseline),
      (Ratio, self.baseline),
    ):
      found = analysis(cap=4.0).estimate(losses, *others)
      expected = analysis().estimate(capped, *others)
      self.assertEqual(
        (found.center, found.low, found.high, found.test(1.5)),
        (expected.center, expected.low, expected.high, expected.test(1.5)),
      )

  @parameterized.parameters(
    (Difference(), 0.0, 1.0, 1.0),
    (Ratio(), 1.0, 19 / 9, 11 / 6),
    (MEDIAN, 0.0, 1.0, 1.0),
  )
  def test_without_a_cap_the_median_is_judged(self, analysis, none, mid, low):
    """The extremes of six hold the median in 31 of 32 cases."""
    found = analysis.estimate(self.losses, self.baseline)
    self.assertEqual((found.method, found.high), ("ranks", INF))
    self.assertAlmostEqual(found.low, low)
    self.assertBetween(found.center, low, mid)
    self.assertEqual((found.test(none), found.effect(none)), (2 / 2**6, 1.0))
    turned = analysis.estimate(self.baseline, self.losses)
    self.assertEqual(turned.low, -INF if none == 0 else 0.0)
    self.assertEqual((turned.test(none), turned.effect(none)), (2 / 2**6, -1))

  @parameterized.parameters(Difference(), Ratio(), MEDIAN)
  def test_where_both_diverged_they_are_equal(self, analysis):
    found = analysis.estimate([None, *[2.0] * 7], [None, *[1.0] * 7])
    self.assertAlmostEqual(found.effect(analysis.none), 7 / 8)

  def test_half_diverged_in_either_arm(self):
    arms = [None] * 4 + [1.0] * 4
    found = Difference().estimate(arms, arms[::-1])
    self.assertEqual((found.center, found.low, found.high), (0, -INF, INF))
    self.assertEqual(Ratio().estimate(arms, arms[::-1]).center, 1)

  def test_all_diverged(self):
    found = Level().estimate([None] * 8)
    self.assertEqual((found.center, found.low, found.high), (INF, INF, INF))
    self.assertEqual(found.test(5.0), 2 / 2**8)
    capped = Level(cap=4.0).estimate([None] * 8)
    self.assertEqual((capped.center, capped.method), (4.0, "ranks"))


class DegenerateTest(parameterized.TestCase):
  """What a strict reader tries first."""

  @parameterized.parameters(1, 2, 3, 5)
  def test_few_equal_numbers_show_nothing(self, seeds):
    found = Level().estimate([0.1] * seeds)
    self.assertEqual(found.center, 0.1)
    self.assertEqual((found.low, found.high), (-INF, INF))
    self.assertEqual(found.test(0.0), 2 / 2**seeds)

  def test_twenty_equal_numbers_do(self):
    found = Level().estimate([0.1] * 20)
    self.assertEqual((found.low, found.high), (0.1, 0.1))
    self.assertEqual(found.test(0.0), 2 / 2**20)

  @parameterized.parameters(
    ([0.0] * 4 + [1.0], "t", 0.2),
    # A third of the resamples are equal: one end has no bound,
    ([0.0] * 19 + [1.0], "bootstrap", 0.05),
    ([0.1] * 11 + [0.7], "bootstrap", 0.15),  # with rounded means too,
    ([0.0] * 16 + [1.0] * 4, "bootstrap", 0.2),  # but here one percent.
    ([0.0] * 10 + [1.0] * 10, "t", 0.5),
  )
  def test_two_distinct_numbers(self, values, method, center):
    found = Level().estimate(values)
    self.assertEqual(found.method, method)
    self.assertAlmostEqual(found.center, center)
    self.assertLessEqual(found.low, center)
    self.assertGreaterEqual(found.high, center)

  def test_two_seeds(self):
    # t(0.975, 1 degree) = 12.706.
    found = Level().estimate([0.0, 2.0])
    self.assertAlmostEqual(found.high, 1 + 12.706, 3)


class DualityTest(parameterized.TestCase):
  """p is at most 5% exactly if the number is outside of the interval."""

  def check(self, found, numbers):
    self.assertLessEqual(found.low, found.center)
    self.assertLessEqual(found.center, found.high)
    for boundary in numbers:
      if (
        any(
          math.isclose(boundary, end, rel_tol=1e-9, abs_tol=1e-12)
          for end in (found.low, found.high)
        )
        and found.method != "ranks"
      ):
        continue  # Rounding decides.
      outside = not found.low <= boundary <= found.high
      self.assertEqual(found.test(boundary) <= LEVEL, outside, f"{boundary}")

  @parameterized.parameters(Level(), Difference(), Ratio(), MEDIAN)
  @settings(deadline=None, max_examples=60, derandomize=True)
  @given(drawn=pairs, factor=st.floats(0.01, 100))
  def test_of_any_sample(self, analysis, drawn, factor):
    with simulated.few_resamples:
      found = estimate(analysis, drawn)
    near = [
      end + sign * 1e-6 * (1 + abs(end))
      for end in (found.low, found.high)
      if math.isfinite(end)
      for sign in (-1, 1)
    ]
    numbers = [0.25, 0.5, 1.0, factor, *near]
    self.check(found, [value for value in numbers if value > 0])

  @parameterized.parameters(
    Level(), Level(2.0), Difference(), Difference(2.0), Ratio(), MEDIAN
  )
  @settings(deadline=None, max_examples=40, derandomize=True)
  @given(drawn=with_diverged, factor=st.floats(0.01, 100))
  def test_of_diverged_seeds(self, analysis, drawn, factor):
    with simulated.few_resamples:
      found = estimate(analysis, drawn)
    self.check(found, [0.25, 1.0, 2.0, factor])


class CoverageTest(parameterized.TestCase):
  """2000 samples: the standard error of a coverage of 95% is 0.5%."""

  @parameterized.product(kind=("level", "difference", "ratio"), seeds=(5, 20))
  def test_of_normal_seeds(self, kind, seeds):
    truth = simulated.truth(kind)
    found = simulated.estimates(kind, seeds)
    covered = np.mean([one.low <= truth <= one.high for one in found])
    self.assertAlmostEqual(covered, 0.95, delta=0.01)

  @parameterized.parameters((10, 0.905, 0.01), (20, 0.925, 0.015))
  def test_of_skewed_seeds(self, seeds, least, gain):
    """Exponential: 91.5% and 93.5%, where Student's t covers 90% and 91.5%."""
    drawn = np.random.default_rng(seeds).exponential(
      size=(simulated.COUNT, seeds)
    )
    student = stats.ttest_1samp(drawn, 1, axis=1).pvalue > LEVEL
    found = simulated.estimates("skewed", seeds)
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    self.assertGreater(covered, least)
    self.assertGreater(covered, student.mean() + gain)

  def test_of_medians(self):
    """Diverged seeds are beyond any number; the median is log(2)."""
    drawn = np.random.default_rng(0).exponential(size=(simulated.COUNT, 9))
    drawn[drawn > 2] = INF  # An eighth.
    covered = []
    for values in drawn:
      low, high = statistics.median_interval(values)
      covered.append(low <= math.log(2) <= high)
    # Between the second smallest and the second largest of nine.
    exact = 1 - 2 * stats.binom.cdf(1, 9, 0.5)
    self.assertAlmostEqual(
      np.mean(covered), exact, delta=3 * (exact * (1 - exact) / 2000) ** 0.5
    )


if __name__ == "__main__":
  absltest.main()
