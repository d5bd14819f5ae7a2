"""What is printed about seeds of which some have stopped."""

import math

from absl.testing import absltest, parameterized

from experiments.lab.training import session
from experiments.lab.training.session import Column

RECORDS = [
  {"loss": [2.0, 4.0, None], "seconds": 0.5},
  {"loss": [1.0, 3.0, None], "seconds": 0.25},
  {"loss": [None, 2.0, None], "seconds": 1.5},
]


class MeanTest(parameterized.TestCase):
  @parameterized.parameters((1, 3.0), (2, 2.0), (3, 1.5))
  def test_a_stopped_seed_counts_with_its_last_number(self, count, expected):
    self.assertEqual(session.mean(RECORDS[:count], "loss"), expected)
    cell = Column("loss", "loss", ".2f").cell(RECORDS[:count])
    self.assertEqual(cell.strip(), f"{expected:.2f}")

  def test_one_number_for_all_seeds_is_that_of_the_last_record(self):
    self.assertEqual(session.mean(RECORDS, "seconds"), 1.5)

  def test_without_any_number_there_is_no_mean(self):
    self.assertTrue(math.isnan(session.mean([{"loss": [None]}], "loss")))


if __name__ == "__main__":
  absltest.main()
