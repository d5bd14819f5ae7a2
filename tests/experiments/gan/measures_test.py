"""The numbers of samples: against SciPy and cases computed by hand."""

import functools

import chex
import jax
import numpy as np
from absl.testing import absltest, parameterized
from scipy import linalg, stats

from experiments.gan import frechet, measures, yardstick
from experiments.gan.arms import ARMS, model
from experiments.lab.data import arrays


def between(first, second):
  return frechet.distance(frechet.moments(first), frechet.moments(second))


def by_square_root(first, second):
  """The formula as it is written, with SciPy's root of a matrix."""
  covariances = [np.cov(x, rowvar=False) for x in (first, second)]
  root = linalg.sqrtm(covariances[0] @ covariances[1]).real
  shift = first.mean(axis=0) - second.mean(axis=0)
  return shift @ shift + np.trace(sum(covariances) - 2 * root)


class DistanceTest(parameterized.TestCase):
  @parameterized.parameters((2, 0.0), (8, 0.5), (32, 3.0))
  def test_is_that_of_scipy(self, features, shift):
    rng = np.random.default_rng(features)
    first, second = (
      rng.normal(size=(300, features)) @ rng.normal(size=(features, features))
      for _ in range(2)
    )
    second += shift
    np.testing.assert_allclose(
      between(first, second), by_square_root(first, second), rtol=1e-6
    )

  def test_of_one_feature(self):
    """(m1 - m2)^2 + (s1 - s2)^2, with standard deviations s of ddof 1."""
    first, second = np.array([[0.0], [2.0]]), np.array([[9.0], [15.0]])
    expected = (1 - 12) ** 2 + (2**0.5 - 18**0.5) ** 2
    self.assertAlmostEqual(between(first, second), expected)

  def test_of_samples_that_are_all_the_same(self):
    """Then it is the squared distance of the means and the other's trace."""
    real = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    fake = np.full((5, 2), 3.0)
    expected = 18 + real.var(axis=0, ddof=1).sum()
    self.assertAlmostEqual(between(real, fake), expected)

  def test_with_fewer_images_than_features(self):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 32)).astype(np.float32)
    self.assertAlmostEqual(between(x, x), 0, delta=1e-4)
    self.assertTrue(np.isnan(between(x, x * np.nan)))


class VarietyTest(absltest.TestCase):
  def test_entropy(self):
    for shares in ([0.1] * 10, [0.7, 0.2, 0.1], [1.0, 0.0]):
      self.assertAlmostEqual(
        frechet.entropy(np.array(shares)), stats.entropy(shares)
      )

  def test_classes_hit(self):
    self.assertEqual(frechet.hit(np.array([0.5, 0.49, 0.01, 0.0])), 3)


class MovedTest(absltest.TestCase):
  def test_unrelated_samples_have_one(self):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 4_000, 3, 3, 1))
    self.assertAlmostEqual(measures.moved(first, second), 1, delta=0.05)

  def test_samples_that_jump_together(self):
    rng = np.random.default_rng(0)
    first = rng.normal(0, 0.1, size=(1_000, 4))
    moved = measures.moved(first, first + 1)
    self.assertAlmostEqual(moved, 1 / (2 * first.var(axis=0).mean()), places=2)
    self.assertGreater(moved, 10)


class LateTest(absltest.TestCase):
  def test_the_last_quarter_and_half(self):
    values = np.arange(16).reshape(2, 8)
    np.testing.assert_array_equal(measures.late(values), [[6, 7], [14, 15]])
    np.testing.assert_array_equal(measures.late(values, 2), values[:, 4:])


class StatisticsTest(absltest.TestCase):
  def test_reestimated_ones_are_those_of_the_layer(self):
    generator = model(ARMS["both"], (8,), (8, 8, 1)).generator
    noise = np.zeros((2, 3), np.float32)
    init = jax.jit(functools.partial(generator.init, train=False))
    variables = init(jax.random.key(0), noise)
    key = jax.random.key(1)
    found = measures.reestimated(generator, variables, key, 3, 16)
    dense = jax.tree.map(np.asarray, variables["params"]["Dense_0"])
    numbers = np.asarray(jax.random.normal(key, (50 * 16, 3)))
    seen = (numbers @ dense["kernel"] + dense["bias"]).reshape(-1, 8)
    stats = next(iter(found["batch_stats"].values()))
    np.testing.assert_allclose(stats["mean"], seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(stats["var"], seen.var(axis=0), rtol=1e-4)


class YardstickTest(absltest.TestCase):
  def test_knows_the_digits_and_tells_them_from_noise(self):
    pool = arrays.load_pool("digits")
    with jax.numpy_dtype_promotion("standard"):  # Of optax.
      trained = yardstick.train(pool, [3, 4])
    chex.assert_shape(trained["Dense_1/kernel"], (2, 128, 32))
    self.assertGreater(trained["accuracy"].min(), 93)
    images = pool.split([3, 4])
    judge = yardstick.Yardstick(trained, 1, 10)
    test, training = (
      judge.features(pool.prepare(part.lane(1).inputs))
      for part in (images.test, images.train)
    )
    labels = images.test.lane(1).targets
    right = 100 * (test[1] == labels).mean()
    self.assertAlmostEqual(right, trained["accuracy"][1], delta=1e-3)
    chex.assert_shape(test[0], (360, 32))
    shares = judge.shares(labels)
    self.assertAlmostEqual(shares.sum(), 1)
    self.assertGreater(frechet.entropy(shares), 2.28)
    noise = np.random.default_rng(0).uniform(size=(400, 8, 8, 1))
    noise = judge.features(noise.astype(np.float32))[0]
    far = between(test[0], noise)
    self.assertGreater(far, 10 * between(test[0], training[0]))


if __name__ == "__main__":
  absltest.main()
