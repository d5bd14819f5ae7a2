"""The noise after batch norm: where it is, how large, and that it changes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments.lab.models.norms import norm_factory
from experiments.smoothness.noisy import NoisyBatchNorm


class NoisyBatchNormTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.x = jax.random.normal(jax.random.key(0), (400, 50))
    self.variables = NoisyBatchNorm(train=False).init(jax.random.key(1), self.x)

  def outputs(self, key, **settings):
    y, updated = NoisyBatchNorm(train=True, **settings).apply(
      self.variables,
      self.x,
      rngs={"dropout": jax.random.key(key)},
      mutable=["batch_stats"],
    )
    return y, updated

  def test_evaluation_and_no_noise_are_batch_norm(self):
    (name,) = self.variables["params"]
    inner = jax.tree.map(lambda leaf: leaf, self.variables)
    inner = {kind: tree[name] for kind, tree in inner.items()}
    expected = norm_factory("bn")(train=False).apply(inner, self.x)
    y = NoisyBatchNorm(train=False).apply(self.variables, self.x)
    chex.assert_trees_all_equal(y, expected)

    expected, stats = norm_factory("bn")(train=True).apply(
      inner, self.x, mutable=["batch_stats"]
    )
    y, updated = self.outputs(2, shift=0.0, factor=1.0, spread=0.0)
    chex.assert_trees_all_close(y, expected, atol=1e-6)
    chex.assert_trees_all_equal(
      updated["batch_stats"][name], stats["batch_stats"]
    )

  def test_moves_each_unit_by_its_own_amount_each_time(self):
    means = []
    for key in (2, 3):
      y, _ = self.outputs(key)
      mean, std = np.asarray(y.mean(axis=0)), np.asarray(y.std(axis=0))
      self.assertLess(np.abs(mean).max(), 0.5 + 0.05)
      self.assertGreater(mean.max() - mean.min(), 0.5)
      self.assertGreater(std.min(), 0.95)
      self.assertLess(std.max(), 1.3)
      means.append(mean)
    self.assertLess(abs(np.corrcoef(means)[0, 1]), 0.5)

  def test_each_example_has_noise_of_its_own(self):
    self.x = jnp.tile(self.x[:2], (200, 1))  # Two examples, many times.
    y, _ = self.outputs(2)
    spread = np.asarray(y[::2].std(axis=0))
    # Standard deviations of numbers within 0.1 are 0.1 / sqrt(3).
    normal = np.abs(np.sign(self.x[0] - self.x[1]))
    expected = 0.1 / np.sqrt(3) * np.sqrt(1 + normal**2)
    np.testing.assert_allclose(spread, expected, rtol=0.2)


if __name__ == "__main__":
  absltest.main()
