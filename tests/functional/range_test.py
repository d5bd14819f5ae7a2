"""Finite input of any magnitude makes no NaN, with kernels and without."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from tests.cases import BATCH, GROUP, KINDS, LAYER, RMS, differentiable, named

MAGNITUDES = (1e19, 1e25, 1e30, 3.3e38)
# With a mask that is true everywhere, the formulas compute instead of kernels.
MASKS = {"kernels": {}, "formulas": {"mask": np.True_}}


def spread(case, magnitude):
  """Returns an input whose groups all have squares beyond float32."""
  random = np.random.default_rng(0)
  x = random.uniform(-1, 1, case.shape)
  return (magnitude * np.sign(x) * (0.5 + np.abs(x) / 2)).astype(np.float32)


class RangeTest(parameterized.TestCase):
  def run_each(self, case, options, inputs):
    """Yields y, dx, d_scale and d_bias for each input, compiled once."""
    given, apply = differentiable(case, *case.parameters(), **options)
    dy = case.input(seed=1)

    @jax.jit
    def run(x):
      y, vjp = jax.vjp(apply, x, *given)
      return y, *vjp(dy)

    for x in inputs:
      yield run(x)

  @parameterized.named_parameters(named(KINDS, *MASKS))
  def test_squares_beyond_range_give_the_bias_and_no_gradient(
    self, case, options
  ):
    _, bias = case.parameters()
    expected = np.broadcast_to(0 if bias is None else bias, case.shape)
    inputs = [spread(case, magnitude) for magnitude in MAGNITUDES[1:]]
    for y, dx, d_scale, *_ in self.run_each(case, MASKS[options], inputs):
      np.testing.assert_array_equal(y, expected)
      np.testing.assert_array_equal(dx, 0)
      np.testing.assert_array_equal(d_scale, 0)

  @parameterized.named_parameters(named(KINDS, *MASKS))
  def test_forward_mode_beyond_range(self, case, options):
    given, apply = differentiable(case, *case.parameters(), **MASKS[options])
    x = spread(case, 3.3e38)
    tangents = case.input(seed=1), *given
    y_dot = jax.jvp(apply, (x, *given), tangents)[1]
    self.assertTrue(np.isfinite(y_dot).all())

  @parameterized.named_parameters(
    named([case for case in KINDS if case.centered], *MASKS)
  )
  def test_constant_groups_are_the_bias(self, case, options):
    expected = np.broadcast_to(case.parameters()[1], case.shape)
    inputs = [
      np.full(case.shape, magnitude * 0.9876543, np.float32)
      for magnitude in (1e-30, 1.0, *MAGNITUDES)
    ]
    for y, dx, *_ in self.run_each(case, MASKS[options], inputs):
      np.testing.assert_array_equal(y, expected)
      self.assertTrue(np.isfinite(dx).all())

  @parameterized.named_parameters(named((LAYER, RMS, BATCH, GROUP), *MASKS))
  def test_other_groups_do_not_notice(self, case, options):
    ordinary = case.groups() != 0
    x = case.input()
    inputs = [
      x, *(np.where(ordinary, x, spread(case, size)) for size in MAGNITUDES)
    ]  # fmt: skip
    (y, dx, *_), *rest = self.run_each(case, MASKS[options], inputs)
    for results in rest:
      np.testing.assert_array_equal(results[0][ordinary], y[ordinary])
      np.testing.assert_array_equal(results[1][ordinary], dx[ordinary])
      for value in results:
        self.assertTrue(np.isfinite(value).all())

  @parameterized.named_parameters(named(KINDS, *MASKS))
  def test_infinity_that_counts_makes_nan_in_its_group_alone(
    self, case, options
  ):
    groups = case.groups()
    x = case.input()
    x[np.unravel_index(np.argmax(groups == 0), x.shape)] = np.inf
    y = case.apply(x, *case.parameters(), **MASKS[options])
    self.assertTrue(np.isnan(y[groups == 0]).any())
    self.assertTrue(np.isfinite(y[groups != 0]).all())

  def test_long_groups(self):
    """Their sums overflow long before their elements do."""
    x = jnp.full((2, 70_000), 1e35, jnp.float32)
    for options in MASKS.values():
      y = LAYER.function(x, epsilon=1e-30, **options)
      np.testing.assert_array_equal(y, 0)
