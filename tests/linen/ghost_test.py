"""Ghost batch norm as a module: its variables are those of batch norm."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from normjax.linen import BatchNorm, GhostBatchNorm
from tests.linen.cases import call

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (40, 6))
TRAIN = functools.partial(GhostBatchNorm, use_running_average=False)


class GhostTest(parameterized.TestCase):
  @parameterized.parameters(40, 20)
  def test_one_ghost_is_batch_norm_and_two_are_not(self, size):
    whole = BatchNorm(use_running_average=False, momentum=0.9)
    variables = whole.init(KEY, X)
    expected, updates = call(whole, variables, X)
    ghost = TRAIN(ghost_size=size, momentum=0.9)
    chex.assert_trees_all_equal(ghost.init(KEY, X), variables)
    y, found = call(ghost, variables, X)
    chex.assert_trees_all_close(found, updates, rtol=1e-6, atol=1e-7)
    self.assertEqual(bool(jnp.abs(y - expected).max() < 1e-5), size == 40)
    np.testing.assert_allclose(y.reshape(-1, size, 6).mean(1), 0, atol=1e-6)

  def test_evaluates_any_number_of_examples(self):
    variables = TRAIN().init(KEY, X)
    _, updates = call(TRAIN(ghost_size=8), variables, X)
    variables = {**variables, **updates}
    y = GhostBatchNorm(True, ghost_size=7).apply(variables, X[:3])
    chex.assert_trees_all_equal(y, BatchNorm(True).apply(variables, X[:3]))

  @parameterized.parameters((1, 6), (3, 2, 6))
  def test_any_number_of_examples_initializes(self, *shape):
    chex.assert_trees_all_equal(
      TRAIN().init(KEY, jnp.ones(shape)), TRAIN().init(KEY, X)
    )

  def test_debias(self):
    norm = TRAIN(ghost_size=8, debias=True)
    _, updates = call(norm, norm.init(KEY, X), X)
    np.testing.assert_allclose(
      updates["batch_stats"]["mean"], X.mean(0), atol=1e-6
    )
