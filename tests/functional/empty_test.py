"""Arrays without elements, in every function, mode and derivative."""

import dataclasses

import jax
import numpy as np
from absl.testing import parameterized

import normjax
from tests.cases import KINDS, differentiable, named


def without(case, axis):
  """Returns the case with nothing along an axis."""
  shape = tuple(0 if i == axis else s for i, s in enumerate(case.shape))
  return dataclasses.replace(case, shape=shape)


class EmptyTest(parameterized.TestCase):
  @parameterized.named_parameters(named(KINDS))
  def test_values_and_gradients(self, case):
    scale, bias = case.parameters()
    features = () if scale is None else scale.shape
    for axis, size in enumerate(case.shape):
      if size in features or axis == case.channel_axis % len(case.shape):
        continue  # Parameters belong to it.
      for options in ({}, {"mask": np.True_}):
        with self.subTest(axis=axis, **options):
          empty = without(case, axis)
          given, apply = differentiable(empty, scale, bias, **options)
          x = empty.input()
          y, vjp = jax.vjp(apply, x, *given)
          self.assertEqual((y.shape, y.dtype), (x.shape, x.dtype))
          dx, *d_parameters = vjp(y)
          self.assertEqual(dx.shape, x.shape)
          for value in d_parameters:
            np.testing.assert_array_equal(value, 0)
          tangents = (x, *given)
          self.assertEqual(jax.jvp(apply, tangents, tangents)[1].shape, x.shape)

  def test_no_channels(self):
    x = np.zeros((3, 4, 0), np.float32)
    none = np.zeros(0, np.float32)
    for norm in (normjax.layer_norm, normjax.instance_norm):
      self.assertEqual(norm(x, none, none).shape, x.shape)
    y, stats = normjax.batch_norm(x, use_running_average=False)
    self.assertEqual((y.shape, stats.mean.shape), (x.shape, (0,)))

  def test_an_empty_batch_leaves_running_statistics_alone(self):
    old = normjax.BatchStats(np.float32([1, 2]), np.float32([3, 4]))
    x = np.zeros((0, 5, 2), np.float32)
    y, new = normjax.batch_norm(x, stats=old, use_running_average=False)
    self.assertEqual(y.shape, x.shape)
    for actual, expected in zip(new, old, strict=True):
      np.testing.assert_array_equal(actual, expected)
    y, _ = normjax.batch_norm(x, stats=old, use_running_average=True)
    self.assertEqual(y.shape, x.shape)

  def test_moments(self):
    m = normjax.moments(np.zeros((0, 2), np.float32), 0)
    for field in m:
      np.testing.assert_array_equal(field, [0, 0])
