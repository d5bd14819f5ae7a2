"""Images as another scanner records them."""

import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab.data import arrays
from experiments.lab.data.scanners import Scanner, rescanned

POOL = arrays.load_pool("digits")
BEFORE = np.asarray(POOL.prepared(50).inputs, np.float64)


class RescannedTest(parameterized.TestCase):
  @parameterized.parameters(
    ({}, lambda v: v),
    ({"intensity": 0.25, "contrast": 0.5}, lambda v: 0.25 + 0.5 * v),
    ({"gamma": 0.5}, np.sqrt),
    ({"intensity": 0.5}, lambda v: np.minimum(0.5 + v, 1)),
    ({"intensity": -0.5}, lambda v: np.maximum(v - 0.5, 0)),
  )
  def test_records_grey_values(self, settings, expected):
    other = rescanned(POOL, Scanner(**settings))
    found = np.asarray(other.prepared(50).inputs)
    self.assertEqual(found.dtype, np.float32)
    np.testing.assert_allclose(found, expected(BEFORE), atol=0.51 / 255)
    np.testing.assert_array_equal(other.examples.targets, POOL.examples.targets)

  def test_noise_is_a_property_of_the_image(self):
    scanner = Scanner(intensity=0.5, contrast=0.0, noise=0.1)
    found, again = (
      np.asarray(rescanned(POOL, scanner).prepared(500).inputs)
      for _ in range(2)
    )
    np.testing.assert_array_equal(found, again)
    self.assertAlmostEqual(found.std(), 0.1, delta=0.003)
    self.assertAlmostEqual(found.mean(), 0.5, delta=0.003)
    correlation = np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]
    self.assertLess(abs(correlation), 0.5)


if __name__ == "__main__":
  absltest.main()
