"""Curvature and probes along the gradient, on quadratics."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest
from jax.flatten_util import ravel_pytree

from experiments.lab.data.batch import Batch
from experiments.lab.probes import landscape

BATCH = Batch(jnp.zeros((1, 1)), jnp.zeros(1, jnp.int32))


def quadratic(matrix):
  """Returns a loss of two layers' kernels, `x @ matrix @ x / 2`."""

  def loss(params, batch):
    del batch
    x = jnp.concatenate(
      [params[name]["kernel"].ravel() for name in ("Dense_0", "Dense_1")]
    )
    return 0.5 * x @ matrix @ x

  return loss


def kernels(values):
  first, second = jnp.split(jnp.asarray(values, jnp.float32), 2)
  return {"Dense_0": {"kernel": first}, "Dense_1": {"kernel": second}}


class LandscapeTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    factor = np.random.default_rng(0).normal(size=(12, 12))
    self.matrix = jnp.asarray(factor @ factor.T, jnp.float32)

  def test_sharpness_is_the_largest_eigenvalue(self):
    params = kernels(np.ones(12))
    sharpness = landscape.Sharpness(quadratic(self.matrix), params)
    expected = np.linalg.eigvalsh(np.asarray(self.matrix, np.float64))[-1]
    self.assertAlmostEqual(sharpness(params, BATCH) / expected, 1, delta=0.01)

  def test_sharpness_of_diverged_parameters_is_nan(self):
    params = kernels([1.0] * 11 + [np.nan])
    sharpness = landscape.Sharpness(
      lambda params, batch: jnp.sum(ravel_pytree(params)[0] ** 4), params
    )
    self.assertTrue(np.isnan(sharpness(params, BATCH)))

  def test_probe_of_a_quadratic(self):
    # Both layers decoupled, with curvature 3 everywhere.
    loss = quadratic(3 * jnp.eye(4))
    params = kernels([1.0, 2.0, 2.0, 4.0])
    found = landscape.probe(loss, params, BATCH, jnp.asarray(0.1))
    # x becomes (1 - 0.3 m) x, the loss 37.5 (1 - 0.3 m)^2.
    losses = 37.5 * (1 - 0.3 * landscape.MULTIPLES) ** 2
    np.testing.assert_allclose(found["range"], np.ptp(losses), rtol=1e-4)
    np.testing.assert_allclose(found["change"], 3 * 0.4 * 15, rtol=1e-4)
    np.testing.assert_allclose(found["beta"], 3, rtol=1e-4)
    np.testing.assert_allclose(found["scaled_beta"], 75, rtol=1e-4)
    np.testing.assert_allclose(found["cosine"], 1, rtol=1e-4)

  def test_cosine_sees_the_layers_below(self):
    # The first layer's step turns the gradient of the second around.
    coupled = jnp.asarray([[0.0, 1.0], [1.0, 1.0]])
    params = kernels([1.0, 1.0])
    found = landscape.probe(quadratic(coupled), params, BATCH, jnp.asarray(3.0))
    np.testing.assert_allclose(found["cosine"], -1, rtol=1e-4)


if __name__ == "__main__":
  absltest.main()
