import numpy as np
from absl.testing import parameterized

import normjax
from tests import reference


class StandardizeTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    random = np.random.default_rng(0)
    x = 30 + random.standard_normal((3, 4, 5)) * np.arange(1, 6)
    self.x = x.astype(np.float32)

  @parameterized.product(
    axes=(1, (0, 2)), ddof=(0, 1, 3), outside=(False, True),
    epsilon=(1e-6, 0.3),
  )  # fmt: skip
  def test_matches_float64(self, axes, ddof, outside, epsilon):
    options = {
      "ddof": ddof, "epsilon_outside_sqrt": outside, "epsilon": epsilon
    }  # fmt: skip
    y = normjax.standardize(self.x, axes, **options)
    axes = tuple(np.atleast_1d(axes).tolist())
    expected, _ = reference.standardize(self.x, axes, **options)
    self.assertLessEqual(reference.scaled_error(y, expected), 2e-6)

  def test_mean_zero_variance_one(self):
    y = np.float64(normjax.standardize(self.x, (0, 1)))
    np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((0, 1)), 1, rtol=1e-5)

  def test_epsilon_outside_sqrt_of_a_constant(self):
    x = np.full((2, 5), 0.1, np.float32)
    for epsilon in (1e-6, 1e-30):
      y = normjax.standardize(x, 1, epsilon=epsilon, epsilon_outside_sqrt=True)
      np.testing.assert_array_equal(y, 0)

  def test_does_not_depend_on_shift_and_gain(self):
    y = normjax.standardize(self.x, 1, epsilon=1e-30)
    # Powers of two lose no digits.
    for z in (self.x * 1024, self.x / 1024, self.x + 512):
      again = normjax.standardize(z, 1, epsilon=1e-30)
      np.testing.assert_allclose(again, y, rtol=1e-4, atol=1e-4)
