"""Mean intersection over union, by hand and beside scikit-learn."""

import numpy as np
from absl.testing import absltest, parameterized
from sklearn.metrics import jaccard_score

from experiments.segmentation import metric


class MetricTest(parameterized.TestCase):
  def test_by_hand(self):
    truth = np.array([[0, 0, 1], [0, 2, 2]])
    predicted = np.array([[0, 1, 1], [0, 2, 0]])
    counts = metric.confusion(truth, predicted, 3)
    np.testing.assert_array_equal(counts, [[2, 1, 0], [0, 1, 0], [1, 0, 1]])
    np.testing.assert_allclose(metric.iou(counts), [2 / 4, 1 / 2, 1 / 2])
    self.assertAlmostEqual(metric.mean_iou(truth, predicted, 3), 50.0)

  @parameterized.parameters(0.0, 0.3, 1.0)
  def test_beside_scikit_learn(self, wrong):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (5, 6, 7))
    guess = rng.integers(0, 4, truth.shape)
    predicted = np.where(rng.uniform(size=truth.shape) < wrong, guess, truth)
    expected = jaccard_score(truth.ravel(), predicted.ravel(), average="macro")
    found = metric.mean_iou(truth, predicted.astype(np.uint8), 4)
    self.assertAlmostEqual(found, 100 * expected)

  def test_scenes_are_counted_together(self):
    """Not a mean over scenes, in which a few pixels would weigh as many."""
    truth = np.array([[0, 0, 0, 1], [1, 1, 1, 1]])
    predicted = np.array([[0, 0, 0, 0], [1, 1, 1, 1]])
    found = metric.mean_iou(truth, predicted, 2)
    self.assertAlmostEqual(found, 100 * (3 / 4 + 4 / 5) / 2)

  def test_a_class_that_is_nowhere_does_not_count(self):
    truth = np.array([0, 0, 1])
    self.assertEqual(metric.mean_iou(truth, truth, 3), 100.0)
    # One that is predicted only counts with nothing.
    predicted = np.array([0, 0, 2])
    self.assertAlmostEqual(metric.mean_iou(truth, predicted, 3), 100 / 3)


if __name__ == "__main__":
  absltest.main()
