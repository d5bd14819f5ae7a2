"""Claims: words and numbers of one source, and verdicts of a whole study."""

import dataclasses
import json
import math

import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab import claims
from experiments.lab.claims import (
  Above,
  Below,
  Check,
  Claim,
  Difference,
  Effect,
  Finding,
  Level,
  Ratio,
  Within,
)
from experiments.lab.runs import files
from tests.experiments.lab import simulated

NAN = math.nan
CLAIM = Claim(
  "faster",
  "with {depths[0]} layers, {norm} is at least {margin} nats lower at {rate:g}",
  source="Someone 2015, section 3",
  quantity="loss",
  samples=("bn", "none"),
  analysis=Difference(),
  criterion=Effect(-0.5),
  why="half a nat is what the source reports",
  unit="nats",
  form="+.2f",
)
SETTINGS = {"depths": (12, 24), "norm": "bn", "rate": 1e-3, "other": None}
LOWER = [1.0, 1.25, 0.75, 1.5, 1.0, 1.25, 0.5, 1.0, 1.25, 0.75]
HIGHER = [2.0, 2.0, 2.0, 2.25, 2.25, 2.0, 1.75, 2.25, 2.0, 1.75]


def judged(*samples, claim=CLAIM):
  (finding,) = claims.judged([(claim, samples)], SETTINGS)
  return finding


class ClaimTest(parameterized.TestCase):
  def test_says_margin_and_settings(self):
    self.assertEqual(
      CLAIM.said(SETTINGS),
      "with 12 layers, bn is at least 0.5 nats lower at 0.001",
    )

  @parameterized.parameters(
    (Difference(), Effect(-0.5), "0.5"),
    (Difference(), Effect(3), "3"),
    (Ratio(), Effect(1.25, none=1), "1.25"),
    (Level(), Below(-0.25), "0.25"),
    (Level(), Above(1e-3), "0.001"),
    (Difference(), Within(0.5, of=3), "0.5"),
    (Ratio(), Within(0.25, of=2), "0.25"),
  )
  def test_margin(self, analysis, criterion, expected):
    claim = dataclasses.replace(
      CLAIM, sentence="{margin}", analysis=analysis, criterion=criterion
    )
    self.assertEqual(claim.said({}), expected)

  @parameterized.parameters("depths", "norm", "rate")
  def test_a_missing_setting_is_an_error(self, name):
    settings = {key: SETTINGS[key] for key in SETTINGS if key != name}
    with self.assertRaisesRegex(KeyError, name):
      CLAIM.said(settings)
    with self.assertRaisesRegex(KeyError, name):
      claims.judged([(CLAIM, (LOWER, HIGHER))], settings)

  @parameterized.parameters(
    (Difference(), "loss, bn minus none"),
    (Difference(by_rank=True), "loss, bn minus none"),
    (Ratio(), "loss, bn / none"),
  )
  def test_measured(self, analysis, expected):
    claim = dataclasses.replace(
      CLAIM, analysis=analysis, criterion=Effect(2, none=1)
    )
    self.assertEqual(claim.measured, expected)

  @parameterized.parameters(
    Effect(0.9), Effect(-1, none=1), Below(0), Within(2, of=1)
  )
  def test_a_ratio_is_compared_with_positive_numbers(self, criterion):
    with self.assertRaisesRegex(ValueError, "faster: a ratio must be compared"):
      dataclasses.replace(CLAIM, analysis=Ratio(), criterion=criterion)

  def test_help_shows_all_of_it(self):
    check = Check("equal", "it is the same", "ours", "error", Below(1e-6))
    text = claims.explain([CLAIM], [check], SETTINGS)
    self.assertEqual(
      " ".join(text.split()),
      "1. with 12 layers, bn is at least 0.5 nats lower at 0.001. [Someone"
      " 2015, section 3] loss, bn minus none: below -0.5 nats. 2. Check: it is"
      " the same. [ours] error: below 1e-06.",
    )
    self.assertLessEqual(max(map(len, text.splitlines())), 80)


class FindingTest(parameterized.TestCase):
  def test_words_and_numbers_agree(self):
    finding = judged(LOWER, HIGHER)
    estimate = Difference().estimate(LOWER, HIGHER)
    self.assertEqual(finding.verdict, "CONFIRMED")
    self.assertEqual(
      (finding.claim, finding.estimate, finding.low, finding.high),
      ("faster", estimate.center, estimate.low, estimate.high),
    )
    self.assertEqual(finding.number, estimate.text("+.2f", "nats"))
    self.assertEqual(finding.effect, estimate.effect(0.0))
    self.assertEqual(finding.p, estimate.test(-0.5))
    self.assertEqual((finding.seeds, finding.method), (10, "t"))
    self.assertEqual(finding.values, {"bn": LOWER, "none": HIGHER})

  @parameterized.parameters(
    (Below(0.25), 0.25), (Above(1e-3), 1e-3), (Within(0.5, of=3), 2.5)
  )
  def test_effect_of_one_sample_is_from_the_nearest_limit(
    self, criterion, limit
  ):
    claim = dataclasses.replace(
      CLAIM, samples=("bn",), analysis=Level(), criterion=criterion
    )
    (finding,) = claims.judged([(claim, (LOWER,))], SETTINGS)
    distance = (np.mean(LOWER) - limit) / np.std(LOWER, ddof=1)
    self.assertAlmostEqual(finding.effect, distance)
    self.assertIn(f"d = {distance:.1f}, p =", finding.evidence)

  def test_text(self):
    finding = judged(LOWER, HIGHER)._replace(p=3e-7, holm=0.012)
    text = f"{finding}"
    self.assertEqual(
      " ".join(text.split()),
      "CONFIRMED: with 12 layers, bn is at least 0.5 nats lower at 0.001 loss,"
      f" bn minus none: {finding.number}, to be below -0.5 nats; d ="
      f" {finding.effect:.1f}, p = <1e-4 (Holm 0.012), 10 seeds",
    )
    self.assertLessEqual(max(map(len, text.splitlines())), 80)

  def test_says_when_the_mean_became_a_median(self):
    diverged = [NAN, *LOWER[1:]]
    for samples, remark in (
      ((diverged, HIGHER), "the median, because 1 seed diverged"),
      (([1.0] * 10, [3.0] * 10), "the median, because all seeds are equal"),
      (([1.0], [2.0]), ""),
      ((LOWER, HIGHER), ""),
    ):
      self.assertEqual(judged(*samples).remark.split(";")[0], remark)
    by_rank = dataclasses.replace(CLAIM, analysis=Difference(by_rank=True))
    self.assertEqual(judged(diverged, HIGHER, claim=by_rank).remark, "")
    capped = dataclasses.replace(CLAIM, analysis=Difference(cap=4.0))
    remark = judged(diverged, HIGHER, claim=capped).remark
    self.assertNotIn("the median", remark)

  @parameterized.parameters(
    # Numbers of bn and none that are at least the cap or have diverged.
    ((), (), ""),
    ((4.0,), (), "a lower bound, because {} 1 of 10 seeds of bn"),
    ((9.0, NAN), (), "a lower bound, because {} 2 of 10 seeds of bn"),
    ((), (None,), "an upper bound, because {} 1 of 10 seeds of none"),
    ((5, NAN), (NAN,), "{} 2 of 10 seeds of bn and 1 of 10 seeds of none"),
  )
  def test_says_what_is_at_the_cap(self, bn, none, remark):
    capped = dataclasses.replace(CLAIM, analysis=Difference(cap=4.0))
    samples = [*bn, *LOWER[len(bn) :]], [*none, *HIGHER[len(none) :]]
    finding = judged(*samples, claim=capped)
    said = remark.format("the cap of 4 stands for")
    self.assertEqual(finding.remark.split("; ")[0], said)
    self.assertNotIn("cap", judged(*samples).remark)

  def test_a_single_sample_at_the_cap_is_a_lower_bound(self):
    level = dataclasses.replace(
      CLAIM, samples=("bn",), analysis=Level(cap=4.0), criterion=Above(1)
    )
    self.assertEqual(
      judged([5.0, *LOWER[1:]], claim=level).remark,
      "a lower bound, because the cap of 4 stands for 1 of 10 seeds of bn",
    )

  @parameterized.parameters(
    # Seeds that diverged, of ten.
    (10, "infinite: 10 of 10 seeds diverged"),
    (9, "infinite: 9 of 10 seeds diverged"),
    (8, "+inf [+0.00, +inf] nats"),
  )
  def test_an_infinite_number_is_said_in_words(self, count, number):
    diverged = [None] * count + LOWER[count:]
    finding = judged(diverged, [1.25] * 10)
    self.assertEqual(finding.number, number)
    if "seeds" in number:
      turned = judged([1.25] * 10, diverged)
      self.assertEqual(turned.number, f"minus {number}")

  @parameterized.parameters(
    (0.0504, "0.0504"),  # At most 5% is shown.
    (0.050049, "0.05005"),
    (0.0496, "0.05"),
    (0.05, "0.05"),
    (0.0532, "0.053"),
    (0.00123, "0.0012"),
    (1.0, "1"),
    (2e-5, "<1e-4"),
  )
  def test_p_values_show_on_which_side_of_5_percent_they_are(self, p, text):
    finding = judged(LOWER, HIGHER)._replace(p=p, holm=p)
    self.assertIn(f"p = {text} (Holm {text}), ", finding.evidence)

  def test_survives_json(self):
    for samples in (
      (LOWER, HIGHER),
      ([*LOWER[1:], NAN], HIGHER),
      ([1.0], [2.0]),
    ):
      finding = judged(*map(np.float32, samples))
      stored = json.loads(json.dumps(files.plain(finding), allow_nan=False))
      self.assertEqual(Finding(**stored), finding)
      self.assertEqual(f"{Finding(**stored)}", f"{finding}")
      again = judged(*stored["values"].values())
      self.assertEqual(files.plain(again), stored)

  def test_diverged_seeds(self):
    finding = judged([*LOWER[1:], None], HIGHER)
    self.assertEqual(finding.values["bn"][-1], None)
    self.assertIn("shares = -0.8", finding.evidence)
    unbounded = judged(LOWER[:2], [None, 1.0])
    self.assertEqual((unbounded.low, unbounded.high), (None, None))
    self.assertIn("[-inf, +inf]", unbounded.number)

  def test_one_seed(self):
    finding = judged([1.0], [2.0])
    self.assertEqual((finding.verdict, finding.p), ("UNRESOLVED", 1.0))
    self.assertTrue(finding.evidence.endswith(", 1 seed"))

  @parameterized.parameters(
    # The estimate, its spread over ten seeds, and what is said of it.
    (-0.30, 0.01, "SMALLER THAN CLAIMED", ""),
    (-0.60, 0.40, "UNRESOLVED", "there is an effect, but whether it is as"),
    (-0.40, 0.40, "UNRESOLVED", "there is an effect, but whether it is as"),
    (-0.10, 0.40, "UNRESOLVED", "smaller than claimed, but whether there is"),
    (+0.10, 0.40, "UNRESOLVED", "smaller than claimed, but whether there is"),
    (-0.25, 2.00, "UNRESOLVED", ""),
    (+0.50, 0.40, "REFUTED", ""),
    (-1.00, 0.40, "CONFIRMED", ""),
  )
  def test_remark(self, center, spread, verdict, remark):
    shape = np.linspace(-1, 1, 10)
    values = center + spread * shape / shape.std(ddof=1)
    finding = judged(values, np.zeros(10))
    self.assertEqual(finding.verdict, verdict)
    self.assertEqual(finding.remark[: len(remark)], remark)
    self.assertEqual(bool(finding.remark), bool(remark))
    turned = dataclasses.replace(CLAIM, criterion=Effect(0.5))
    turned = judged(-values, np.zeros(10), claim=turned)
    self.assertEqual((turned.verdict, turned.remark), (verdict, finding.remark))

  def test_a_limit_has_no_remark(self):
    claim = dataclasses.replace(CLAIM, criterion=Below(-0.5))
    self.assertEqual(judged(LOWER, LOWER[::-1], claim=claim).remark, "")


class StudyTest(absltest.TestCase):
  """Holm's correction is for all claims of a study."""

  def test_claims_of_a_study_are_corrected_together(self):
    slightly = np.linspace(-0.88, -0.44, 10)  # p is about 0.001.
    one = claims.judged([(CLAIM, (slightly, np.zeros(10)))], SETTINGS)[0]
    # The next is open, and 59 more are as well.
    noise = np.linspace(-1.5, 0.5, 10)
    many = claims.judged(
      [(CLAIM, (slightly, np.zeros(10)))]
      + 60 * [(CLAIM, (noise, np.zeros(10)))],
      SETTINGS,
    )
    self.assertEqual(one.verdict, "CONFIRMED")
    self.assertEqual((many[0].verdict, many[1].verdict), 2 * ("UNRESOLVED",))
    self.assertEqual(many[0].p, one.p)
    self.assertAlmostEqual(many[0].holm, 61 * one.p)

  @simulated.few_resamples
  def test_false_verdicts_and_remarks_of_eight_claims(self):
    """At most 5% of 500 studies have any; the standard error is 1%.

    There is no effect. All claims share the arm without a norm. Without the
    correction, a third of the studies would say something false.
    """
    rng = np.random.default_rng(0)
    wrong = []
    for _ in range(500):
      none = rng.normal(size=10)
      samples = [
        (dataclasses.replace(CLAIM, criterion=Effect(margin)), (arm, none))
        for arm, margin in zip(
          rng.normal(size=(8, 10)), 4 * (-1, 1), strict=True
        )
      ]
      wrong.append(
        any(
          finding.verdict != "UNRESOLVED" or "is an effect," in finding.remark
          for finding in claims.judged(samples, SETTINGS)
        )
      )
    self.assertLessEqual(np.mean(wrong), 0.05 + 2 * 0.01)


class CheckTest(parameterized.TestCase):
  @parameterized.parameters(
    (Below(1e-6), 3e-7, True),
    (Below(1e-6), 2e-6, False),
    (Above(80), 81.0, True),
    (Above(80), 79.0, False),
    (Below(1e-6), NAN, False),
    (Above(80), NAN, False),
  )
  def test_outcome(self, criterion, number, holds):
    check = Check("equal", "it is the same", "ours", "error", criterion)
    outcome = check.outcome(number)
    self.assertEqual(outcome.holds, holds)
    self.assertEqual(
      f"{outcome}",
      f"{'HOLDS' if holds else 'FAILS'}: it is the same (error {criterion}:"
      f" {number:.0e})",
    )


if __name__ == "__main__":
  absltest.main()
