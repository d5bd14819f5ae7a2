"""The register says everything that a claim declares."""

import dataclasses
import math

from absl.testing import absltest

from experiments.lab import registration, statistics
from experiments.lab.claims import Below, Difference, Effect, Within
from tests.experiments.lab.small_study import EQUAL, IDENTITY, LOWER, STUDY


def text(study=STUDY):
  return registration.text({"small": study}, {"small": "python -m small"})


def entry(claim, page):
  """Returns the lines of a claim, joined."""
  _, found, rest = page.partition(f"- **{claim.name}**")
  assert found, page
  return rest.split("\n\n")[0].split("\n- **")[0]


class TextTest(absltest.TestCase):
  def test_says_all_of_every_claim(self):
    page = text()
    for claim in STUDY.claims:
      found = entry(claim, page)
      for part in (
        claim.source,
        claim.measured,
        str(claim.analysis),
        claim.rule,
        claim.why,
      ):
        self.assertIn(part, found)
    found = entry(LOWER, page)
    self.assertStartsWith(
      found,
      " (headline): after 2 steps, the loss is at least 0.5 nats lower with the"
      " norm.\n",
    )
    self.assertIn("numbers capped at 3; to be below -0.5 nats.", found)
    self.assertIn("Pilot: the number of steps.", found)
    found = entry(EQUAL, page)
    self.assertIn("within 0.2 of 1.\n", found)
    self.assertNotIn("headline", found)
    self.assertNotIn("Pilot", found)
    self.assertIn("Headline claims: `small/lower`.", page)

  def test_says_what_the_seeds_resolve(self):
    # Two claims, so Holm's first level is half of 5%.
    ten, five = (statistics.resolved_by(n, 0.8, 0.025) for n in (10, 5))
    self.assertIn(
      f"Resolved: {0.1 * ten:.2g} nats with 10 seeds, {0.1 * five:.2g} nats"
      " with 5 seeds (spread 0.1); without an effect",
      entry(LOWER, text()),
    )
    self.assertIn(
      f"Resolved: a factor of {math.exp(0.05 * ten):.3g} with 10 seeds",
      entry(EQUAL, text()),
    )
    unknown = dataclasses.replace(LOWER, spread=None)
    page = text(dataclasses.replace(STUDY, claims=(unknown,)))
    self.assertIn("no spread is known", entry(unknown, page))

  def test_says_how_often_the_margin_is_excluded(self):
    # Margins of 5, 0.6 and, on the scale of logarithms, about 0.2 spreads.
    for criterion, spread, expected in (
      (
        Effect(-0.5),
        0.1,
        "at least 100% of runs show that the margin is not reached.",
      ),
      (
        Below(0.06),
        0.1,
        "at least 27% of runs show that the margin is not reached (80% would"
        " need 29 seeds)",
      ),
      (
        Within(0.06),
        0.1,
        "at least 0% of runs show that the margin is not reached (80% would"
        " need 38 seeds)",
      ),
    ):
      claim = dataclasses.replace(LOWER, criterion=criterion, spread=spread)
      page = text(dataclasses.replace(STUDY, claims=(claim, EQUAL)))
      self.assertIn(expected, " ".join(entry(claim, page).split()))

  def test_says_how_many_seeds_may_contradict(self):
    claim = dataclasses.replace(LOWER, analysis=Difference(by_rank=True))
    page = text(dataclasses.replace(STUDY, claims=(claim,)))
    self.assertIn(
      "Resolved: with at most 1 of 10 seeds on the other side, nothing with 5"
      " seeds.",
      entry(claim, page),
    )

  def test_says_how_the_study_runs(self):
    page = text()
    self.assertIn("`python -m small --confirm`, seeds 100 to 109\n", page)
    self.assertIn("Losses with and without a norm are drawn at random.", page)
    self.assertIn(IDENTITY.sentence, page)
    self.assertIn("largest error below 1e-06", page)
    self.assertNotIn("demonstration", page)
    page = text(dataclasses.replace(STUDY, demonstration="there are no data"))
    self.assertIn("does not count: there are no data.\n", page)


if __name__ == "__main__":
  absltest.main()
