"""Tests of intervals over seeds and of paired comparisons."""

import math

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import given
from hypothesis import strategies as st

from experiments.lab import statistics
from experiments.lab.statistics import Bounds, Interval

NAN = math.nan
seeds = st.lists(
  st.floats(-1e6, 1e6).map(lambda value: round(value, 3)),
  min_size=2,
  max_size=9,
)


class IntervalTest(parameterized.TestCase):
  def test_hand_worked(self):
    # Mean 2, sample standard deviation 1, t(0.975, 2 degrees) = 4.30265.
    result = statistics.interval([1.0, 2.0, 3.0])
    self.assertEqual(result.mean, 2.0)
    self.assertAlmostEqual(result.half_width, 4.302653 / math.sqrt(3), 5)
    self.assertEqual(result.low, 2.0 - result.half_width)
    self.assertEqual(result.high, 2.0 + result.half_width)

  def test_confidence(self):
    # t(0.95, 2 degrees) = 2.919986.
    result = statistics.interval([1.0, 2.0, 3.0], confidence=0.9)
    self.assertAlmostEqual(result.half_width, 2.919986 / math.sqrt(3), 5)

  def test_coverage(self):
    rng = np.random.default_rng(0)
    held = [
      result.low < 3.0 < result.high
      for result in map(statistics.interval, rng.normal(3.0, 2.0, (2000, 5)))
    ]
    self.assertBetween(np.mean(held), 0.93, 0.97)

  def test_one_seed_has_no_width(self):
    mean, half_width = statistics.interval([0.5])
    self.assertEqual(mean, 0.5)
    self.assertTrue(math.isnan(half_width))

  def test_float32_arrays_and_jax(self):
    self.assertEqual(
      statistics.interval(jnp.ones(3, jnp.float32)), Interval(1.0, 0.0)
    )

  @parameterized.parameters(
    ([1.0, NAN, 3.0], r"finite, got \[nan\] at position \[1\] of 3"),
    ([1.0, math.inf], r"finite, got \[inf\] at position \[1\] of 2"),
    ([], r"one number per seed, got shape \(0,\)"),
    ([[1.0, 2.0]], r"one number per seed, got shape \(1, 2\)"),
    (1.0, r"one number per seed, got shape \(\)"),
  )
  def test_refuses(self, values, message):
    with self.assertRaisesRegex(ValueError, message):
      statistics.interval(values)

  @parameterized.parameters(0.0, 1.0, 95.0)
  def test_refuses_confidence(self, confidence):
    with self.assertRaisesRegex(ValueError, "between 0 and 1"):
      statistics.interval([1.0, 2.0], confidence)

  @parameterized.parameters(
    (97.6412, 0.1523, "", "97.64 ± 0.15"),
    (0.27701, 0.00512, "", "0.2770 ± 0.0051"),
    (87.21, 26.2, "", "87 ± 26"),
    (1234.0, 260.0, "", "1234 ± 260"),
    (0.5, 0.0, "", "0.5 ± 0"),
    (0.123456, NAN, "", "0.1235"),
    (3.2e-7, 1.1e-8, "", "3.20e-07 ± 1.10e-08"),
    (97.6412, 0.1523, ".2f", "97.64 ± 0.15"),
    (97.6412, 0.1523, ".0f", "98 ± 0"),
    (-0.03, 0.36, "+.2f", "-0.03 ± 0.36"),
    (0.03, 0.36, "+.2f", "+0.03 ± 0.36"),
    (0.03, NAN, ".2f", "0.03"),
  )
  def test_text(self, mean, half_width, spec, expected):
    self.assertEqual(format(Interval(mean, half_width), spec), expected)
    if not spec:
      self.assertEqual(str(Interval(mean, half_width)), expected)


class PairedTest(parameterized.TestCase):
  def test_difference_cancels_what_seeds_share(self):
    baseline = [97.0, 98.0, 99.0]
    result = statistics.paired_difference([97.5, 98.5, 99.5], baseline)
    self.assertEqual(result, Interval(0.5, 0.0))

  def test_ratio(self):
    result = statistics.paired_ratio([1.0, 2.0, 6.0], [1.0, 4.0, 4.0])
    self.assertEqual(result, statistics.interval([1.0, 0.5, 1.5]))

  @given(seeds)
  def test_difference_is_antisymmetric(self, values):
    baseline = values[::-1]
    ahead = statistics.paired_difference(values, baseline)
    behind = statistics.paired_difference(baseline, values)
    self.assertEqual(ahead.mean, -behind.mean)
    self.assertAlmostEqual(ahead.half_width, behind.half_width, 6)

  @parameterized.parameters(
    statistics.paired_difference, statistics.paired_ratio
  )
  def test_refuses_other_seeds(self, compare):
    with self.assertRaisesRegex(ValueError, "3 values and 2 baselines"):
      compare([1.0, 2.0, 3.0], [1.0, 2.0])

  @parameterized.parameters(0.0, -1.0)
  def test_ratio_refuses_baseline(self, value):
    with self.assertRaisesRegex(ValueError, "positive baselines"):
      statistics.paired_ratio([1.0, 1.0], [1.0, value])


def by_rank(values, baseline):
  return statistics.paired_difference(
    values, baseline, diverged_at_least=math.inf
  )


class DivergedTest(parameterized.TestCase):
  """Seeds without a number: counted, and judged by a bound or by rank."""

  losses = (2.0, 2.1, None, 2.2, 1.9, 2.0)
  baseline = (1.0, 1.1, 1.0, 1.2, 0.9, 1.0)

  def test_a_bound_leaves_one_side_open(self):
    found = statistics.paired_difference(
      self.losses, self.baseline, diverged_at_least=4.0
    )
    bounded = statistics.paired_difference(
      [loss or 4.0 for loss in self.losses], self.baseline
    )
    self.assertEqual((found.low, found.high), (bounded.low, math.inf))
    self.assertEqual(found.note, "1 of 12 runs diverged, and counts as 4")
    turned = statistics.paired_difference(
      self.baseline, self.losses, diverged_at_least=4.0
    )
    self.assertEqual(turned.low, -math.inf)
    self.assertAlmostEqual(turned.high, -bounded.low)
    both = statistics.paired_difference(
      [None, 1.0], [1.0, NAN], diverged_at_least=4.0
    )
    self.assertEqual((both.low, both.high), (-math.inf, math.inf))
    self.assertIn("2 of 4 runs diverged, and count as 4", f"{both}")

  def test_by_rank_the_extremes_of_six_hold_the_median(self):
    found = by_rank(self.losses, self.baseline)
    self.assertIsInstance(found, Bounds)
    self.assertAlmostEqual(found.low, 1.0)
    self.assertEqual(found.high, math.inf)
    self.assertRegex(found.note, "1 of 12 runs diverged; .* by rank")

  def test_by_rank_five_seeds_say_nothing(self):
    found = by_rank(self.losses[:5], self.baseline[:5])
    self.assertEqual((found.low, found.high), (-math.inf, math.inf))

  def test_by_rank_two_diverged_seeds_are_infinite_either_way(self):
    values = [None, None, *[2.0] * 4]
    found = by_rank(values, [None, *[1.0] * 5])
    self.assertEqual((found.low, found.high), (-math.inf, math.inf))
    found = by_rank([2.0] * 6, [None, *[1.0] * 5])
    self.assertEqual((found.low, found.high), (-math.inf, 1.0))

  def test_rank_interval_covers_the_median(self):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
      values = rng.exponential(size=9)  # The median is log(2).
      values[values > 3] = np.inf
      low, high = statistics._median_by_rank(values, values, 0.95)
      hits += low <= math.log(2) <= high
    # Between the second smallest and the second largest: 96.1 %.
    self.assertBetween(hits / 400, 0.93, 0.99)

  def test_of_other_quantities_nothing_is_known(self):
    for values in ([None] * 8, [NAN, *[0.5] * 7], [-math.inf] * 8):
      found = statistics.paired_difference(values, [0.5] * 8)
      self.assertEqual((found.low, found.high), (-math.inf, math.inf))
      self.assertRegex(found.note, "runs diverged$")

  def test_ratio(self):
    found = statistics.paired_ratio(
      [None, 1.0, 1.0], [2.0, 2.0, 2.0], diverged_at_least=4.0
    )
    self.assertEqual(found.high, math.inf)
    self.assertLess(found.low, 1)

  def test_shown(self):
    self.assertEqual(statistics.shown([1.0, NAN], ".2f"), "diverged")


class TrendTest(absltest.TestCase):
  def test_sees_both_directions(self):
    rng = np.random.default_rng(0)
    rising = rng.normal(10, 0.1, (3, 5)) + np.arange(3)[:, None]
    self.assertLess(statistics.trend(list(rising)).rises, 0.05)
    self.assertLess(statistics.trend(list(rising[::-1])).falls, 0.05)

  def test_one_seed_shows_nothing(self):
    self.assertEqual(statistics.trend([[1.0], [2.0]]), (1.0, 1.0))


class BestRateTest(absltest.TestCase):
  def test_a_rate_at_which_a_seed_diverged_is_not_the_best(self):
    losses = np.array([[0.5, 0.5], [0.1, NAN], [0.4, 0.3]])
    self.assertEqual(statistics.best_rate(losses), 2)


if __name__ == "__main__":
  absltest.main()
