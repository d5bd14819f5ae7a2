import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from tests import reference


def normal(shape, mean=0.0, seed=0):
  random = np.random.default_rng(seed)
  return (mean + random.standard_normal(shape)).astype(np.float32)


def some_stats(shape):
  random = np.random.default_rng(9)
  return normjax.BatchStats(
    random.standard_normal(shape).astype(np.float32),
    random.uniform(0.5, 2, shape).astype(np.float32),
  )


def train(x, **options):
  return normjax.batch_norm(x, use_running_average=False, **options)


class RunningStatisticsTest(parameterized.TestCase):
  def assert_stats(self, stats, expected, rtol=1e-6):
    for field, wanted in zip(stats, expected, strict=True):
      self.assertEqual(field.dtype, np.float32)
      np.testing.assert_allclose(field, wanted, rtol=rtol, atol=1e-7)

  def test_momentum_keeps_the_old(self):
    # https://github.com/pytorch/examples/issues/289: PyTorch's is one minus.
    x = np.array([[1.0], [3.0]], np.float32)
    old = normjax.BatchStats(
      np.array([10.0], np.float32), np.array([5.0], np.float32)
    )
    for momentum, mean, var in ((1.0, 10, 5), (0.75, 8, 4), (0.0, 2, 1)):
      _, stats = train(x, stats=old, momentum=momentum)
      self.assert_stats(stats, ([mean], [var]))

  def test_default_momentum(self):
    x = np.array([[1.0], [3.0]], np.float32)
    old = normjax.BatchStats(np.zeros(1, np.float32), np.ones(1, np.float32))
    _, stats = train(x, stats=old)
    self.assert_stats(stats, ([0.02], [1.0]))

  @parameterized.product(
    axis=(-1, 1, (1, 3)), ddof=(0, 1), masked=(False, True)
  )
  def test_matches_float64(self, axis, ddof, masked):
    shape = (5, 3, 4, 2)
    old = some_stats(tuple(shape[i] for i in np.atleast_1d(axis)))
    mask = normal(shape, seed=1) > 0 if masked else None
    options = {
      "axis": axis, "momentum": 0.6, "running_var_ddof": ddof, "mask": mask
    }  # fmt: skip
    for mean in (0.0, 1e4):
      x = normal(shape, mean)
      _, stats = train(x, stats=old, **options)
      expected = reference.running_statistics(x, old, **options)
      self.assert_stats(stats, expected)

  def test_unbiased_running_variance(self):
    # https://github.com/pytorch/pytorch/issues/1410 and 77427: PyTorch
    # standardizes by the biased and stores the unbiased variance.
    x = normal((7, 3), 4.0)
    old = some_stats(3)
    y, stats = train(x, stats=old, momentum=0.9, running_var_ddof=1)
    unbiased = 0.9 * old.var + 0.1 * x.var(0, np.float64, ddof=1)
    np.testing.assert_allclose(stats.var, unbiased, rtol=1e-6)
    self.assertLessEqual(
      reference.scaled_error(y, reference.batch_norm(x).y), 2e-6
    )

  def test_without_stats_returns_the_batch_s_own(self):
    x = normal((8, 3), 4.0)
    _, stats = train(x, momentum=0.5)
    self.assert_stats(stats, (x.mean(0, np.float64), x.var(0, np.float64)))
    _, stats = train(x, running_var_ddof=1)
    np.testing.assert_allclose(
      stats.var, x.var(0, np.float64, ddof=1), rtol=1e-6
    )

  @parameterized.parameters(jnp.bfloat16, jnp.float16)
  def test_half_precision_updates_do_not_stall(self, dtype):
    # https://github.com/google-deepmind/dm-haiku/issues/396: bfloat16
    # statistics give NaN at decay 0.999 and stall at 0.99.
    x = (5 + 2 * normal((64, 4))).astype(dtype)

    @jax.jit
    def run(stats):
      step = lambda stats, _: (train(x, stats=stats, momentum=0.99)[1], None)
      return jax.lax.scan(step, stats, length=2000)[0]

    old = normjax.BatchStats(np.zeros(4, np.float32), np.ones(4, np.float32))
    stats = run(old)
    self.assert_stats(
      stats, (x.mean(0, np.float64), np.float64(x).var(0)), rtol=1e-4
    )

  def test_constant_batches(self):
    # Haiku: NaN in 19 of 50 constant batches between 1e4 and 2e6.
    for value in np.linspace(1e4, 2e6, 50, dtype=np.float32):
      y, stats = train(np.full((8, 3), value))
      np.testing.assert_array_equal(y, 0)
      np.testing.assert_array_equal(stats.mean, np.full(3, value))
      np.testing.assert_array_equal(stats.var, 0)

  def test_momentum_may_be_traced(self):
    x = normal((8, 3), 4.0)
    old = some_stats(3)
    run = jax.jit(lambda momentum: train(x, stats=old, momentum=momentum)[1])
    for momentum in (0.25, 0.9):
      expected = reference.running_statistics(x, old, momentum=momentum)
      self.assert_stats(run(momentum), expected)
      array = jnp.float32(momentum)
      self.assert_stats(run(array), expected)
      known = jax.jit(lambda x, a=array: train(x, stats=old, momentum=a)[1])
      self.assert_stats(known(x), expected)
    # A cumulative average: the share of the old is (step - 1) / step.
    stats = jax.vmap(run)(jnp.arange(3) / 4)
    self.assertEqual(stats.mean.shape, (3, 3))

  def test_dtype_of_the_statistics_is_kept(self):
    jax.config.update("jax_enable_x64", True)
    self.addCleanup(jax.config.update, "jax_enable_x64", False)
    for dtype in (np.float32, np.float64):
      old = normjax.BatchStats(np.zeros(3, dtype), np.ones(3, dtype))
      for x in (normal((8, 3)), normal((8, 3)).astype(np.float64)):
        _, stats = train(x, stats=old, momentum=0.9)
        self.assertEqual(stats.mean.dtype, dtype)
        self.assertEqual(stats.var.dtype, dtype)

  def test_empty_batch(self):
    old = some_stats(3)
    y, stats = train(np.zeros((0, 3), np.float32), stats=old)
    self.assertEqual(y.shape, (0, 3))
    self.assert_stats(stats, old, rtol=0)


class EvaluationTest(parameterized.TestCase):
  @parameterized.product(axis=(-1, 1, (1, 3)), mean=(0.0, 1e4))
  def test_matches_float64(self, axis, mean):
    x = normal((5, 3, 4, 2), mean)
    shape = tuple(x.shape[i] for i in np.atleast_1d(axis))
    stats = some_stats(shape)
    stats = stats._replace(mean=stats.mean + np.float32(mean))
    scale, bias = normal(shape, seed=3), normal(shape, seed=4)
    y, new = normjax.batch_norm(
      x, scale, bias, stats, use_running_average=True, axis=axis, epsilon=0.1
    )
    expected = reference.batch_norm(
      x, scale, bias, axis=axis, epsilon=0.1, stats=stats
    )
    self.assertLessEqual(reference.scaled_error(y, expected.y), 4e-6)
    for field, old in zip(new, stats, strict=True):
      np.testing.assert_array_equal(field, old)

  def test_does_not_look_at_the_batch(self):
    x, stats = normal((4, 3)), some_stats(3)
    evaluate = lambda x: normjax.batch_norm(
      x, stats=stats, use_running_average=True
    )[0]
    each = np.concatenate([evaluate(row) for row in x[:, None]])
    np.testing.assert_array_equal(each, evaluate(x))

  def test_float16_with_a_variance_that_it_cannot_hold(self):
    # Flax NNX returns zeros: 9e4 is infinite in float16.
    x = np.array([[300.0], [-600.0]], np.float16)
    stats = normjax.BatchStats(
      np.zeros(1, np.float32), np.full(1, 9e4, np.float32)
    )
    y, _ = normjax.batch_norm(x, stats=stats, use_running_average=True)
    self.assertEqual(y.dtype, np.float16)
    np.testing.assert_array_equal(y, [[1], [-2]])

  def test_training_then_evaluation_agree(self):
    x = normal((16, 3), 1e4)
    y, stats = train(x)
    again, _ = normjax.batch_norm(x, stats=stats, use_running_average=True)
    # One number cannot hold a mean of 1e4 to more than half a thousandth.
    np.testing.assert_allclose(again, y, atol=2e-3)
    self.assertGreater(np.abs(np.asarray(again)).max(), 1)


class LayoutTest(parameterized.TestCase):
  def test_channels_first_is_channels_last_transposed(self):
    x = normal((4, 3, 5, 2), 3.0)
    scale, bias = normal(2, seed=1), normal(2, seed=2)
    options = {"stats": some_stats(2), "use_running_average": False}
    last, stats_last = normjax.batch_norm(x, scale, bias, **options)
    first, stats_first = normjax.batch_norm(
      np.moveaxis(x, -1, 1), scale, bias, axis=1, **options
    )
    np.testing.assert_allclose(
      np.moveaxis(np.asarray(first), 1, -1), last, rtol=1e-6, atol=1e-6
    )
    for a, b in zip(stats_first, stats_last, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-6)

  def test_per_timestep_statistics(self):
    x = normal((8, 3, 4), 2.0) * np.arange(1, 4, dtype=np.float32)[:, None]
    y, stats = train(x, axis=(1, -1))
    self.assertEqual(stats.mean.shape, (3, 4))
    for t in range(3):
      alone, _ = train(x[:, t])
      np.testing.assert_allclose(y[:, t], alone, rtol=1e-6, atol=1e-6)


class StateTest(parameterized.TestCase):
  @parameterized.parameters(
    (np.float64(0.9),), (np.float32(0.9),), (0.9,), (np.array(0.9),)
  )
  def test_momentum_does_not_change_the_dtype(self, momentum):
    x = normal((8, 4))
    with jax.enable_x64(True):
      _, new = train(x, stats=some_stats(4), momentum=momentum)
    for value in new:
      self.assertEqual(value.dtype, np.float32)

  def test_momentum_may_be_traced(self):
    x, old = normal((8, 4)), some_stats(4)
    _, expected = train(x, stats=old, momentum=0.75)
    _, actual = jax.jit(
      lambda momentum: train(x, stats=old, momentum=momentum)
    )(0.75)
    for value, wanted in zip(actual, expected, strict=True):
      np.testing.assert_allclose(value, wanted, rtol=1e-6)

  @parameterized.parameters(np.inf, np.nan, 3e38)
  def test_statistics_that_are_not_finite_are_skipped(self, value):
    """Otherwise they would stay so for ever."""
    x, old = normal((8, 4)), some_stats(4)
    x[3, 1] = value
    _, new = train(x, stats=old)
    _, expected = train(np.delete(x, 1, 1), stats=old_without(old, 1))
    for name in ("mean", "var"):
      before, after = getattr(old, name), np.asarray(getattr(new, name))
      self.assertEqual(after[1], before[1])
      np.testing.assert_allclose(
        np.delete(after, 1), getattr(expected, name), rtol=1e-6
      )


def old_without(stats, channel):
  return normjax.BatchStats(*(np.delete(value, channel) for value in stats))
