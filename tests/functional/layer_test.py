import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from tests import reference


def normal(shape, mean=0.0, seed=0):
  random = np.random.default_rng(seed)
  return (mean + random.standard_normal(shape)).astype(np.float32)


class LayerNormTest(parameterized.TestCase):
  def assert_exact(self, y, expected):
    self.assertLessEqual(reference.scaled_error(y, expected), 4e-6)

  def test_annotated_transformer(self):
    # scale * (x - mean) / (std + eps) + bias, std with n - 1, as in
    # https://nlp.seas.harvard.edu/annotated-transformer.
    x = normal((5, 8), 3.0) * np.float32(0.1)
    scale, bias = normal(8, seed=1), normal(8, seed=2)
    for epsilon in (1e-6, 0.1):
      y = normjax.layer_norm(
        x, scale, bias, epsilon=epsilon, ddof=1, epsilon_outside_sqrt=True
      )
      wide = np.float64(x)
      centered = wide - wide.mean(-1, keepdims=True)
      std = wide.std(-1, ddof=1, keepdims=True)
      self.assert_exact(y, scale * centered / (std + epsilon) + bias)

  def test_elementwise_affine(self):
    # torch.nn.LayerNorm((3, 4, 5)): a gain for every element.
    x = normal((2, 3, 4, 5), 7.0)
    scale, bias = normal((3, 4, 5), seed=1), normal((3, 4, 5), seed=2)
    y = normjax.layer_norm(
      x, scale, bias, reduction_axes=(1, 2, 3), feature_axes=(1, 2, 3),
      epsilon=1e-5,
    )  # fmt: skip
    wide = np.float64(x)
    over = {"axis": (1, 2, 3), "keepdims": True}
    standard = (wide - wide.mean(**over)) / np.sqrt(wide.var(**over) + 1e-5)
    self.assert_exact(y, standard * scale + bias)

  def test_parameters_follow_ascending_axes(self):
    x = normal((2, 3, 4))
    scale = normal((2, 4), seed=1)
    for axes in ((0, 2), (2, 0), (-1, 0)):
      y = normjax.layer_norm(x, scale, feature_axes=axes)
      self.assert_exact(y, reference.layer_norm(x).y * scale[:, None])

  def test_channels_first_is_channels_last_transposed(self):
    x = normal((2, 3, 4, 6), 5.0)
    scale, bias = normal(6, seed=1), normal(6, seed=2)
    for axes_last, axes_first in ((-1, 1), ((1, 2, 3), (1, 2, 3))):
      last = normjax.layer_norm(x, scale, bias, reduction_axes=axes_last)
      first = normjax.layer_norm(
        np.moveaxis(x, -1, 1), scale, bias, reduction_axes=axes_first,
        feature_axes=1,
      )  # fmt: skip
      np.testing.assert_allclose(
        np.moveaxis(np.asarray(first), 1, -1), last, rtol=2e-6, atol=2e-6
      )

  def test_scale_offset(self):
    # https://github.com/linkedin/Liger-Kernel/issues/74: Gemma's gain is one
    # plus scale; https://github.com/NVIDIA/TransformerEngine/issues/789: in
    # bfloat16, 1 + 0.0035 is 1.
    x = normal((4, 256))
    scale = np.full(256, 0.0035, jnp.bfloat16)
    gain = 1 + np.float64(scale)
    y = normjax.layer_norm(x, scale, scale_offset=1.0)
    self.assert_exact(y, reference.layer_norm(x).y * gain)
    y = normjax.rms_norm(x, scale, scale_offset=1.0)
    self.assert_exact(y, reference.rms_norm(x).y * gain)
    half = x.astype(jnp.bfloat16)
    y = normjax.rms_norm(half, scale, scale_offset=1.0)
    expected = reference.rms_norm(half).y * gain
    error = np.abs(np.float64(y) - expected)
    self.assertLessEqual((error / np.abs(expected)).max(), 2.0**-8)
    with jax.disable_jit():  # The compiler may keep more digits than asked.
      y = normjax.layer_norm(jnp.asarray(x), jnp.asarray(scale),
                             scale_offset=1.0)  # fmt: skip
    self.assert_exact(y, reference.layer_norm(x).y * gain)

  def test_scale_offset_without_scale_is_no_gain(self):
    x = normal((2, 5))
    y = normjax.layer_norm(x, scale_offset=1.0)
    np.testing.assert_array_equal(y, normjax.layer_norm(x))

  def test_equals_other_norms(self):
    x = normal((3, 4, 6), 9.0)
    over_all = normjax.layer_norm(x, reduction_axes=(1, 2))
    one_group = normjax.group_norm(x, num_groups=1)
    np.testing.assert_allclose(over_all, one_group, rtol=1e-6, atol=1e-6)
    channels = normjax.group_norm(x, num_groups=6)
    instance = normjax.instance_norm(x)
    np.testing.assert_allclose(channels, instance, rtol=1e-6, atol=1e-6)
    centered = x - x.mean(-1, keepdims=True)
    rms = normjax.rms_norm(centered)
    np.testing.assert_allclose(rms, normjax.layer_norm(x), rtol=1e-5, atol=1e-5)


class RmsNormTest(parameterized.TestCase):
  def test_by_hand(self):
    x = np.array([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    y = normjax.rms_norm(x, np.array([1, 2, 3, 4], np.float32), epsilon=1e-12)
    np.testing.assert_allclose(y, [[1.2, 3.2, 0, 0], [0] * 4], rtol=1e-6)

  def test_epsilon_is_under_the_root(self):
    # With PyTorch's eps=None written out.
    for epsilon in (1.1920929e-7, 0.5):
      x = normal((3, 7)) * np.float32(1e-3)
      y = normjax.rms_norm(x, epsilon=epsilon)
      wide = np.float64(x)
      expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + epsilon)
      self.assertLessEqual(reference.scaled_error(y, expected), 2e-6)

  def test_does_not_center(self):
    x = np.full((1, 4), 5.0, np.float32)
    np.testing.assert_allclose(normjax.rms_norm(x), np.ones((1, 4)), rtol=1e-6)
