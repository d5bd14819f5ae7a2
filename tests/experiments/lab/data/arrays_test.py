"""Tests of images whose sets every seed draws for itself."""

import chex
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab.data import arrays, images
from experiments.lab.data.arrays import Pool, Sizes
from experiments.lab.data.batch import Batch
from experiments.lab.errors import RefusedError


def pool(count=30, sizes=(12, 6, 5), classes=1000):
  """Returns a pool whose images tell their number, all of class 0."""
  numbers = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
  examples = Batch(numbers, np.zeros(count, np.int32))
  return Pool("numbers", examples, Sizes(*sizes), classes, lambda x: x / 2)


def sets(found):
  return found.train, found.validation, found.test


class SplitTest(parameterized.TestCase):
  def test_sets_are_disjoint_and_of_the_asked_sizes(self):
    found = pool().split([0, 1, 2])
    for lane in range(3):
      drawn = [np.asarray(each.chosen[lane]) for each in sets(found)]
      self.assertEqual([len(each) for each in drawn], [12, 6, 5])
      together = np.concatenate(drawn)
      self.assertLen({*together.tolist()}, 23)
      self.assertContainsSubset(together.tolist(), range(30))

  def test_every_seed_draws_its_own(self):
    for each in sets(pool().split([0, 1, 2])):
      self.assertLen({frozenset(row.tolist()) for row in each.chosen}, 3)

  def test_a_seed_draws_the_same_whatever_the_others_and_the_rates(self):
    alone = pool().split([7], noise=0.5)
    among = pool().split([3, 7], rates=2, noise=0.5)
    clean = pool().split([7])
    for one, many, other in zip(
      sets(alone), sets(among), sets(clean), strict=True
    ):
      self.assertLen(many.chosen, 4)
      for lane in (1, 3):  # The lanes of one rate are adjacent.
        chex.assert_trees_all_equal(many.lane(lane), one.lane(0))
      chex.assert_trees_all_equal(other.chosen, one.chosen)

  def test_is_the_same_in_all_versions(self):
    found = pool(sizes=(4, 1, 5)).split([0], noise=0.5)
    self.assertEqual(found.test.chosen.tolist(), [[7, 10, 18, 4, 11]])
    self.assertEqual(found.train.targets.tolist(), [[0, 405, 759, 0]])

  def test_a_smaller_training_set_is_a_part_of_a_larger_one(self):
    large, small = (pool(sizes=(n, 6, 5)).split([0, 1]) for n in (12, 7))
    chex.assert_trees_all_equal(small.train.chosen, large.train.chosen[:, :7])
    chex.assert_trees_all_equal(small.test, large.test)
    chex.assert_trees_all_equal(small.validation, large.validation)

  def test_noise_is_a_share_of_the_training_targets_of_each_seed(self):
    found = pool(200, (120, 40, 40)).split([0, 1], noise=0.25)
    wrong = np.asarray(found.train.targets) != 0
    # A random class of a thousand is rarely the right one.
    np.testing.assert_array_equal(wrong.sum(axis=1), [30, 30])
    self.assertFalse(np.array_equal(*wrong))
    self.assertLess(found.train.targets.max(), 1000)
    self.assertGreater(len(np.unique(found.train.targets)), 40)
    self.assertIsNone(found.validation.targets)
    self.assertIsNone(found.test.targets)
    self.assertIsNone(pool().split([0]).train.targets)

  @parameterized.parameters(
    ((12, 6, 13), 0, "30 images, .* 12 .* training, 6 .* 13 for the test"),
    ((12, 0, 5), 0, "needs at least one image"),
    ((12, 6, 5), 20, "from 0 to 1, got 20"),
  )
  def test_refuses_what_cannot_be_drawn(self, sizes, noise, message):
    with self.assertRaisesRegex(RefusedError, message):
      pool(sizes=sizes).split([0], noise=noise)

  def test_images_are_those_of_the_lanes(self):
    found = pool().split([0, 1])
    self.assertEqual(found.sample.shape, (1, 1, 1, 1))
    np.testing.assert_array_equal(
      found.prepared(3).inputs.ravel(), found.train.chosen[0, :3] / 2
    )
    self.assertEqual(
      str(found),
      "numbers: 12 images for training, 6 for validation, 5 for the test",
    )


class LoadPoolTest(absltest.TestCase):
  def test_pools_both_parts_of_a_data_set(self):
    loaded = images.load("digits")
    found = arrays.load_pool("digits")
    self.assertEqual(found.sizes, (1150, 287, 360))
    np.testing.assert_array_equal(
      found.examples.inputs[-360:], loaded.test.images
    )
    np.testing.assert_array_equal(
      found.examples.targets[:-360], loaded.train.labels
    )
    self.assertEqual(found.sample.shape, (1, 8, 8, 1))
    self.assertEqual(found.prepared(2).inputs.max(), 1)
    self.assertEqual(
      str(found),
      "digits: every seed draws 1,150 images for training, 287 for validation"
      " and 360 for the test from 1,797",
    )

  def test_sizes_have_maxima(self):
    found = arrays.load_pool("digits", train=100, validation=10**6, test=50)
    self.assertEqual(found.sizes, (100, 287, 50))
    self.assertEqual(found.examples.num_examples, 1797)


if __name__ == "__main__":
  absltest.main()
