"""Decorrelated batch norm, against float64 NumPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from tests import reference

MEANS = (0.0, 1e2, 1e4, 1e6)


def normal(shape, mean=0.0, seed=0):
  random = np.random.default_rng(seed)
  return (mean + random.standard_normal(shape)).astype(np.float32)


def correlated(shape, mean=0.0, seed=0):
  """Returns correlated channels, with deviations of 1 to 3 along some axes."""
  vectors, _ = np.linalg.qr(normal((shape[-1], shape[-1]), seed=100))
  mix = (vectors * np.linspace(1, 3, shape[-1])) @ vectors.T
  return (mean + normal(shape, seed=seed) @ mix).astype(np.float32)


def duplicated(shape):
  x = normal(shape)
  x[..., 1] = x[..., 0]
  return x


def some_stats(channels, num_groups=1):
  size = channels // num_groups
  root = normal((num_groups, size, size), seed=8)
  cov = root @ root.swapaxes(-1, -2) + np.eye(size, dtype=np.float32)
  return normjax.WhiteningStats(normal(channels, seed=9), cov)


def train(x, *args, **options):
  return normjax.decorrelated_batch_norm(
    x, *args, use_running_average=False, **options
  )


def evaluate(x, *args, **options):
  return normjax.decorrelated_batch_norm(
    x, *args, use_running_average=True, **options
  )


def output(x, *args, **options):
  return train(x, *args, **options)[0]


def covariance(y, axes=(0,)):
  y = np.float64(y).reshape(-1, y.shape[-1])
  return np.cov(y, rowvar=False, ddof=0)


def gradient_of(function):
  """Returns a compiled function from x and dy to y and dx."""

  @jax.jit
  def run(x, dy):
    y, vjp = jax.vjp(function, x)
    return y, vjp(dy)[0]

  return run


class ValuesTest(parameterized.TestCase):
  @parameterized.product(num_groups=(1, 2), iterations=(None, 5))
  def test_matches_float64(self, **options):
    scale, bias = normal(6, seed=1), normal(6, seed=2)
    for mean in MEANS:
      x = correlated((8, 5, 6), mean)
      y = output(x, scale, bias, **options)
      expected = reference.whiten(x, scale, bias, **options).y
      self.assertLessEqual(reference.scaled_error(y, expected), 4e-6)

  def test_channels_come_out_white(self):
    x = correlated((500, 8), 3.0)
    cov = covariance(output(x, epsilon=1e-12))
    np.testing.assert_allclose(cov, np.eye(8), atol=2e-6)
    cov = covariance(output(x, epsilon=1e-12, group_size=4, num_groups=None))
    for group in (slice(0, 4), slice(4, 8)):
      np.testing.assert_allclose(cov[group, group], np.eye(4), atol=2e-6)
    self.assertGreater(np.abs(cov[:4, 4:]).max(), 0.1)

  def test_more_iterations_whiten_more(self):
    x = correlated((500, 8), 3.0)
    gaps = [
      np.abs(covariance(output(x, iterations=n)) - np.eye(8)).max()
      for n in (1, 20)
    ]
    self.assertEqual(gaps, sorted(gaps, reverse=True))
    self.assertLess(gaps[-1], 2e-5)

  def test_groups_of_one_channel_are_batch_norm(self):
    x = correlated((16, 3, 6), 1e3)
    scale, bias = normal(6, seed=1), normal(6, seed=2)
    y, stats = train(x, scale, bias, num_groups=6)
    expected, batch = normjax.batch_norm(
      x, scale, bias, use_running_average=False
    )
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(stats.mean, batch.mean)
    np.testing.assert_allclose(stats.cov[:, 0, 0], batch.var, rtol=1e-6)

  @parameterized.parameters(None, 5)
  def test_rotations_shifts_and_scales(self, iterations):
    """What tells ZCA from other ways to whiten: it turns with x."""
    x = correlated((64, 5))
    rotation, _ = np.linalg.qr(normal((5, 5), seed=1))
    white = functools.partial(output, iterations=iterations, epsilon=1e-12)
    y = np.asarray(white(x))
    np.testing.assert_allclose(white(x @ rotation), y @ rotation, atol=2e-5)
    np.testing.assert_allclose(white(64 * x), y, atol=1e-5)
    np.testing.assert_allclose(white(x + np.arange(5, dtype="f")), y, atol=1e-5)

  @parameterized.parameters(1, -3)
  def test_channels_elsewhere(self, axis):
    x = normal((4, 6, 3, 5), 2.0)
    scale, bias, old = normal(6, seed=1), normal(6, seed=2), some_stats(6, 2)
    first, stats_first = train(x, scale, bias, old, axis=axis, num_groups=2)
    last, stats_last = train(
      np.moveaxis(x, axis, -1), scale, bias, old, num_groups=2
    )
    np.testing.assert_allclose(
      np.moveaxis(np.asarray(first), axis, -1), last, atol=2e-6
    )
    chex.assert_trees_all_close(stats_first, stats_last, rtol=1e-6)

  def test_many_axes(self):
    x = normal((2, 2, 6, 1, 2, 3, 2, 2), 1e3)
    y = output(x, axis=2, num_groups=2)
    expected = reference.whiten(x, axis=2, num_groups=2).y
    self.assertLessEqual(reference.scaled_error(y, expected), 4e-6)

  @parameterized.parameters(jnp.bfloat16, jnp.float16)
  def test_half_precision_is_rounded_once(self, dtype):
    x = correlated((64, 6), 4.0).astype(dtype)
    scale, bias = normal(6, seed=1), normal(6, seed=2)
    y, stats = train(x, scale, bias)
    wide, expected = train(x.astype(jnp.float32), scale, bias)
    self.assertEqual(y.dtype, dtype)
    np.testing.assert_array_equal(y, wide.astype(dtype))
    chex.assert_trees_all_equal(stats, expected, strict=True)
    self.assertEqual(stats.cov.dtype, np.float32)

  def test_scale_offset(self):
    x, scale = correlated((16, 4)), normal(4, seed=1)
    np.testing.assert_allclose(
      output(x, scale, scale_offset=1.0), output(x, 1 + scale), rtol=1e-6
    )

  def test_empty(self):
    old = some_stats(4, 2)
    y, stats = train(np.zeros((0, 3, 4), "f"), stats=old, num_groups=2)
    self.assertEqual(y.shape, (0, 3, 4))
    chex.assert_trees_all_equal(stats, old)
    y, stats = train(np.zeros((3, 4, 0), "f"))
    self.assertEqual((y.shape, stats.cov.shape), ((3, 4, 0), (1, 0, 0)))


class RangeTest(parameterized.TestCase):
  @parameterized.parameters(None, 5)
  def test_squares_beyond_range_give_the_bias(self, iterations):
    white = functools.partial(output, num_groups=2, iterations=iterations)
    run = gradient_of(white)
    x, dy = normal((16, 4)), normal((16, 4), seed=1)
    expected, wanted = run(x, dy)
    for magnitude in (1e20, 1e30, 3.3e38):
      random = np.random.default_rng(0)
      x[:, :2] = magnitude * random.uniform(-1, 1, (16, 2))
      y, dx = run(x, dy)
      np.testing.assert_array_equal(y[:, :2], 0)
      np.testing.assert_array_equal(dx[:, :2], 0)
      np.testing.assert_array_equal(y[:, 2:], expected[:, 2:])
      np.testing.assert_array_equal(dx[:, 2:], wanted[:, 2:])

  @parameterized.parameters(None, 5)
  def test_channels_that_say_the_same(self, iterations):
    """Rounding errors are not amplified, whatever the size of x."""
    x = duplicated((64, 4))
    expected = output(x, iterations=iterations, epsilon=1e-12)
    for size in (2.0**10, 2.0**40):
      y = output(x * np.float32(size), iterations=iterations, epsilon=1e-12)
      np.testing.assert_allclose(y, expected, atol=2e-3)

  @parameterized.parameters(1e-5, 1e-30)
  def test_constant_channels_are_the_bias(self, epsilon):
    bias = normal(3, seed=1)
    run = gradient_of(lambda x: output(x, None, bias, epsilon=epsilon))
    for value in (1e-30, 0.1, 1e6 + 0.1875, 3.3e38):
      y, dx = run(np.full((16, 3), value, "f"), normal((16, 3)))
      np.testing.assert_array_equal(y, np.broadcast_to(bias, (16, 3)))
      self.assertTrue(np.isfinite(dx).all())

  @parameterized.parameters(None, 5)
  def test_nan_stays_in_its_group(self, iterations):
    x, old = normal((16, 4)), some_stats(4, 2)
    for value in (np.nan, np.inf):
      x[3, 1] = value
      y, stats = train(x, stats=old, num_groups=2, iterations=iterations)
      self.assertTrue(np.isnan(y[:, :2]).all())
      self.assertTrue(np.isfinite(y[:, 2:]).all())
      np.testing.assert_array_equal(stats.mean[:2], old.mean[:2])
      np.testing.assert_array_equal(stats.cov[0], old.cov[0])
      self.assertTrue((stats.mean[2:] != old.mean[2:]).all())


class MasksTest(parameterized.TestCase):
  def test_equals_whitening_of_what_counts(self):
    x, mask = correlated((40, 6), 1e4), normal((40, 1), seed=5) < 0.3
    dirty = np.where(mask, x, np.float32(np.nan))
    bias, dy = normal(6, seed=1), normal((40, 6), seed=2)
    white = functools.partial(output, num_groups=2)
    run = gradient_of(lambda x: white(x, None, bias, mask=mask))
    y, dx = run(dirty, dy)
    there = mask[:, 0]
    run = gradient_of(lambda x: white(x, None, bias))
    expected, wanted = run(x[there], dy[there])
    np.testing.assert_allclose(y[there], expected, atol=4e-6)
    self.assertLess(reference.relative_error(dx[there], wanted), 1e-5)
    np.testing.assert_array_equal(
      y[~there], np.broadcast_to(bias, y[~there].shape)
    )
    np.testing.assert_array_equal(dx[~there], 0)

  @parameterized.parameters(1, -1)
  def test_masks_that_differ_among_channels(self, axis):
    shape = (12, 6, 5) if axis == 1 else (12, 5, 6)
    x, mask = normal(shape, 1e2), normal(shape, seed=5) < 0.5
    dy = normal(shape, seed=2)
    options = {"axis": axis, "num_groups": 2, "mask": mask}
    expected = reference.whiten(x, **options)
    run = gradient_of(lambda x: output(x, **options))
    y, dx = run(np.where(mask, x, np.float32(0)), dy)
    for garbage in (np.nan, np.inf, 3e38):
      dirty = np.where(mask, x, np.float32(garbage))
      chex.assert_trees_all_equal(run(dirty, dy), (y, dx))
    self.assertLessEqual(reference.scaled_error(y, expected.y), 4e-6)
    wanted = expected.pullback(dy)[0]
    self.assertLess(reference.relative_error(dx, wanted), 1e-5)
    np.testing.assert_array_equal(np.asarray(dx)[~mask], 0)

  def test_nothing_counts(self):
    x, old = np.full((8, 4), np.nan, "f"), some_stats(4, 2)
    mask = np.ones((8, 4), bool)
    mask[:, 1] = False
    x[:, [0, 2, 3]] = normal((8, 3))
    y, stats = train(x, stats=old, num_groups=2, mask=mask)
    self.assertTrue(np.isfinite(y).all())
    np.testing.assert_array_equal(y[:, 1], 0)
    np.testing.assert_array_equal(stats.mean[:2], old.mean[:2])
    np.testing.assert_array_equal(stats.cov[0], old.cov[0])
    self.assertTrue((stats.cov[1] != old.cov[1]).any())

  def test_in_evaluation(self):
    x, stats = normal((8, 4)), some_stats(4)
    mask = normal((8, 4), seed=5) < 0.5
    dirty = np.where(mask, x, np.float32(np.nan))
    bias = normal(4, seed=1)
    y, _ = evaluate(dirty, None, bias, stats, mask=mask)
    expected = reference.whiten(x, None, bias, stats=stats, mask=mask).y
    np.testing.assert_allclose(y, expected, atol=4e-6)


def orthonormal(shape):
  """Returns columns of mean zero whose covariance is the identity."""
  x = normal(shape)
  vectors, _ = np.linalg.qr(np.float64(x - x.mean(0)))
  return (vectors * shape[0] ** 0.5).astype(np.float32)


class GradientsTest(parameterized.TestCase):
  @parameterized.parameters((1, -1), (2, 1))
  def test_match_float64(self, num_groups, axis):
    shape = (8, 5, 6) if axis == -1 else (8, 6, 5)
    scale, bias = normal(6, seed=1), normal(6, seed=2)
    options = {"num_groups": num_groups, "axis": axis}
    dx, dy = normal(shape, seed=3), normal(shape, seed=4)

    @jax.jit
    def run(x, scale, bias, dx, dy):
      white = functools.partial(output, **options)
      _, vjp = jax.vjp(white, x, scale, bias)
      return vjp(dy), jax.jvp(lambda x: white(x, scale, bias), (x,), (dx,))[1]

    for mean in MEANS:
      x = np.moveaxis(correlated((8, 5, 6), mean), -1, axis)
      gradients, pushed = run(x, scale, bias, dx, dy)
      expected = reference.whiten(x, scale, bias, **options)
      wanted = (*expected.pullback(dy), expected.pushforward(dx))
      for actual, value in zip((*gradients, pushed), wanted, strict=True):
        self.assertLess(reference.relative_error(actual, value), 1e-5)

  def test_where_eigenvalues_are_equal_or_zero(self):
    """In float32, with the default epsilon and with one that leaves digits."""

    @jax.jit
    def run(x, dx, dy, epsilon):
      white = functools.partial(output, epsilon=epsilon)
      _, vjp = jax.vjp(white, x)
      curved = lambda x: jnp.sum(jnp.sin(white(x)) * dy)
      _, product = jax.jvp(jax.grad(curved), (x,), (dx,))
      return vjp(dy)[0], jax.jvp(white, (x,), (dx,))[1], product

    dx, dy = normal((2, 8, 4), seed=3)
    few = duplicated((8, 4))
    few[2:] = few[1]  # Two rows, of four channels.
    constant = np.zeros((8, 4), "f")
    for x in (orthonormal((8, 4)), duplicated((8, 4)), few, constant):
      for epsilon, tolerance in ((1e-5, 2e-2), (1e-1, 1e-5)):
        expected = reference.whiten(x, epsilon=epsilon)
        pulled, pushed, product = run(x, dx, dy, epsilon)
        wanted = expected.pullback(dy)[0]
        self.assertLess(reference.relative_error(pulled, wanted), tolerance)
        wanted = expected.pushforward(dx)
        self.assertLess(reference.relative_error(pushed, wanted), tolerance)
        self.assertTrue(np.isfinite(product).all())

  @parameterized.parameters((duplicated,), (correlated, 2))
  def test_second_order(self, make, iterations=None):
    """In float64, against differences of gradients."""
    jax.config.update("jax_enable_x64", True)
    self.addCleanup(jax.config.update, "jax_enable_x64", False)
    x = np.float64(make((12, 3)))
    v, weight = np.float64(normal((2, 12, 3), seed=1))
    white = functools.partial(output, epsilon=0.1, iterations=iterations)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(white(x)) * weight)))
    step = 1e-5
    expected = (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)

    @jax.jit
    def run(x):
      _, over = jax.jvp(gradient, (x,), (v,))
      return over, jax.grad(lambda x: jnp.vdot(gradient(x), v))(x)

    for product in run(x):
      self.assertLess(reference.relative_error(product, expected), 1e-6)

  def test_in_evaluation(self):
    x, stats, dy = normal((8, 4)), some_stats(4), normal((8, 4), seed=1)
    _, dx = gradient_of(lambda x: evaluate(x, stats=stats)[0])(x, dy)
    root = reference.inverse_root(np.float64(stats.cov[0]), 1e-5)
    self.assertLess(reference.relative_error(dx, dy @ root), 1e-5)

  def test_epsilon_may_be_traced(self):
    x = correlated((16, 4))
    slope = jax.jit(jax.grad(lambda e: jnp.sum(jnp.sin(output(x, epsilon=e)))))
    step = 1e-6
    upper, lower = (
      np.sin(reference.whiten(x, epsilon=0.1 + sign * step).y).sum()
      for sign in (1, -1)
    )
    expected = (upper - lower) / (2 * step)
    np.testing.assert_allclose(slope(0.1), expected, rtol=1e-4)


class RunningStatisticsTest(parameterized.TestCase):
  @parameterized.parameters((-1, 3, False), (1, 1, False), (1, 3, True))
  def test_match_float64(self, axis, num_groups, masked):
    old = some_stats(6, num_groups)
    options = {"axis": axis, "num_groups": num_groups, "momentum": 0.6}
    for mean in (0.0, 1e4):
      x = np.moveaxis(normal((8, 5, 6), mean), -1, axis)
      options["mask"] = normal(x.shape, seed=5) < 0.5 if masked else None
      _, stats = train(x, stats=old, **options)
      expected = reference.whitening_statistics(x, old, **options)
      for actual, wanted in zip(stats, expected, strict=True):
        self.assertEqual(actual.dtype, np.float32)
        np.testing.assert_allclose(actual, wanted, rtol=2e-6, atol=1e-6)

  def test_without_stats_returns_the_batch_s_own(self):
    x = correlated((16, 4), 5.0)
    _, stats = train(x, momentum=0.5)
    np.testing.assert_allclose(stats.mean, x.mean(0, np.float64), rtol=1e-6)
    np.testing.assert_allclose(stats.cov[0], covariance(x), rtol=1e-5)

  @parameterized.parameters(None, 5)
  def test_evaluation_matches_float64(self, iterations):
    x, stats = normal((8, 3, 6), 2.0), some_stats(6, 2)
    scale, bias = normal(6, seed=1), normal(6, seed=2)
    options = {"num_groups": 2, "iterations": iterations, "stats": stats}
    y, same = evaluate(x, scale, bias, **options)
    expected = reference.whiten(x, scale, bias, **options).y
    self.assertLessEqual(reference.scaled_error(y, expected), 4e-6)
    chex.assert_trees_all_equal(same, stats)

  @parameterized.parameters(None, 5)
  def test_evaluation_agrees_with_training(self, iterations):
    x = correlated((64, 6), 3.0)
    y, stats = train(x, iterations=iterations)
    again, _ = evaluate(x, stats=stats, iterations=iterations)
    np.testing.assert_allclose(again, y, atol=1e-5)

  def test_covariances_of_batches_merge(self):
    """And their inverse roots do not, which the papers average."""
    x = correlated((1600, 8))
    batches = jnp.asarray(x.reshape(100, 16, 8))
    _, parts = jax.vmap(train)(batches)
    merged = parts.cov.mean(0)[0] + covariance(parts.mean)
    np.testing.assert_allclose(merged, covariance(x), rtol=1e-4, atol=1e-5)
    roots = [reference.inverse_root(np.float64(c[0]), 1e-5) for c in parts.cov]
    white = (x - x.mean(0)) @ np.mean(roots, 0)
    np.testing.assert_array_less(1.5, np.diag(covariance(white)))

  def test_momentum_may_be_traced(self):
    x, old = normal((8, 4)), some_stats(4)
    _, expected = train(x, stats=old, momentum=0.75)
    _, actual = jax.jit(lambda m: train(x, stats=old, momentum=m))(0.75)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)

  def test_carry_of_a_scan_keeps_its_dtype(self):
    xs = jnp.asarray(normal((4, 8, 6), 100.0), jnp.bfloat16)
    old = some_stats(6, 2)
    step = lambda stats, x: train(x, stats=stats, num_groups=2)[::-1]
    stats, _ = jax.lax.scan(step, old, xs)
    expected = old
    for x in xs:
      expected = reference.whitening_statistics(x, expected, num_groups=2)
    for actual, wanted in zip(stats, expected, strict=True):
      np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)
    with jax.enable_x64(True):
      for dtype in (np.float32, np.float64):
        wide = jax.tree.map(lambda leaf: leaf.astype(dtype), old)  # noqa: B023
        _, stats = train(np.float64(xs[0]), stats=wide, num_groups=2)
        self.assertEqual({leaf.dtype for leaf in stats}, {np.dtype(dtype)})


ROWS = jax.ShapeDtypeStruct((4, 6), jnp.float32)
COMPLEX = jax.ShapeDtypeStruct((4, 6), jnp.complex64)
NARROW = normjax.WhiteningStats(
  jax.ShapeDtypeStruct((6,), jnp.float32),
  jax.ShapeDtypeStruct((2, 3, 3), jnp.float32),
)


def replaced(**fields):
  return NARROW._replace(**fields)


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    (train, COMPLEX, {}, TypeError, "a real x, got complex64.*complex_batch"),
    (train, ROWS, {"axis": (0, 1)}, ValueError, "one axis of channels"),
    (train, ROWS, {"num_groups": 4}, ValueError, "does not divide the 6"),
    (train, ROWS, {"group_size": 3}, ValueError, "exactly one of num_groups"),
    (train, ROWS, {"iterations": 0}, ValueError, "at least 1, got 0.*None"),
    (train, ROWS, {"iterations": 2.0}, TypeError, "an integer such as 5.*2.0"),
    (train, ROWS, {"stats": NARROW}, ValueError,
     r"stats.cov must have shape \(1, 6, 6\).*got \(2, 3, 3\).*same groups"),
    (train, ROWS, {"stats": normjax.BatchStats(None, None)}, TypeError,
     r"a normjax.WhiteningStats, got BatchStats. Pass.*\(mean, cov\)"),
    (train, ROWS, {"num_groups": 2, "stats": replaced(cov=None)}, TypeError,
     "stats.cov must be an array, got None"),
    (train, ROWS,
     {"num_groups": 2, "stats": replaced(
       cov=jax.ShapeDtypeStruct((2, 3, 3), jnp.bfloat16))},
     TypeError, "stats.cov must be float32 or wider, got bfloat16"),
    (train, ROWS,
     {"num_groups": 2, "stats": replaced(
       cov=jax.ShapeDtypeStruct((2, 3, 3), jnp.int32))},
     TypeError, "stats.cov must be float32 or wider, got int32"),
    (train, ROWS,
     {"num_groups": 2, "stats": replaced(
       cov=jax.ShapeDtypeStruct((2, 3, 3), jnp.complex64))},
     TypeError, "stats.cov must be real, got complex64"),
    (train, ROWS, {"num_groups": 2, "stats": replaced(mean=ROWS)}, ValueError,
     r"stats.mean must have shape \(6,\)"),
    (train, ROWS, {"momentum": 2}, ValueError, "between 0 and 1, got 2"),
    (train, ROWS.update(shape=(1, 6)), {}, ValueError,
     "decorrelated_batch_norm in training got x.*one value per channel"),
    (evaluate, ROWS, {}, ValueError, "stats=None. Pass the WhiteningStats"),
  )  # fmt: skip
  def test_message(self, function, x, options, error, message):
    is_array = lambda v: any(
      isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(v)
    )
    arrays = {k: v for k, v in options.items() if is_array(v)}
    static = {k: v for k, v in options.items() if not is_array(v)}
    with self.assertRaisesRegex(error, f"(?s){message}"):
      jax.eval_shape(functools.partial(function, **static), x, **arrays)
