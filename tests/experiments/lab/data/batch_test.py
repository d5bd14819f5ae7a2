"""Tests of examples that every lane has of its own."""

import chex
import numpy as np
from absl.testing import absltest

from experiments.lab.data.batch import Batch, Choice, Members, parts

POOL = Batch(
  inputs=np.arange(12).reshape(6, 2),
  targets=np.arange(6),
  counted=np.array([1, 1, 0, 1, 0, 1], bool),
)
CHOSEN = np.array([[5, 0, 2], [1, 2, 4]], np.int32)


class MembersTest(absltest.TestCase):
  def test_a_lane_has_its_own_examples_in_order(self):
    found = Members(POOL, CHOSEN)
    self.assertEqual(found.num_examples, 3)
    chex.assert_trees_all_equal(found.lane(0), POOL.some([5, 0, 2]))
    chex.assert_trees_all_equal(found.lane(1), POOL.some([1, 2, 4]))

  def test_own_targets_replace_those_of_the_pool(self):
    targets = np.array([[9, 8, 7], [6, 5, 4]])
    lane = Members(POOL, CHOSEN, targets).lane(1)
    chex.assert_trees_all_equal(
      lane, POOL.some([1, 2, 4])._replace(targets=np.array([6, 5, 4]))
    )

  def test_some_are_those_of_each_lane(self):
    whole = Members(POOL, CHOSEN, CHOSEN + 10)
    chex.assert_trees_all_equal(
      whole.first(2), Members(POOL, CHOSEN[:, :2], CHOSEN[:, :2] + 10)
    )
    chex.assert_trees_all_equal(
      whole.some(np.array([2, 0])).lane(1), whole.lane(1).some([2, 0])
    )

  def test_counts_the_targets_of_each_lane(self):
    np.testing.assert_array_equal(Members(POOL, CHOSEN).total, [2, 1])
    every = POOL._replace(counted=None, targets=np.zeros((6, 4)))
    np.testing.assert_array_equal(Members(every, CHOSEN).total, [12, 12])

  def test_parts_are_shared_or_own(self):
    shared, own = parts(Members(POOL, CHOSEN))
    self.assertIs(shared, POOL)
    self.assertEqual(own, Choice(CHOSEN))
    self.assertEqual(parts(POOL), (POOL, None))


if __name__ == "__main__":
  absltest.main()
