"""Average precision against hand-computed cases and other computations."""

import numpy as np
from absl.testing import absltest, parameterized
from sklearn import metrics

from experiments.detection import average_precision as ap
from experiments.detection.average_precision import Detections


def objects(*rows):
  """Returns objects of rows (image, y, x, height, width, label, score)."""
  rows = np.array(rows, np.float64).reshape(-1, 7)
  return Detections(
    rows[:, 0].astype(int), rows[:, 1:5], rows[:, 5].astype(int), rows[:, 6]
  )


def random_boxes(rng, *shape):
  middle = rng.uniform(0, 40, (*shape, 2))
  return np.concatenate([middle, rng.uniform(5, 20, (*shape, 2))], axis=-1)


class IouTest(parameterized.TestCase):
  @parameterized.parameters(
    ([5, 5, 4, 4], 1),
    ([5, 7, 4, 4], 1 / 3),  # Half of each is common.
    ([5, 5, 2, 2], 1 / 4),  # Inside.
    ([5, 9, 4, 4], 0),  # They touch.
    ([20, 20, 4, 4], 0),
    ([7, 7, 4, 4], 4 / 28),
  )
  def test_by_hand(self, box, expected):
    found = ap.iou(np.array([5.0, 5, 4, 4]), np.array(box, float))
    self.assertAlmostEqual(float(found), expected)

  def test_counts_pixels(self):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :60] + 0.5
    for _ in range(20):
      # Whole pixels: edges at integers.
      low, size = rng.integers(0, 30, (2, 2)), rng.integers(5, 30, (2, 2))
      inside = [
        (y > a[0]) & (y < a[0] + s[0]) & (x > a[1]) & (x < a[1] + s[1])
        for a, s in zip(low, size, strict=True)
      ]
      expected = (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()
      first, second = np.concatenate([low + size / 2, size], axis=1)
      self.assertAlmostEqual(float(ap.iou(first, second)), expected)


class KeptTest(absltest.TestCase):
  def test_a_removed_box_removes_no_other(self):
    # A chain: each overlaps the next one by a half or more, and no other.
    boxes = np.array([[[5.0, 5, 4, 4], [5, 6, 4, 4], [5, 7.1, 4, 4]]])
    scores = np.array([[0.9, 0.8, 0.7]])
    np.testing.assert_array_equal(ap.kept(boxes, scores), [[True, False, True]])
    np.testing.assert_array_equal(
      ap.kept(boxes, scores[:, [1, 0, 2]]), [[False, True, False]]
    )

  def test_against_a_loop_over_boxes(self):
    rng = np.random.default_rng(1)
    boxes, scores = random_boxes(rng, 5, 30), rng.uniform(size=(5, 30))
    found = ap.kept(boxes, scores)
    for image in range(5):
      rest, expected = [*np.argsort(-scores[image])], []
      while rest:
        best = rest.pop(0)
        expected.append(best)
        rest = [
          other
          for other in rest
          if ap.iou(boxes[image, best], boxes[image, other]) < 0.5
        ]
      np.testing.assert_array_equal(
        np.flatnonzero(found[image]), sorted(expected)
      )
    self.assertBetween(found.mean(), 0.2, 0.95)


class HitsTest(absltest.TestCase):
  def test_the_second_box_of_an_object_is_wrong(self):
    truth = objects((0, 5, 5, 4, 4, 1, 1))
    found = objects((0, 5, 5.5, 4, 4, 1, 0.9), (0, 5, 5, 4, 4, 1, 0.8))
    np.testing.assert_array_equal(ap.hits(found, truth), [True, False])

  def test_takes_the_largest_overlap(self):
    truth = objects((0, 5, 6, 4, 4, 1, 1), (0, 5, 5, 4, 4, 1, 1))
    found = objects((0, 5, 5, 4, 4, 1, 0.9), (0, 5, 6.2, 4, 4, 1, 0.8))
    np.testing.assert_array_equal(ap.hits(found, truth), [True, True])

  def test_only_in_the_same_image(self):
    truth, found = (
      objects((0, 5, 5, 4, 4, 1, 1)),
      objects((1, 5, 5, 4, 4, 1, 1)),
    )
    np.testing.assert_array_equal(ap.hits(found, truth), [False])

  def test_at_the_threshold(self):
    truth = objects((0, 5, 5, 4, 4, 1, 1))
    half, less = (0, 5, 5, 4, 2, 1, 0.9), (0, 5, 5, 4, 1.9, 1, 0.9)
    self.assertTrue(ap.hits(objects(half), truth)[0])
    self.assertFalse(ap.hits(objects(less), truth)[0])


class AreaTest(parameterized.TestCase):
  @parameterized.parameters(
    ([1], 1, 1.0),
    ([0, 1], 1, 0.5),
    ([1, 0], 1, 1.0),  # What comes after the last hit costs nothing.
    ([1, 0, 1], 2, (1 + 2 / 3) / 2),
    ([0, 1, 1], 2, (2 / 3 + 2 / 3) / 2),  # 1/2, then 2/3: the higher one.
    ([1], 4, 0.25),  # Three were not found.
    ([], 3, 0.0),
    ([0, 0], 3, 0.0),
  )
  def test_by_hand(self, right, total, expected):
    self.assertAlmostEqual(ap.area(np.array(right, bool), total), expected)

  def test_against_the_curve_of_scikit_learn(self):
    """The highest precision at each recall or above, summed over steps."""
    rng = np.random.default_rng(2)
    for _ in range(10):
      right, missed = rng.uniform(size=50) < 0.4, int(rng.integers(0, 20))
      total = right.sum() + missed
      precision, recall, _ = metrics.precision_recall_curve(
        right, -np.arange(50.0)
      )
      recall = recall * right.sum() / total
      expected = sum(
        (recall[i] - recall[i + 1]) * precision[recall >= recall[i]].max()
        for i in range(len(recall) - 1)
      )
      self.assertAlmostEqual(ap.area(right, total), expected)
      below = metrics.average_precision_score(right, -np.arange(50.0))
      self.assertGreaterEqual(
        ap.area(right, total), below * right.sum() / total - 1e-9
      )


class AveragePrecisionTest(absltest.TestCase):
  truth = objects(
    (0, 10, 10, 8, 8, 3, 1), (0, 30, 30, 8, 8, 3, 1), (1, 10, 10, 8, 8, 7, 1)
  )

  def test_what_is_true_has_one(self):
    self.assertEqual(ap.average_precision(self.truth, self.truth), 1)

  def test_nothing_found_has_zero(self):
    self.assertEqual(ap.average_precision(objects(), self.truth), 0)

  def test_by_hand(self):
    found = objects(
      (0, 30, 31, 8, 8, 3, 0.6),  # Right.
      (1, 40, 40, 8, 8, 3, 0.7),  # Nothing is there.
      (0, 11, 10, 8, 8, 3, 0.9),  # Right.
      (1, 10, 10, 8, 8, 2, 0.9),  # Another class, of which there is none.
    )
    # Of class 3: right, wrong, right of two; of class 7: nothing.
    expected = ((1 + 2 / 3) / 2 + 0) / 2
    self.assertAlmostEqual(ap.average_precision(found, self.truth), expected)
    order = np.array([2, 0, 3, 1])  # Of no influence.
    self.assertAlmostEqual(
      ap.average_precision(found.some(order), self.truth), expected
    )


if __name__ == "__main__":
  absltest.main()
