"""Pooled batch statistics against those of all data at once."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments.lab.training import batch_statistics


class BatchStatisticsTest(absltest.TestCase):
  def test_pools_means_and_variances_exactly(self):
    # The means of the batches differ far more than the values within one.
    data = np.random.default_rng(0).normal(size=(7, 5, 3))
    data += 1e3 + 100 * np.arange(7)[:, None, None]
    pooled = batch_statistics.start(
      {"norm": {"mean": jnp.zeros(3), "var": jnp.ones(3)}, "seen": jnp.ones(())}
    )
    add = jax.jit(batch_statistics.add)
    for number, batch in enumerate(data):
      pooled = add(
        pooled,
        {
          "norm": {
            "mean": jnp.asarray(batch.mean(0), jnp.float32),
            "var": jnp.asarray(batch.var(0), jnp.float32),
          },
          "seen": jnp.asarray(number, jnp.float32),
        },
      )
    stats = batch_statistics.finish(pooled)
    rows = data.reshape(35, 3)
    np.testing.assert_allclose(stats["norm"]["mean"], rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["norm"]["var"], rows.var(0), rtol=1e-5)
    # Whatever is neither is averaged.
    self.assertAlmostEqual(float(stats["seen"]), 3.0, places=6)
