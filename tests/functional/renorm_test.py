"""Batch renormalization: r, d, their limits and their derivatives."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from tests import reference

MEANS = (0.0, 1e6)
LIMITS = {"none": (1e9, 1e9), "some": (1.2, 0.3), "all": (1.0, 0.0)}
train = functools.partial(normjax.batch_renorm, use_running_average=False)


def normal(shape, mean=0.0, seed=0):
  random = np.random.default_rng(seed)
  return (mean + random.standard_normal(shape)).astype(np.float32)


def problem(mean=0.0, shape=(12, 3, 4)):
  """Returns x, scale, bias, and running statistics near those of x."""
  spread = np.float32([0.5, 1, 2, 4])
  x = np.float32(mean) + normal(shape) * spread
  near = np.float32(mean) + normal(4, seed=3)
  stats = normjax.BatchStats(near, np.float32([0.3, 0.9, 5, 14]))
  return x, normal(4, 1, seed=1), normal(4, seed=2), stats


def expected(x, scale, bias, stats, r_max, d_max, mask=None, epsilon=1e-5):
  """Returns the `Result` in float64; r and d are constants."""
  axes = tuple(range(x.ndim - 1))
  mean, var = reference.mean_and_var(x, axes, mask)
  old_mean, old_var = (np.float64(value) for value in stats)
  deviation = np.sqrt(old_var + epsilon)
  r = np.clip(np.sqrt(var + epsilon) / deviation, 1 / r_max, r_max)
  d = np.clip((mean - old_mean) / deviation, -d_max, d_max)
  h, derivative = reference.standardize(x, axes, epsilon=epsilon, mask=mask)
  corrected = reference.counted(h * r + d, mask)
  return reference.affine(
    corrected, lambda dy: r * derivative(dy), scale, bias, -1
  )


def masks(x, masked):
  return np.random.default_rng(7).random(x.shape) < 0.7 if masked else None


class ReferenceTest(parameterized.TestCase):
  @parameterized.product(limits=(*LIMITS,), masked=(False, True))
  def test_output_statistics_and_derivatives(self, limits, masked):
    x, scale, bias, stats = problem(1e6)
    r_max, d_max = LIMITS[limits]
    mask = masks(x, masked)
    dirty = x if mask is None else np.where(mask, x, np.float32(np.nan))
    dy = normal(x.shape, seed=5)

    @jax.jit
    def run(x, scale, bias, dy):
      norm = functools.partial(
        train, stats=stats, r_max=r_max, d_max=d_max, mask=mask, momentum=0.9
      )
      y, pullback, new = jax.vjp(norm, x, scale, bias, has_aux=True)
      _, pushed = jax.jvp(lambda x: norm(x, scale, bias)[0], (x,), (dy,))
      return y, new, pullback(dy), pushed

    y, new, gradients, pushed = run(dirty, scale, bias, dy)
    wanted = expected(x, scale, bias, stats, r_max, d_max, mask)
    self.assertLessEqual(reference.relative_error(y, wanted.y), 2e-6)
    for gradient, want in zip(gradients, wanted.pullback(dy), strict=True):
      self.assertLess(reference.relative_error(gradient, want), 1e-5)
    self.assertLess(
      reference.relative_error(pushed, wanted.pushforward(dy)), 1e-5
    )
    if mask is not None:
      np.testing.assert_array_equal(
        np.asarray(y)[~mask], np.broadcast_to(bias, x.shape)[~mask]
      )
    old = reference.running_statistics(x, stats, momentum=0.9, mask=mask)
    np.testing.assert_allclose(new.mean, old[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(new.var, old[1], rtol=1e-6)

  @parameterized.parameters(*MEANS)
  def test_without_limits_it_is_evaluation(self, mean):
    x, scale, bias, stats = problem(mean)
    y, _ = train(x, scale, bias, stats, r_max=1e9, d_max=1e9)
    z, same = normjax.batch_renorm(
      x, scale, bias, stats, use_running_average=True
    )
    np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(same, stats)
    chex.assert_trees_all_equal(
      z, normjax.batch_norm(x, scale, bias, stats, use_running_average=True)[0]
    )

  @parameterized.parameters(*MEANS)
  def test_at_one_and_zero_it_is_batch_norm(self, mean):
    x, scale, bias, stats = problem(mean)
    y, new = train(x, scale, bias, stats, r_max=1.0, d_max=0.0)
    expected, kept = normjax.batch_norm(
      x, scale, bias, stats, use_running_average=False
    )
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(new, kept, rtol=1e-6)

  def test_by_hand(self):
    """Mean 5 and deviation 2, against 1 and 1: r is 2, d is 4."""
    x = jnp.array([[3.0], [7.0]])
    stats = normjax.BatchStats(jnp.ones(1), jnp.ones(1))
    for r_max, d_max, y in (
      (9.0, 9.0, (2, 6)),
      (1.5, 9.0, (2.5, 5.5)),
      (9.0, 3.0, (1, 5)),
      (1.0, 0.0, (-1, 1)),
    ):
      found, _ = train(x, stats=stats, r_max=r_max, d_max=d_max, epsilon=1e-9)
      np.testing.assert_allclose(found[:, 0], y, rtol=1e-6)


class StatisticsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("debiased", normjax.DebiasedStats(np.zeros(4, np.float32),
                                       np.ones(4, np.float32),
                                       np.zeros(4, np.float32))),
    ("moments", normjax.Moments.empty((4,))),
  )  # fmt: skip
  def test_nothing_is_corrected_before_the_first_batch(self, stats):
    x, *_ = problem(100.0)
    y, stats = train(x, stats=stats)
    z, _ = normjax.batch_norm(x, use_running_average=False)
    np.testing.assert_allclose(y, z, rtol=1e-6, atol=1e-6)
    y, _ = train(2 * x - 100, stats=stats)
    self.assertGreater(np.max(np.abs(y - z)), 0.5)

  def test_an_empty_or_infinite_channel(self):
    x, scale, bias, stats = problem()
    x[..., 1] = np.inf
    x[..., 2] *= 1e30
    mask = np.arange(4) > 0
    y, new = train(x, scale, bias, stats, mask=mask)
    self.assertTrue(np.isnan(y[..., 1]).all())
    for channel in (0, 2):
      np.testing.assert_array_equal(y[..., channel], bias[channel])
    for old, now in zip(stats, new, strict=True):
      np.testing.assert_array_equal(now[:3], old[:3])
      self.assertNotEqual(now[3], old[3])

  def test_complex(self):
    x, *_ = problem()
    z = (x + 1j * np.roll(x, 1, 0)).astype(np.complex64)
    stats = normjax.BatchStats(
      np.full(4, 3 - 4j, np.complex64), np.ones(4, np.float32)
    )
    # The running mean mixes real and complex numbers.
    with jax.numpy_dtype_promotion("standard"):
      y, _ = train(z, stats=stats, r_max=1.0, d_max=0.5)
      h, _ = normjax.batch_norm(z, use_running_average=False)
    d = np.mean(z, (0, 1)) - stats.mean
    np.testing.assert_allclose(
      y - h, np.broadcast_to(0.5 * d / np.abs(d), z.shape), atol=1e-5
    )

  @parameterized.parameters(jnp.bfloat16, jnp.float16)
  def test_half_precision_is_rounded_once(self, dtype):
    x, scale, bias, stats = problem()
    x = jnp.asarray(x, dtype)
    y, _ = train(x, scale, bias, stats)
    self.assertEqual(y.dtype, dtype)
    wide, _ = train(x.astype(jnp.float32), scale, bias, stats)
    chex.assert_trees_all_equal(y, wide.astype(dtype))


class TransformationsTest(parameterized.TestCase):
  def test_limits_may_be_traced(self):
    x, scale, bias, stats = problem()
    run = jax.jit(lambda r, d: train(x, scale, bias, stats, r_max=r, d_max=d))
    for r_max, d_max in LIMITS.values():
      chex.assert_trees_all_close(
        run(r_max, d_max),
        train(x, scale, bias, stats, r_max=r_max, d_max=d_max),
        rtol=1e-6,
        atol=1e-6,
      )

  def test_vmap(self):
    x, scale, bias, stats = problem()
    xs = np.stack([x, 3 * x + 1])
    limits = np.float32([1.1, 3])
    ys, _ = jax.vmap(lambda x, r: train(x, scale, bias, stats, r_max=r))(
      xs, limits
    )
    for y, x, r_max in zip(ys, xs, limits, strict=True):
      z, _ = train(x, scale, bias, stats, r_max=r_max)
      np.testing.assert_allclose(y, z, rtol=1e-6, atol=1e-6)

  def test_seven_axes(self):
    x, scale, bias, stats = problem(shape=(2, 1, 3, 2, 1, 2, 4))

    def loss(norm, x, scale):
      return jnp.sum(jnp.sin(norm(x, scale, bias, stats)[0]))

    flat = jax.grad(loss, (1, 2))(train, x.reshape(-1, 4), scale)
    deep = jax.grad(loss, (1, 2))(train, x, scale)
    np.testing.assert_allclose(deep[0].reshape(-1, 4), flat[0], atol=1e-5)
    np.testing.assert_allclose(deep[1], flat[1], rtol=1e-4)


class LimitsTest(parameterized.TestCase):
  def test_the_schedules_of_the_paper(self):
    steps = np.array([0, 5_000, 15_000, 25_000, 40_000, 10**6])
    for schedule in (jax.jit, jax.vmap):
      np.testing.assert_allclose(
        schedule(normjax.renorm_r_max)(steps),
        [1, 1, 1 + 2 * 10 / 35, 1 + 2 * 20 / 35, 3, 3],
        rtol=1e-6,
      )
      np.testing.assert_allclose(
        schedule(normjax.renorm_d_max)(steps), [0, 0, 2.5, 5, 5, 5], rtol=1e-6
      )
    shorter = functools.partial(
      normjax.renorm_d_max, final=2.0, begin=0, end=10
    )
    self.assertEqual(shorter(5), 1)

  @parameterized.parameters(
    ({"r_max": 0.5}, "r_max must be a number of at least 1, got 0.5"),
    ({"d_max": -1.0}, "d_max must be a number of at least 0, got -1"),
    ({"r_max": np.nan}, "at least 1, got nan"),
    ({"d_max": None}, "at least 0, got None"),
    ({"r_max": np.ones(4)}, r"at least 1, got \[1"),
    ({"stats": None}, r"stats=None. Start with normjax.BatchStats"),
  )
  def test_errors(self, options, message):
    x, *_, stats = problem()
    options = {"stats": stats} | options
    for call in (train, jax.jit(lambda x: train(x, **options))):
      with self.assertRaisesRegex(ValueError, message):
        call(x, **(options if call is train else {}))
