"""What is measured in a net of the study of activations."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.activations import probes, training
from experiments.activations.training import Arm
from experiments.lab.data import arrays

HIDDEN = (12, 12, 12)


def pool():
  loaded = arrays.load_pool("digits", train=128, validation=50, test=60)
  return loaded._replace(examples=jax.tree.map(jnp.asarray, loaded.examples))


class ProbesTest(parameterized.TestCase):
  @parameterized.parameters("sigmoid", "tanh")
  def test_flat_share_is_of_the_slope(self, activation):
    z = np.linspace(-8, 8, 1001)[:, None]
    slope = jax.vmap(jax.grad(probes.ACTIVATIONS[activation]))(
      jnp.asarray(z[:, 0], jnp.float32)
    )
    expected = np.mean(np.asarray(slope) < 0.05 * np.asarray(slope).max())
    found = probes.flat_share(activation, z)
    self.assertAlmostEqual(found, expected, delta=0.002)

  def test_leading_axes(self):
    z = np.random.default_rng(0).normal(size=(2, 3, 50, 4))
    for found in (
      probes.flat_share("relu", z),
      probes.flat_share("tanh", z),
      probes.beyond_share(z),
      probes.drift(z, z + 1),
    ):
      self.assertEqual(found.shape, (2, 3))

  def test_drift_is_blind_to_nothing_else(self):
    """The same distribution in another order has not moved."""
    z = np.random.default_rng(0).normal(size=(50, 4))
    self.assertAlmostEqual(probes.drift(z, z[::-1]), 0)

  def test_rescaled(self):
    model = Arm("tanh", "none").model(HIDDEN, 10)
    x = jnp.ones((1, 5))
    params = model.init(jax.random.key(0), x, train=False)["params"]
    params = jax.tree.map(lambda leaf: leaf + 1, params)  # No bias of zero.
    changed = probes.rescaled(params, jax.random.key(1), 2, 3.0)
    factors = []
    for name in ("Dense_0", "Dense_1"):
      ratio = changed[name]["kernel"] / params[name]["kernel"]
      np.testing.assert_allclose(ratio, ratio[:1].repeat(len(ratio), 0), 1e-5)
      bias = changed[name]["bias"] / params[name]["bias"]
      np.testing.assert_allclose(bias, ratio[0], rtol=1e-5)
      factors.append(bias)
    self.assertGreater(np.abs(factors[0] - factors[1]).max(), 0)
    self.assertBetween(np.min(factors), 1 / 3, 1)
    self.assertBetween(np.max(factors), 1, 3)
    for name in ("Dense_2", "Dense_3"):
      np.testing.assert_array_equal(
        changed[name]["kernel"], params[name]["kernel"]
      )


class TrainTest(parameterized.TestCase):
  @parameterized.parameters("none", "bn")
  def test_results(self, norm):
    arm = Arm("tanh", norm)
    with jax.numpy_dtype_promotion("standard"):  # Of optax.
      found = training.train(arm, HIDDEN, 40, 1.0, pool(), [0.01, 0.02], [0, 1])
    for name in ("error", "reestimated", "validation", "drift", "changed"):
      self.assertEqual(found[name].shape, (2, 2), name)
    for name in ("flat", "beyond"):
      self.assertEqual(found[name].shape, (2, 2, 3), name)
    self.assertLess(found["reestimated"].mean(), 50)
    if norm == "bn":
      # The change is undone by the statistics of the changed net.
      self.assertLess(found["drift"].max(), 1e-3)
      np.testing.assert_allclose(
        found["changed_reestimated"], found["reestimated"], atol=2
      )
    else:
      self.assertGreater(found["drift"].min(), 0.05)
      np.testing.assert_array_equal(
        found["changed"], found["changed_reestimated"]
      )

  def test_scaled_inputs(self):
    once, often = pool(), training.scaled(pool(), 255.0)
    np.testing.assert_allclose(
      often.prepared(5).inputs, 255 * once.prepared(5).inputs
    )

  def test_without_gain_and_bias(self):
    x = jnp.ones((1, 5))
    for affine in (True, False):
      model = Arm("sigmoid", "bn", affine=affine).model(HIDDEN, 10)
      params = model.init(jax.random.key(0), x, train=False)["params"]
      self.assertEqual("BatchNorm_0" in params, affine)


if __name__ == "__main__":
  absltest.main()
