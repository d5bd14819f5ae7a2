"""Criteria: verdicts of all regions, and how often they are false."""

import functools
import math

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from experiments.lab.analyses import Estimate, Level, Ratio
from experiments.lab.criteria import (
  Above,
  Below,
  Effect,
  Verdict,
  Within,
  judge,
  p_value,
)
from tests.experiments.lab import simulated

INF, NAN = math.inf, math.nan
CONFIRMED, REFUTED, SMALLER, UNRESOLVED = Verdict


def estimate(center, half_width):
  """Returns an estimate with a normal interval."""
  error = half_width / stats.norm.ppf(0.975)
  return Estimate(
    center,
    center - half_width,
    center + half_width,
    seeds=20,
    method="t",
    test=lambda number: 2 * stats.norm.sf(abs(center - number) / error),
    effect=lambda number: (center - number) / error,
  )


class VerdictTest(parameterized.TestCase):
  @parameterized.parameters(
    # The effect goes up.
    (Effect(2), 3.0, 0.9, CONFIRMED),
    (Effect(2), 3.0, 1.1, UNRESOLVED),
    (Effect(2), 1.0, 0.9, SMALLER),
    (Effect(2), 1.0, 1.1, UNRESOLVED),  # Beyond either end.
    (Effect(2), 1.5, 0.9, UNRESOLVED),  # Real, but perhaps large enough.
    (Effect(2), 0.5, 0.9, UNRESOLVED),  # Too small, but perhaps none.
    (Effect(2), -1.0, 0.9, REFUTED),
    (Effect(2), -1.0, 1.1, UNRESOLVED),
    (Effect(2), 0.0, 0.1, UNRESOLVED),
    (Effect(2), 2.0, 0.1, UNRESOLVED),
    # The effect goes down.
    (Effect(-2), -3.0, 0.9, CONFIRMED),
    (Effect(-2), -3.0, 1.1, UNRESOLVED),
    (Effect(-2), -1.0, 0.9, SMALLER),
    (Effect(-2), 1.0, 0.9, REFUTED),
    # Ratios.
    (Effect(1.5, none=1), 2.0, 0.4, CONFIRMED),
    (Effect(1.5, none=1), 1.2, 0.1, SMALLER),
    (Effect(1.5, none=1), 0.8, 0.1, REFUTED),
    (Effect(0.5, none=1), 0.3, 0.1, CONFIRMED),
    (Effect(0.5, none=1), 0.7, 0.1, SMALLER),
    (Effect(0.5, none=1), 1.2, 0.1, REFUTED),
    (Effect(0.5, none=1), 0.7, 0.25, UNRESOLVED),
    # Limits.
    (Below(0.9), 0.79, 0.1, CONFIRMED),
    (Below(0.9), 0.79, 0.12, UNRESOLVED),
    (Below(0.9), 0.95, 0.04, REFUTED),
    (Below(0.9), 0.95, 0.06, UNRESOLVED),
    (Above(0.9), 0.95, 0.04, CONFIRMED),
    (Above(0.9), 0.95, 0.06, UNRESOLVED),
    (Above(0.9), 0.79, 0.1, REFUTED),
    (Above(0.9), 0.79, 0.12, UNRESOLVED),
    # Equivalence.
    (Within(0.5), -0.03, 0.36, CONFIRMED),
    (Within(0.5), 0.3, 0.36, UNRESOLVED),  # Contains zero, and shows nothing.
    (Within(0.5), -0.3, 0.36, UNRESOLVED),
    (Within(0.5), 0.0, 9.0, UNRESOLVED),
    (Within(0.5), 0.2, 0.1, CONFIRMED),  # Real, but below the margin.
    (Within(0.5), 1.0, 0.36, REFUTED),
    (Within(0.5), -1.0, 0.36, REFUTED),
    (Within(0.5, of=3), 3.1, 0.3, CONFIRMED),
    (Within(0.5, of=3), 0.1, 0.3, REFUTED),
  )
  def test_verdict(self, criterion, center, half_width, expected):
    found = estimate(center, half_width)
    self.assertEqual(judge(criterion, found), expected)
    # As the interval says: all of it lies in one region.
    ends = {criterion.at(found.low), criterion.at(found.high)}
    inside = any(
      found.low <= boundary <= found.high for boundary in criterion.boundaries
    )
    self.assertEqual(
      expected, UNRESOLVED if len(ends) > 1 or inside else ends.pop()
    )

  @parameterized.parameters(
    (Effect(2), 3.0, 2.0),
    (Effect(2), 1.8, 2.0),
    (Effect(2), 0.1, 0.0),
    (Effect(2), -1.0, 0.0),
    (Within(0.5), 0.2, 0.5),
    (Within(0.5), -9.0, -0.5),
    (Above(1), 3.0, 1.0),
  )
  def test_p_value_is_of_the_nearest_boundary(self, criterion, center, nearest):
    found = estimate(center, 0.5)
    self.assertEqual(p_value(criterion, found), found.test(nearest))

  def test_a_corrected_p_value_decides(self):
    found = estimate(3.0, 0.9)
    self.assertEqual(judge(Effect(2), found, 0.051), UNRESOLVED)
    self.assertEqual(judge(Effect(2), found, 0.05), CONFIRMED)

  @parameterized.parameters(
    Effect(0.5), Effect(-9), Below(9), Above(0.5), Within(9), Within(3, 1)
  )
  def test_unknown(self, criterion):
    """One seed, diverged seeds of few, or two equal ones decide nothing."""
    for values in ([1.0], [NAN], [1.0, NAN, 1.0], [1.0, 1.0], [None] * 5):
      self.assertEqual(judge(criterion, Level().estimate(values)), UNRESOLVED)

  @parameterized.parameters(
    (Below(9), REFUTED),
    (Above(9), CONFIRMED),
    (Effect(9), CONFIRMED),
    (Effect(-9), REFUTED),
    (Within(9), REFUTED),
  )
  def test_all_diverged(self, criterion, expected):
    found = Level().estimate([None] * 6)
    self.assertEqual(judge(criterion, found), expected)

  @parameterized.parameters(
    (functools.partial(Effect, 0), "must differ from 0"),
    (functools.partial(Effect, 1, none=1), "must differ from 1"),
    (functools.partial(Effect, NAN), "must differ from 0"),
    (functools.partial(Within, 0.0), "margin must be positive, got 0"),
    (functools.partial(Within, -0.5), "margin must be positive"),
    (functools.partial(Within, NAN), "margin must be positive"),
  )
  def test_refuses(self, make, message):
    with self.assertRaisesRegex(ValueError, message):
      make()

  @parameterized.parameters(
    (Effect(0.5), "above 0.5"),
    (Effect(-0.5), "below -0.5"),
    (Effect(0.5, none=1), "below 0.5"),
    (Below(0.9), "below 0.9"),
    (Above(1e-7), "above 1e-07"),
    (Within(0.5), "within ±0.5"),
    (Within(0.5, of=3), "within 0.5 of 3"),
  )
  def test_text(self, criterion, expected):
    self.assertEqual(f"{criterion}", expected)


class FalseVerdictsTest(parameterized.TestCase):
  """2000 samples: the standard error of 5% is 0.5%, that of 2.5% is 0.35%.

  Verdicts are those of single claims, without Holm's correction.
  """

  # One end of each is the true number; the other one is far away.
  equivalences = {  # noqa: RUF012
    "level": (Within(5, of=5), Within(5, of=-5)),
    "ratio": (Within(99, of=100), Within(0.4995, of=0.5005)),
  }

  def share(self, kind, seeds, criterion, *verdicts):
    found = simulated.estimates(kind, seeds)
    return np.mean([judge(criterion, one) in verdicts for one in found])

  def resolved(self, kind, seeds):
    """Returns the larger share of verdicts on claims of more and of less."""
    none = simulated.truth(kind)
    return max(
      self.share(kind, seeds, criterion, CONFIRMED, SMALLER, REFUTED)
      for criterion in (Effect(none + 0.5, none), Effect(none - 0.5, none))
    )

  @parameterized.product(
    kind=("level", "difference", "ratio"), seeds=(5, 10, 20)
  )
  def test_without_an_effect(self, kind, seeds):
    """2 to 3%, because most false ones do not exclude the margin."""
    self.assertLessEqual(self.resolved(kind, seeds), 0.05)

  @parameterized.parameters(10, 20)
  def test_without_an_effect_of_skewed_seeds(self, seeds):
    """6% and 5%. Five skewed seeds, of which few can be told, have 12%."""
    self.assertLessEqual(self.resolved("skewed", seeds), 0.05 + simulated.ERROR)

  @parameterized.product(kind=("level", "ratio"), seeds=(5, 20))
  def test_at_the_margin(self, kind, seeds):
    margin = simulated.truth(kind)
    for criterion in (
      Effect(margin, none=margin - 0.9),
      Below(margin),
      *self.equivalences[kind],
    ):
      confirmed = self.share(kind, seeds, criterion, CONFIRMED)
      # Three standard errors.
      self.assertLessEqual(confirmed, 0.025 + 3 * 0.0035, f"{criterion}")

  @parameterized.parameters(5, 20)
  def test_true_claims_are_found(self, seeds):
    """The truth is a distance of two standard deviations from the margin."""
    for criterion in (Effect(-2, none=-9), Above(-2), Within(9, of=7)):
      confirmed = self.share("level", seeds, criterion, CONFIRMED)
      self.assertGreater(confirmed, 0.7)


class RatioTest(absltest.TestCase):
  def test_symmetry(self):
    """A claim of a ratio and that of its inverse have one verdict."""
    rng = np.random.default_rng(0)
    for _ in range(50):
      first, second = np.exp(rng.normal(0.3, 0.5, (2, 10)))
      up, down = (
        Ratio().estimate(first, second),
        Ratio().estimate(second, first),
      )
      for margin in (1.2, 2.0):
        self.assertEqual(
          judge(Effect(margin, none=1), up),
          judge(Effect(1 / margin, none=1), down),
        )


if __name__ == "__main__":
  absltest.main()
