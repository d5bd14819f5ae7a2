"""Every norm against float64, where float32 is known to run out of digits."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from tests import cases, reference

MEANS = (0.0, 1e2, 1e3, 1e4, 1e5, 1e6)
TOLERANCE = 2e-6
CORE = (*cases.KINDS, cases.ANNOTATED_TRANSFORMER)


@contextlib.contextmanager
def float64():
  jax.config.update("jax_enable_x64", True)
  try:
    yield
  finally:
    jax.config.update("jax_enable_x64", False)


def spacing(y, dtype):
  """Returns the distance between neighbours of `y` in a narrow dtype."""
  info = jnp.finfo(dtype)
  y = np.maximum(np.abs(y), float(info.tiny))
  return np.exp2(np.floor(np.log2(y))) * float(info.eps)


class ExactnessTest(parameterized.TestCase):
  def assert_exact(self, y, expected, tolerance=TOLERANCE):
    self.assertLessEqual(reference.scaled_error(y, expected), tolerance)

  @parameterized.named_parameters(cases.named(cases.CASES, *MEANS))
  def test_any_mean(self, case, mean):
    x = case.input(mean)
    scale, bias = case.parameters()
    self.assert_exact(case.apply(x), case.expect(x).y)
    # Scaling rounds once more, in units of what is added up.
    unit = 1.0 if scale is None else max(1, np.abs(scale).max())
    y = case.apply(x, scale, bias)
    expected = case.expect(x, scale, bias).y
    self.assert_exact(y, expected, TOLERANCE * unit)
    self.assertEqual(y.dtype, x.dtype)

  @parameterized.product(
    size=(2, 3, 5, 64, 1000, 65536), mean=(0.0, 1e2, 1e4, 1e6)
  )
  def test_any_group_size(self, size, mean):
    random = np.random.default_rng(size)
    x = (mean + random.standard_normal((4, size))).astype(np.float32)
    self.assert_exact(normjax.layer_norm(x), reference.layer_norm(x).y)
    self.assert_exact(normjax.rms_norm(x), reference.rms_norm(x).y)
    columns = x.T.copy()
    y, stats = normjax.batch_norm(columns, use_running_average=False)
    self.assert_exact(y, reference.batch_norm(columns).y)
    _, var = reference.running_statistics(columns, None)
    np.testing.assert_allclose(stats.var, var, rtol=2e-6)
    image = x.reshape(2, size, 2)
    y = normjax.instance_norm(image)
    self.assert_exact(y, reference.instance_norm(image).y)
    y = normjax.group_norm(image, num_groups=1)
    self.assert_exact(y, reference.group_norm(image, num_groups=1).y)

  @parameterized.product(
    position=(0, 1, 500, 999),
    outlier=(-1e6, -1e3, 1e3, 1e6),
    mean=(0.0, 1e4, 1e6),
  )
  def test_an_outlier_anywhere(self, position, outlier, mean):
    x = np.random.default_rng(0).standard_normal((4, 1000)) + mean
    x[:, position] += outlier
    x = x.astype(np.float32)
    self.assert_exact(normjax.layer_norm(x), reference.layer_norm(x).y)
    mask = np.random.default_rng(1).random(x.shape) < 0.7
    self.assert_exact(
      normjax.layer_norm(x, mask=mask), reference.layer_norm(x, mask=mask).y
    )

  @parameterized.parameters(1e1, 1e3, 1e6)
  def test_halves_with_means_far_apart(self, gap):
    x = np.random.default_rng(0).standard_normal((4, 1000)) + 1e3
    x[:, 500:] += gap
    x = x.astype(np.float32)
    self.assert_exact(normjax.layer_norm(x), reference.layer_norm(x).y)

  def test_randn_plus_2000(self):
    # https://github.com/pytorch/pytorch/issues/51102 and 40302: off by
    # hundreds; flax.linen and jax.nn.standardize are off by 1.4.
    x = np.random.default_rng(0).standard_normal((16, 1024)) + 2000
    x = x.astype(np.float32)
    self.assert_exact(normjax.layer_norm(x), reference.layer_norm(x).y)

  @parameterized.named_parameters(cases.named(cases.CASES))
  def test_rows_a_unit_in_the_last_place_from_constant(self, case):
    # https://github.com/google/flax/issues/1491,
    # https://github.com/jax-ml/jax/issues/30426,
    # https://github.com/keras-team/keras/pull/18795: variance below zero.
    for value in (1.0, 300.1, 1e4, 1e6):
      x = np.full(case.shape, value, np.float32)
      x.flat[::5] = np.nextafter(np.float32(value), np.float32(np.inf))
      for epsilon in (1e-6, 1e-12):
        y = case.apply(x, epsilon=epsilon)
        self.assert_exact(y, case.expect(x, epsilon=epsilon).y)

  @parameterized.named_parameters(
    cases.named([case for case in CORE if case.centered])
  )
  def test_constant_groups_are_exactly_the_bias(self, case):
    # https://github.com/keras-team/keras/issues/22586: NaN at epsilon 1e-12.
    scale, bias = case.parameters()
    expected = case.expect(np.zeros(case.shape), scale, bias).y
    mask = np.random.default_rng(0).random(case.shape) < 0.7
    for value in (0.0, 0.1, -123.456, 1e4 / 7, 1e6 + 0.1875):
      x = np.full(case.shape, value, np.float32)
      for epsilon in (1e-6, 1e-30):
        for options in ({}, {"mask": mask}):
          y = case.apply(x, scale, bias, epsilon=epsilon, **options)
          np.testing.assert_array_equal(y, expected)

  @parameterized.parameters(1e-12, 1e-30)
  def test_tiny_epsilon(self, epsilon):
    # https://github.com/keras-team/keras/issues/22586.
    x = cases.LAYER.input(1e4)
    y = normjax.layer_norm(x, epsilon=epsilon)
    self.assert_exact(y, reference.layer_norm(x, epsilon=epsilon).y)
    x = cases.LAYER.input(0, 1e-4)
    y = normjax.layer_norm(x, epsilon=epsilon)
    self.assert_exact(y, reference.layer_norm(x, epsilon=epsilon).y)
    half = x.astype(np.float16)
    y = normjax.layer_norm(half, epsilon=epsilon)
    expected = reference.layer_norm(half, epsilon=epsilon).y
    error = np.abs(np.asarray(y, np.float64) - expected)
    self.assertLessEqual((error / spacing(expected, y.dtype)).max(), 1.0)

  @parameterized.named_parameters(cases.named(cases.CASES))
  def test_epsilon_counts(self, case):
    x = case.input()
    y = case.apply(x, epsilon=0.5)
    self.assert_exact(y, case.expect(x, epsilon=0.5).y)

  @parameterized.named_parameters(cases.named(CORE))
  def test_eager_equals_jitted(self, case):
    # https://github.com/jax-ml/jax/issues/37281: a difference of 3e-3.
    x = case.input(1e4)
    scale, bias = case.parameters()
    jitted = jax.jit(lambda x: case.apply(x * 1.0, scale, bias) * 1.0)(x)
    with jax.disable_jit():
      eager = case.apply(jnp.asarray(x), scale, bias)
    np.testing.assert_allclose(eager, jitted, rtol=1e-6, atol=1e-6)

  @parameterized.named_parameters(cases.named(CORE))
  def test_float64_stays_float64(self, case):
    x = case.input(1e6, dtype=np.float64)
    scale, bias = case.parameters(dtype=np.float64)
    with float64():
      y = case.apply(x, scale, bias)
      self.assertEqual(y.dtype, np.float64)
      expected = case.expect(x, scale, bias).y
    # The reference loses six of sixteen digits to a mean of 1e6.
    self.assert_exact(y, expected, 1e-9)

  @parameterized.named_parameters(cases.named(CORE))
  def test_complex(self, case):
    x = case.input(1e4) + 1j * case.input(1e4, seed=1)
    scale, bias = case.parameters()
    y = case.apply(x.astype(np.complex64), scale, bias)
    expected = case.expect(x.astype(np.complex64), scale, bias).y
    self.assertEqual(y.dtype, np.complex64)
    self.assert_exact(y, expected, 3 * TOLERANCE)


class HalfPrecisionTest(parameterized.TestCase):
  def assert_one_rounding(self, y, expected):
    self.assertTrue(np.all(np.isfinite(y.astype(np.float32))))
    error = np.abs(np.asarray(y, np.float64) - expected)
    worst = (error / spacing(expected, y.dtype)).max()
    self.assertLessEqual(worst, 1.0)

  @parameterized.product(
    case=cases.CASES,
    setting=(
      # https://github.com/google-deepmind/dm-haiku/issues/396,
      # https://github.com/google/flax/issues/612; Flax NNX errs by 3.94 at
      # mean 100, Haiku by 0.067 at mean 20.
      ("bfloat16", 0.0, 1.0),
      ("bfloat16", 20.0, 1.0),
      ("bfloat16", 100.0, 0.01),
      ("bfloat16", 1e15, 1e13),
      # https://github.com/young-geng/EasyLM/pull/50,
      # https://github.com/pytorch/pytorch/pull/133085: 300^2 is infinite.
      ("float16", 0.0, 1.0),
      ("float16", 300.0, 1.0),
      ("float16", 6e4, 100.0),
    ),
  )
  def test_one_rounding_from_float64(self, case, setting):
    dtype, mean, std = setting
    x = case.input(mean, std, dtype=jnp.dtype(dtype))
    y = case.apply(x)
    self.assertEqual(y.dtype, x.dtype)
    self.assert_one_rounding(y, case.expect(x).y)

  @parameterized.named_parameters(cases.named(cases.CASES))
  def test_mean_100_std_a_hundredth(self, case):
    # In float32; quantized to bfloat16 such an input is almost constant.
    x = case.input(100.0, 0.01)
    error = reference.scaled_error(case.apply(x), case.expect(x).y)
    self.assertLessEqual(error, TOLERANCE)

  @parameterized.product(case=cases.CASES, value=(300.0, -6e4))
  def test_large_constant_float16(self, case, value):
    x = np.full(case.shape, value, np.float16)
    y = case.apply(x)
    expected = 0.0 if case.centered else math.copysign(1, value)
    np.testing.assert_array_equal(y, np.full(case.shape, expected, np.float16))

  @parameterized.product(case=cases.CASES, dtype=("bfloat16", "float16"))
  def test_float32_parameters_are_not_rounded_first(self, case, dtype):
    x = case.input(3.0, dtype=jnp.dtype(dtype))
    scale, bias = case.parameters()
    y = case.apply(x, scale, bias)
    self.assertEqual(y.dtype, x.dtype)
    expected = case.expect(x, scale, bias).y
    error = np.abs(np.asarray(y, np.float64) - expected)
    # Where scale and bias cancel, an error of float32 remains.
    allowed = spacing(expected, y.dtype) + 4 * TOLERANCE
    self.assertLessEqual((error / allowed).max(), 1.0)

  def test_gradients_of_float16_at_6e4(self):
    x = np.random.default_rng(0).standard_normal((4, 64)) * 100 + 6e4
    x = x.astype(np.float16)
    dy = np.random.default_rng(1).standard_normal(x.shape).astype(np.float16)
    for norm, expected in (
      (normjax.layer_norm, reference.layer_norm(x)),
      (normjax.rms_norm, reference.rms_norm(x)),
    ):
      _, pullback = jax.vjp(norm, x)
      (dx,) = pullback(dy)
      self.assertEqual(dx.dtype, np.float16)
      expected = expected.pullback(dy)[0]
      error = np.abs(np.asarray(dx, np.float64) - expected)
      # Subnormal float16 numbers are 6e-8 apart.
      self.assertTrue(np.all(error <= 1e-3 * np.abs(expected) + 6e-8))
