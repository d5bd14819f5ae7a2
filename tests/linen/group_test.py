"""Layouts and errors of group norm and instance norm."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from normjax.linen import GroupNorm, InstanceNorm

KEY = jax.random.key(0)
X = jnp.asarray(
  np.random.default_rng(0).normal(size=(2, 5, 3, 6)).astype("float32")
)


class GroupNormTest(parameterized.TestCase):
  @parameterized.parameters(1, -3)
  def test_channels_first_is_channels_last_transposed(self, axis):
    module = GroupNorm(num_groups=3)
    expected, variables = module.init_with_output(KEY, X)
    first = GroupNorm(num_groups=3, channel_axis=axis)
    y, first_variables = first.init_with_output(KEY, jnp.moveaxis(X, -1, 1))
    np.testing.assert_allclose(jnp.moveaxis(y, 1, -1), expected, atol=1e-6)
    chex.assert_trees_all_equal(first_variables, variables)

  def test_groups_that_do_not_divide_are_refused(self):
    with self.assertRaisesRegex(ValueError, "num_groups=32 does not divide"):
      GroupNorm().init(KEY, X)

  def test_mask_may_be_narrower_than_the_channels(self):
    module = GroupNorm(num_groups=3)
    variables = module.init(KEY, X)
    mask = np.random.default_rng(1).random((2, 5, 3, 1)) < 0.5
    np.testing.assert_allclose(  # XLA may add in another order.
      module.apply(variables, X, mask=mask),
      module.apply(variables, X, mask=np.broadcast_to(mask, X.shape)),
      atol=1e-6,
    )


class InstanceNormTest(parameterized.TestCase):
  def test_vectors_are_refused(self):
    with self.assertRaisesRegex(ValueError, "spatial axis"):
      InstanceNorm().init(KEY, X[:, 0, 0])

  def test_group_norm_of_single_channels_is_instance_norm(self):
    y, _ = InstanceNorm().init_with_output(KEY, X)
    expected, _ = GroupNorm(num_groups=6).init_with_output(KEY, X)
    np.testing.assert_allclose(y, expected, atol=1e-6)
