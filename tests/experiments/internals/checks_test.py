"""The exact parts of the study of what norms do to an array."""

import numpy as np
from absl.testing import parameterized

from experiments.internals import checks
from experiments.lab.probes import dependence, textbook


def draw(*shape, seed=0, mean=20.0, std=5.0):
  rng = np.random.default_rng(seed)
  return rng.normal(mean, std, shape).astype(np.float32)


class ExactTest(parameterized.TestCase):
  @parameterized.parameters(
    ("ln", (4, 10)), ("rms", (4, 10)), ("bn", (4, 10)), ("gn", (4, 10)),
    ("ln", (64, 512)), ("in", (2, 5, 5, 3)), ("bn", (4, 3, 3, 2)),
  )  # fmt: skip
  def test_groups_are_standardized(self, name, shape):
    x = draw(*shape)
    norm = dependence.Norm(name, shape)
    y = np.asarray(norm(x))
    errors = checks.moment_errors(
      name, norm.epsilon, norm.grouped(x), norm.grouped(y)
    )
    self.assertLess(errors[0], 1e-6)
    self.assertLess(errors[1], 1e-5)
    # The criterion sees what is not normalized.
    errors = checks.moment_errors(
      name, norm.epsilon, norm.grouped(x), norm.grouped(1.001 * y)
    )
    self.assertGreater(errors[1], 1e-5)

  def test_layer_norm_is_a_direction(self):
    errors = checks.layer_norm_errors(draw(4, 10))
    self.assertLess(max(errors.values()), 1e-5)

  def test_batch_norm_is_that_of_numpy(self):
    scale, bias = draw(2, 3, mean=1.0, std=0.3)
    gradient = draw(32, 3, seed=1, mean=0.0)
    errors = checks.batch_norm_errors(draw(50, 32, 3), scale, bias, gradient)
    self.assertLen(errors["derivatives"], 5)
    self.assertLess(max(errors["forward"].values()), 1e-6)
    self.assertLess(max(errors["derivatives"].values()), 1e-5)
    self.assertLess(errors["inverse"]["input"], 1e-6)

  def test_textbook_derivatives_are_those_of_differences(self):
    x, gradient = draw(2, 6, 2, mean=1.0, std=1.0).astype(np.float64)
    scale = np.array([0.7, 1.3])

    def loss(x):
      output = textbook.forward(x, scale, np.zeros(2), 1e-5).output
      return (gradient * output).sum()

    step = np.zeros_like(x)
    step[2, 1] = 1e-6
    slope = (loss(x + step) - loss(x - step)) / 2e-6
    found = textbook.backward(x, scale, 1e-5, gradient)
    np.testing.assert_allclose(found.x[2, 1], slope, rtol=1e-6)


class DependenceTest(parameterized.TestCase):
  @parameterized.parameters(
    ("none", (1, 1, 1, 1)), ("bn", (4, 2, 3, 1)), ("ln", (1, 1, 1, 6)),
    ("in", (1, 2, 3, 1)), ("gn", (1, 2, 3, 3)),
  )  # fmt: skip
  def test_finds_the_axes(self, name, extents):
    norm = dependence.Norm(name, (4, 2, 3, 6))
    self.assertEqual(norm.extents, extents)
    values = np.arange(4 * 2 * 3 * 6).reshape(4, 2, 3, 6)
    groups = norm.grouped(values)
    self.assertEqual(groups.shape[1], np.prod(extents))
    first = values[tuple(slice(extent) for extent in extents)]
    np.testing.assert_array_equal(groups[0], first.ravel())
