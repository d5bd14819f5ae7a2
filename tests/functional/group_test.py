import numpy as np
from absl.testing import parameterized

import normjax
from tests import reference


def normal(shape, mean=0.0, seed=0):
  random = np.random.default_rng(seed)
  return (mean + random.standard_normal(shape)).astype(np.float32)


class GroupNormTest(parameterized.TestCase):
  def assert_exact(self, y, expected):
    self.assertLessEqual(reference.scaled_error(y, expected), 4e-6)

  @parameterized.parameters(1, 2, 3, 4, 6, 12)
  def test_groups_are_adjacent_channels(self, groups):
    x = normal((2, 3, 12)) + np.arange(12, dtype=np.float32) * 10
    y = normjax.group_norm(x, num_groups=groups)
    size = 12 // groups
    same = normjax.group_norm(x, num_groups=None, group_size=size)
    np.testing.assert_array_equal(y, same)
    for start in range(0, 12, size):
      part = x[..., start : start + size]
      expected, _ = reference.standardize(part, (1, 2))
      self.assert_exact(y[..., start : start + size], expected)

  def test_default_is_32_groups(self):
    x = normal((2, 3, 64))
    expected = normjax.group_norm(x, num_groups=None, group_size=2)
    np.testing.assert_array_equal(normjax.group_norm(x), expected)

  @parameterized.parameters(((-1,),), ((2, -1),), ((0, 1, 2, 3),), ((1, 3),))
  def test_reduction_axes(self, axes):
    # Flax NNX is wrong by 11.9 at reduction_axes=(-1,).
    x = normal((2, 3, 4, 6), 5.0)
    scale = normal(6, seed=1)
    y = normjax.group_norm(x, scale, num_groups=3, reduction_axes=axes)
    expected = reference.group_norm(x, scale, num_groups=3, reduction_axes=axes)
    self.assert_exact(y, expected.y)

  @parameterized.parameters(1, -3, 2)
  def test_channels_elsewhere(self, channel_axis):
    x = normal((2, 4, 5, 6), 3.0)
    scale, bias = normal(6, seed=1), normal(6, seed=2)
    last = normjax.group_norm(x, scale, bias, num_groups=2)
    moved = np.moveaxis(x, -1, channel_axis)
    y = normjax.group_norm(
      moved, scale, bias, num_groups=2, channel_axis=channel_axis
    )
    np.testing.assert_allclose(
      np.moveaxis(np.asarray(y), channel_axis, -1), last, rtol=2e-6, atol=2e-6
    )

  def test_vectors(self):
    x = normal((5, 12), 3.0)
    y = normjax.group_norm(x, num_groups=3)
    expected, _ = reference.standardize(x.reshape(5, 3, 4), (2,))
    self.assert_exact(y, expected.reshape(5, 12))

  def test_a_mask_by_channel(self):
    x = normal((2, 5, 6), 3.0)
    mask = np.array([True, False, True, True, False, False])
    y = np.asarray(normjax.group_norm(x, num_groups=2, mask=mask))
    expected, _ = reference.standardize(x[..., [0, 2]], (1, 2))
    self.assert_exact(y[..., [0, 2]], expected)
    np.testing.assert_array_equal(y[..., ~mask], 0)


class InstanceNormTest(parameterized.TestCase):
  @parameterized.parameters((-1, (1, 2)), (1, (2, 3)), ((1, -1), (2,)))
  def test_channels(self, channel_axis, spatial):
    x = normal((2, 3, 4, 5), 7.0)
    shape = tuple(x.shape[i] for i in np.atleast_1d(channel_axis))
    scale, bias = normal(shape, seed=1), normal(shape, seed=2)
    y = normjax.instance_norm(x, scale, bias, channel_axis=channel_axis)
    wide = np.float64(x)
    standard = wide - wide.mean(spatial, keepdims=True)
    standard /= np.sqrt(wide.var(spatial, keepdims=True) + 1e-6)
    others = tuple(
      i for i in range(4)
      if i not in [a % 4 for a in np.atleast_1d(channel_axis)]
    )  # fmt: skip
    expected = standard * np.expand_dims(scale, others)
    expected = expected + np.expand_dims(bias, others)
    self.assertLessEqual(reference.scaled_error(y, expected), 4e-6)
