"""Statistics over seeds against SciPy, definitions and simulation."""

import itertools
import math
from unittest import mock

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from experiments.lab import statistics
from experiments.lab.statistics import Interval

NAN = math.nan


def samples(count=30, low=2, high=24, seed=0):
  """Yields samples of many sizes, some rounded so that values are tied."""
  rng = np.random.default_rng(seed)
  for number in range(count):
    values = rng.gamma(2.0, size=rng.integers(low, high)) - 1
    yield values.round(1) if number % 2 else values


class IntervalTest(parameterized.TestCase):
  def test_hand_worked(self):
    # Mean 2, sample standard deviation 1, t(0.975, 2 degrees) = 4.30265.
    result = statistics.interval([1.0, 2.0, 3.0])
    self.assertEqual(result.mean, 2.0)
    self.assertAlmostEqual(result.half_width, 4.302653 / math.sqrt(3), 5)
    self.assertEqual(result.low, 2.0 - result.half_width)
    self.assertEqual(result.high, 2.0 + result.half_width)

  @parameterized.parameters(0.9, 0.95)
  def test_agrees_with_scipy(self, confidence):
    for values in samples():
      found = statistics.interval(values, confidence)
      expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
      np.testing.assert_allclose((found.low, found.high), expected, atol=1e-12)

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
    ([1.0, None], r"finite, got \[nan\] at position \[1\] of 2"),
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

  def test_shown(self):
    self.assertEqual(statistics.shown([1.0, 2.0, 3.0], ".1f"), "2.0 ± 2.5")
    self.assertEqual(statistics.shown([1.0, NAN], ".2f"), "diverged")


class TTestTest(parameterized.TestCase):
  def test_agrees_with_scipy(self):
    for values, mean in itertools.product(samples(), (-1.0, 0.0, 2.5)):
      expected = stats.ttest_1samp(values, mean).pvalue
      self.assertAlmostEqual(statistics.t_test(values, mean), expected, 12)

  # The mean of three times 0.1 is not 0.1.
  @parameterized.parameters([[1.0]], [[1.0, 1.0]], [[0.1, 0.1, 0.1]])
  def test_equal_values_show_nothing(self, values):
    self.assertEqual(statistics.t_test(values, 0.0), 1.0)
    self.assertEqual(statistics.t_test(values, values[0]), 1.0)


def t_statistic(drawn, mean):
  """Returns the t statistic of a resample, as a textbook writes it."""
  distance = sum(drawn) / len(drawn) - mean
  if len(set(drawn)) == 1:
    return math.copysign(math.inf, distance)
  squares = sum((value - sum(drawn) / len(drawn)) ** 2 for value in drawn)
  return distance / math.sqrt(squares / (len(drawn) - 1) / len(drawn))


class BootstrapTest(parameterized.TestCase):
  values = (0.3, 1.1, 0.2, 4.0, 0.9)

  def test_agrees_with_a_straightforward_implementation(self):
    for values in samples(6, low=5):
      with mock.patch.object(statistics, "RESAMPLES", 199):
        found = statistics.bootstrapped(values)
      mean, size = values.mean(), len(values)
      drawn = np.random.default_rng(0).integers(0, size, (199, size))
      expected = sorted(t_statistic(values[row], mean) for row in drawn)
      np.testing.assert_allclose(found.statistics, expected, atol=1e-9)
      # Of 199 values, the fifth from either end.
      error = values.std(ddof=1) / math.sqrt(size)
      ends = mean - expected[-5] * error, mean - expected[4] * error
      np.testing.assert_allclose(found.interval(), ends, rtol=1e-9)

  @parameterized.parameters(-1.0, 0.5, 1.0, 2.0, 6.0, 30.0)
  def test_p_value_agrees_with_all_resamples(self, mean):
    """All 3125 of five seeds have the same probability."""
    center = sum(self.values) / 5
    exact = np.array(
      [
        t_statistic(drawn, center)
        for drawn in itertools.product(self.values, repeat=5)
      ]
    )
    found = statistics.bootstrapped(self.values)
    observed = t_statistic(self.values, mean)
    tail = min((exact <= observed).mean(), (exact >= observed).mean())
    # Four standard errors of 19,999 resamples.
    error = 4 * math.sqrt(tail * (1 - tail) / 19_999) + 1 / 19_999
    self.assertAlmostEqual(found.test(mean) / 2, tail, delta=error)

  def test_is_always_the_same(self):
    first, second = (statistics.bootstrapped(self.values) for _ in range(2))
    np.testing.assert_array_equal(first.statistics, second.statistics)

  def test_moves_and_turns_with_the_sample(self):
    low, high = statistics.bootstrapped(self.values).interval()
    moved = statistics.bootstrapped(3 + 2 * np.array(self.values)).interval()
    np.testing.assert_allclose(moved, (3 + 2 * low, 3 + 2 * high))
    turned = statistics.bootstrapped(-np.array(self.values)).interval()
    np.testing.assert_allclose(turned, (-high, -low))

  def test_two_distinct_values_leave_a_side_open(self):
    """A third of the resamples are all zero: the mean may be far above."""
    low, high = statistics.bootstrapped([0.0, 0.0, 0.0, 0.0, 1.0]).interval()
    self.assertEqual(high, math.inf)
    self.assertLess(low, 0)


class SkewnessTest(absltest.TestCase):
  def test_agrees_with_scipy(self):
    for values in samples(low=4):
      expected = stats.skew(values, bias=False)
      self.assertAlmostEqual(statistics.skewness(values), expected, 10)

  def test_of_equal_values_or_two_seeds(self):
    self.assertEqual(statistics.skewness([0.1] * 7), 0)
    self.assertEqual(statistics.skewness([0.1, 4.0]), 0)


class RanksTest(absltest.TestCase):
  def test_sign_test_agrees_with_scipy(self):
    for values in samples():
      for median in (*values[:3], 0.7):
        expected = stats.quantile_test(values, q=median, p=0.5).pvalue
        found = statistics.sign_test(values, median)
        self.assertAlmostEqual(found, min(1, expected), 12)

  def test_interval_agrees_with_scipy(self):
    for values in samples(low=6):
      test = stats.quantile_test(values, q=0, p=0.5)
      expected = test.confidence_interval(0.95)
      self.assertEqual(
        statistics.median_interval(values), (expected.low, expected.high)
      )

  def test_infinite_values_are_in_order_too(self):
    values = [1.0, 2.0, 3.0, 4.0, math.inf, math.inf]
    self.assertEqual(statistics.median_interval(values), (1.0, math.inf))
    self.assertEqual(statistics.sign_test(values, 0.5), 2 / 2**6)
    self.assertEqual(statistics.sign_test(values, 100.0), 88 / 2**7)

  def test_five_seeds_say_nothing(self):
    self.assertEqual(
      statistics.median_interval(range(5)), (-math.inf, math.inf)
    )
    self.assertEqual(statistics.sign_test(range(5), -1.0), 2 / 2**5)


class HolmTest(absltest.TestCase):
  def test_hand_worked(self):
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04, which is not below the others.
    self.assertEqual(
      statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]
    )
    self.assertEqual(statistics.holm([0.6, 0.7]), [1.0, 1.0])
    self.assertEqual(statistics.holm([]), [])

  def test_is_the_closed_test_of_bonferroni(self):
    """By definition: every set of hypotheses with this one is rejected."""
    for p_values in np.random.default_rng(0).beta(0.5, 3, (20, 5)):
      sets = [
        set(chosen)
        for size in range(1, 6)
        for chosen in itertools.combinations(range(5), size)
      ]
      expected = [
        max(
          min(1, len(chosen) * p_values[[*chosen]].min())
          for chosen in sets
          if index in chosen
        )
        for index in range(5)
      ]
      np.testing.assert_allclose(statistics.holm(p_values), expected)


class PowerTest(parameterized.TestCase):
  @parameterized.parameters((0.5, 20), (1.5, 5), (-0.9, 12), (1.0, 3))
  def test_agrees_with_simulation(self, distance, seeds):
    drawn = np.random.default_rng(0).normal(distance, 1, (20_000, seeds))
    test = stats.ttest_1samp(drawn, 0, axis=1)
    right = np.sign(test.statistic) == np.sign(distance)
    # Three standard errors of 20,000 samples: 1.1%.
    self.assertAlmostEqual(
      statistics.power(distance, seeds),
      (right & (test.pvalue <= 0.05)).mean(),
      delta=0.011,
    )

  def test_one_seed_resolves_nothing(self):
    self.assertEqual(statistics.power(9.0, 1), 0.0)

  @parameterized.product(seeds=(3, 5, 10, 20), claims=(1, 8, 25))
  def test_resolved_by_is_its_inverse(self, seeds, claims):
    level = 0.05 / claims
    distance = statistics.resolved_by(seeds, level=level)
    self.assertAlmostEqual(statistics.power(distance, seeds, level), 0.8, 6)


class BestRateTest(absltest.TestCase):
  def test_a_rate_at_which_a_seed_diverged_is_not_the_best(self):
    losses = np.array([[0.5, 0.5], [0.1, NAN], [0.4, 0.3], [0.1, math.inf]])
    self.assertEqual(statistics.best_rate(losses), 2)


class SeedsTest(parameterized.TestCase):
  """How many seeds are needed, and how many may contradict."""

  @parameterized.product(distance=(0.3, 0.66, 2.0), level=(0.05, 0.005))
  def test_the_fewest_seeds_that_resolve(self, distance, level):
    count = statistics.seeds_for(distance, 0.8, level)
    self.assertGreaterEqual(statistics.power(distance, count, level), 0.8)
    self.assertLess(statistics.power(distance, count - 1, level), 0.8)

  @parameterized.product(seeds=(2, 5, 6, 10, 20, 40), level=(0.05, 0.005))
  def test_seeds_that_may_contradict(self, seeds, level):
    """By the definition: the sign test of so many seeds on the other side."""
    count = statistics.wrong_seeds(seeds, level)
    resolved = [
      wrong
      for wrong in range(seeds // 2 + 1)
      if statistics.sign_test([-1] * wrong + [1] * (seeds - wrong), 0) <= level
    ]
    self.assertEqual(count, max(resolved, default=None))


if __name__ == "__main__":
  absltest.main()
