"""Claims: what criteria say, and that words and numbers are of one source."""

import math

from absl.testing import absltest, parameterized

from experiments.lab import claims
from experiments.lab.claims import (
  Above,
  AllOf,
  Below,
  Claim,
  Rises,
  Verdict,
  Within,
)
from experiments.lab.statistics import Bounds, Interval, Trend

NAN = math.nan
CONFIRMED, REFUTED, UNRESOLVED = Verdict


class CriterionTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.79, 0.02, CONFIRMED, REFUTED),
    (0.95, 0.02, REFUTED, CONFIRMED),
    (0.89, 0.02, UNRESOLVED, UNRESOLVED),
    (0.91, 0.02, UNRESOLVED, UNRESOLVED),
    (0.5, NAN, UNRESOLVED, UNRESOLVED),
  )
  def test_one_side(self, mean, half_width, below, above):
    interval = Interval(mean, half_width)
    self.assertEqual(Below(0.9).judge(interval), below)
    self.assertEqual(Above(0.9).judge(interval), above)

  @parameterized.parameters(
    (-0.03, 0.36, CONFIRMED),
    (0.3, 0.36, UNRESOLVED),  # Contains zero, and shows nothing.
    (-0.3, 0.36, UNRESOLVED),
    (0.0, 9.0, UNRESOLVED),
    (1.0, 0.36, REFUTED),
    (-1.0, 0.36, REFUTED),
    (0.0, NAN, UNRESOLVED),
  )
  def test_within(self, mean, half_width, expected):
    self.assertEqual(Within(0.5).judge(Interval(mean, half_width)), expected)
    shifted = Interval(mean + 3, half_width)
    self.assertEqual(Within(0.5, of=3).judge(shifted), expected)

  @parameterized.parameters(0.0, -0.5, NAN)
  def test_within_refuses_margin(self, margin):
    with self.assertRaisesRegex(ValueError, "margin must be positive"):
      Within(margin)

  @parameterized.parameters(
    (0.01, 0.99, CONFIRMED), (0.99, 0.01, REFUTED), (0.4, 0.6, UNRESOLVED)
  )
  def test_trend(self, rises, falls, expected):
    self.assertEqual(Rises(0.05).judge(Trend(rises, falls)), expected)

  @parameterized.parameters(
    (0.05, 1.0, CONFIRMED),
    (0.5, 1.0, REFUTED),
    (0.05, 1.2, REFUTED),
    (0.09, 1.0, UNRESOLVED),
    (0.09, 1.2, REFUTED),
  )
  def test_all_of(self, deviation, slope, expected):
    both = AllOf({"deviation": Below(0.1), "slope": Within(0.05, of=1)})
    found = both.judge(
      {"deviation": Interval(deviation, 0.02), "slope": Interval(slope, 0.01)}
    )
    self.assertEqual(found, expected)

  def test_open_sides_of_diverged_seeds(self):
    worse = Bounds(0.7, math.inf, "1 of 10 runs diverged")
    self.assertEqual(Above(0.5).judge(worse), CONFIRMED)
    self.assertEqual(Below(0.5).judge(worse), REFUTED)
    self.assertEqual(Above(0.9).judge(worse), UNRESOLVED)
    self.assertEqual(Below(0.9).judge(worse), UNRESOLVED)
    self.assertEqual(Within(0.5).judge(worse), REFUTED)
    unknown = Bounds(-math.inf, math.inf, "")
    for criterion in (Above(0), Below(0), Within(1)):
      self.assertEqual(criterion.judge(unknown), UNRESOLVED)


class ClaimTest(absltest.TestCase):
  claim = Claim(
    "{norm} is faster at {rate:g}",
    source="Someone 2015",
    quantity="ratio of losses to none",
    criterion=Below(0.8),
    unit="nats",
    form="+.2f",
    changed="the threshold, after a first look",
  )

  def test_text_and_verdict_come_from_the_same_number(self):
    for threshold, verdict in ((0.8, "CONFIRMED"), (0.5, "REFUTED")):
      claim = Claim("it is", "x", "ratio", Below(threshold))
      finding = claim.judge(Interval(0.65, 0.05))
      self.assertEqual(finding.criterion, f"ratio below {threshold}")
      self.assertEqual(finding.verdict, verdict)

  def test_finding(self):
    finding = self.claim.judge(Interval(0.65, 0.051), norm="bn", rate=1e-3)
    self.assertEqual(
      f"{finding}",
      "CONFIRMED: bn is faster at 0.001 (ratio of losses to none below 0.8"
      " nats: +0.65 ± 0.05 nats)",
    )
    self.assertEqual(finding.source, "Someone 2015")

  def test_an_exact_number_has_no_interval(self):
    claim = Claim("it is exact", "x", "error", Below(1e-5))
    finding = claim.judge(3e-7)
    self.assertEqual((finding.number, finding.verdict), ("3e-07", "CONFIRMED"))
    self.assertEqual(claim.judge(2e-5).verdict, "REFUTED")
    self.assertEqual(claim.judge(math.nan).verdict, "REFUTED")

  def test_says_that_seeds_diverged(self):
    bounds = Bounds(0.9, math.inf, "1 of 10 runs diverged, and counts as 4")
    finding = self.claim.judge(bounds, norm="bn", rate=1.0)
    self.assertEqual(finding.verdict, "REFUTED")
    self.assertEqual(
      finding.number,
      "from +0.90 to +inf nats; 1 of 10 runs diverged, and counts as 4",
    )

  def test_help_shows_all_of_it(self):
    text = claims.explain([self.claim])
    flat = " ".join(text.split())
    self.assertEqual(
      flat,
      "1. NORM is faster at RATE: ratio of losses to none below 0.8 nats."
      " [Someone 2015] (Changed: the threshold, after a first look)",
    )
    self.assertLessEqual(max(map(len, text.splitlines())), 80)

  def test_a_missing_setting_is_an_error(self):
    with self.assertRaises(KeyError):
      self.claim.judge(Interval(0.6, 0.1), norm="bn")


if __name__ == "__main__":
  absltest.main()
