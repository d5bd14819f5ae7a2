"""The options of layer norm and RMS norm that Flax does not have."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from flax import linen as nn

from normjax.linen import (
  BatchNorm,
  GroupNorm,
  InstanceNorm,
  LayerNorm,
  RMSNorm,
)

KEY = jax.random.key(0)
X = jnp.asarray(
  np.random.default_rng(0).normal(3.0, 2.0, (2, 5, 4)).astype("float32")
)


class ScaleOffsetTest(parameterized.TestCase):
  @parameterized.parameters(
    (LayerNorm, {}),
    (RMSNorm, {}),
    (BatchNorm, {"use_running_average": False}),
    (GroupNorm, {"num_groups": 2}),
    (InstanceNorm, {}),
  )
  def test_default_gain_starts_at_one(self, module, options):
    expected, _ = module(**options).init_with_output(KEY, X)
    for offset in (1.0, 0.25):
      y, variables = module(scale_offset=offset, **options).init_with_output(
        KEY, X
      )
      np.testing.assert_allclose(
        variables["params"]["scale"], np.full(4, 1 - offset), rtol=1e-6
      )
      np.testing.assert_allclose(y, expected, rtol=1e-6)

  def test_wrapped_default_initializer(self):
    init = nn.with_partitioning(nn.initializers.ones, ("model",))
    module = RMSNorm(scale_offset=1.0, scale_init=init)
    y, variables = module.init_with_output(KEY, X)
    self.assertEqual(variables["params"]["scale"].names, ("model",))
    np.testing.assert_array_equal(variables["params"]["scale"].value, 0)
    expected, _ = RMSNorm().init_with_output(KEY, X)
    np.testing.assert_array_equal(y, expected)

  def test_own_initializer_is_for_the_scale(self):
    module = RMSNorm(scale_offset=1.0, scale_init=nn.initializers.constant(2.0))
    y, variables = module.init_with_output(KEY, X)
    np.testing.assert_array_equal(variables["params"]["scale"], np.full(4, 2.0))
    expected, _ = RMSNorm().init_with_output(KEY, X)
    np.testing.assert_allclose(y, 3 * expected, rtol=1e-6)

  def test_offset_is_added_in_float32(self):
    """1 + 0.0035 is 1 in bfloat16."""
    module = LayerNorm(
      scale_offset=1.0,
      param_dtype=jnp.bfloat16,
      dtype=jnp.float32,
      scale_init=nn.initializers.constant(0.0035),
    )
    y, _ = module.init_with_output(KEY, X)
    plain, _ = LayerNorm().init_with_output(KEY, X)
    gain = 1 + float(jnp.bfloat16(0.0035))
    np.testing.assert_allclose(y, gain * plain, rtol=1e-6)


class LayerNormTest(parameterized.TestCase):
  @parameterized.parameters((0, False), (1, False), (0, True), (1, True))
  def test_divisor(self, ddof, outside):
    x = np.asarray(X, np.float64)
    var = x.var(-1, ddof=ddof, keepdims=True)
    divisor = np.sqrt(var) + 0.1 if outside else np.sqrt(var + 0.1)
    module = LayerNorm(epsilon=0.1, ddof=ddof, epsilon_outside_sqrt=outside)
    y, _ = module.init_with_output(KEY, X)
    np.testing.assert_allclose(
      y, (x - x.mean(-1, keepdims=True)) / divisor, atol=1e-6
    )

  def test_wrong_axis_is_reported_while_initializing(self):
    for options in ({"feature_axes": 3}, {"reduction_axes": (0, 0)}):
      with self.assertRaisesRegex(ValueError, "axes"):
        LayerNorm(**options).init(KEY, X)
