"""Batch norm over parts of the batch."""

import jax
import numpy as np
from absl.testing import absltest

from experiments.regularize.ghost import GhostBatchNorm
from normjax.linen import BatchNorm


class GhostTest(absltest.TestCase):
  def test_one_ghost_is_batch_norm_and_two_are_not(self):
    x = jax.random.normal(jax.random.key(1), (40, 6))
    whole = BatchNorm(use_running_average=False, momentum=0.9)
    variables = whole.init(jax.random.key(0), x)
    expected, updates = whole.apply(variables, x, mutable=["batch_stats"])
    for size in (40, 20):
      ghost = GhostBatchNorm(size=size, use_running_average=False)
      y, found = ghost.apply(variables, x, mutable=["batch_stats"])
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, updates
      )
      if size == 40:
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
      halves = y.reshape(-1, size, 6)
      np.testing.assert_allclose(halves.mean(axis=1), 0, atol=1e-6)
    self.assertGreater(np.abs(y - expected).max(), 0.01)
    evaluated = GhostBatchNorm(size=7, use_running_average=True).apply(
      variables, x
    )
    np.testing.assert_allclose(
      evaluated, BatchNorm(True).apply(variables, x), rtol=1e-6
    )


if __name__ == "__main__":
  absltest.main()
