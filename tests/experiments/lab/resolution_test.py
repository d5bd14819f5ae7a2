"""What a number of seeds can show."""

import dataclasses
import math

from absl.testing import absltest, parameterized

from experiments.lab import resolution, statistics
from experiments.lab.claims import Difference
from tests.experiments.lab.small_study import EQUAL, LOWER


class ResolvedTest(parameterized.TestCase):
  def test_distance(self):
    five = statistics.resolved_by(5, 0.8, 0.025)  # Half of 5% for each of two.
    self.assertEqual(
      resolution.resolved(LOWER, 5, 2), f"{0.1 * five:.2g} nats with 5 seeds"
    )
    self.assertEqual(
      resolution.resolved(EQUAL, 5, 2),
      f"a factor of {math.exp(0.05 * five):.3g} with 5 seeds",
    )

  @parameterized.parameters((1, 1, "1 seed"), (2, 10, "2 seeds"))
  def test_too_few_seeds(self, seeds, claims, said):
    by_rank = dataclasses.replace(LOWER, analysis=Difference(by_rank=True))
    for claim in (LOWER, EQUAL, by_rank):
      self.assertEqual(
        resolution.resolved(claim, seeds, claims), f"nothing with {said}"
      )

  def test_without_a_spread(self):
    unknown = dataclasses.replace(LOWER, spread=None)
    self.assertEqual(resolution.resolved(unknown, 5, 2), "no spread is known")


if __name__ == "__main__":
  absltest.main()
