"""Complex batch norm, against float64 NumPy and against real whitening."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import normjax
from tests import meshes, reference

MEANS = (0, 1e2 - 1e1j, 1e4j, 1e6 + 1e6j)


def normal(shape, seed=0):
  random = np.random.default_rng(seed)
  return random.standard_normal(shape).astype(np.float32)


def elliptic(shape, mean=0, seed=0):
  """Returns complex numbers whose parts differ in size and are correlated."""
  real, imaginary = normal((2, *shape), seed)
  return (mean + real + 1j * (0.3 * imaginary + 0.4 * real)).astype("complex64")


def some_stats(channels):
  root = normal((channels, 2, 2), seed=8)
  cov = root @ root.swapaxes(-1, -2) + np.eye(2, dtype=np.float32)
  return normjax.WhiteningStats(elliptic((channels,), seed=9), cov)


def train(x, *args, **options):
  return normjax.complex_batch_norm(
    x, *args, use_running_average=False, **options
  )


class ComplexBatchNormTest(parameterized.TestCase):
  @parameterized.parameters(-1, 1)
  def test_matches_float64(self, axis):
    scale, bias = normal((3, 3), seed=1), elliptic((3,), seed=2)
    for mean in MEANS:
      x = np.moveaxis(elliptic((8, 5, 3), mean), -1, axis)
      y, stats = train(x, scale, None, axis=axis)
      expected = reference.complex_whiten(x, scale, axis=axis)
      self.assertLessEqual(reference.scaled_error(y, expected), 4e-6)
      self.assertEqual((stats.mean.dtype, stats.cov.dtype),
                       (np.complex64, np.float32))  # fmt: skip
    shifted, _ = train(x, scale, bias, axis=axis)
    others = (0, 1) if axis == -1 else (0, 2)
    np.testing.assert_allclose(
      shifted, y + np.expand_dims(bias, others), rtol=1e-6
    )

  def test_both_parts_come_out_white(self):
    y, _ = train(elliptic((500, 2), 3 - 2j), epsilon=1e-12)
    for channel in np.moveaxis(np.asarray(y), -1, 0):
      cov = np.cov(channel.real, channel.imag, ddof=0)
      # Roots on GPUs are accurate to two units in the last place.
      np.testing.assert_allclose(cov, np.eye(2), atol=4e-6)

  def test_batch_norm_keeps_the_ellipse(self):
    """What complex x was always divided by: one real deviation."""
    x = elliptic((500, 2), 3 - 2j)
    y, _ = normjax.batch_norm(x, use_running_average=False)
    np.testing.assert_allclose(np.mean(np.abs(y) ** 2, 0), 1, rtol=1e-4)
    self.assertGreater(np.var(y.real) / np.var(y.imag), 3)

  def test_gradients_are_those_of_real_pairs(self):
    z, dz = normal((2, 16, 3, 2))
    z = z @ np.float32([[1, 0.4], [0, 0.3]])
    weight = normal(z.shape, seed=1)

    def of_complex(z):
      y, _ = train(jax.lax.complex(z[..., 0], z[..., 1]))
      return jnp.stack([y.real, y.imag], -1)

    def of_pairs(z):
      y, _ = normjax.decorrelated_batch_norm(
        z.reshape(16, 6), use_running_average=False, num_groups=3
      )
      return y.reshape(z.shape)

    def derivatives(function):
      @jax.jit
      def run(z):
        loss = lambda z: jnp.sum(jnp.sin(function(z)) * weight)
        return jax.jvp(jax.grad(loss), (z,), (dz,))

      return run(z)

    chex.assert_trees_all_close(
      derivatives(of_complex), derivatives(of_pairs), rtol=1e-4, atol=1e-4
    )

  @parameterized.parameters(0.0, 1.0, -1.0)
  def test_parts_that_say_the_same(self, slope):
    """The imaginary part is a multiple of the real one."""
    real = normal((16, 2))
    x = (real + 1j * slope * real).astype(np.complex64)
    run = jax.jit(
      jax.value_and_grad(lambda x: jnp.sum(jnp.sin(train(x)[0].real)))
    )
    for size in (1, 1e3, 1e15):
      y, _ = train(x * np.float32(size))
      np.testing.assert_allclose(np.mean(np.abs(y) ** 2, 0), 1, rtol=2e-3)
      value, gradient = run(x * np.float32(size))
      self.assertTrue(np.isfinite(value) and np.isfinite(gradient).all())

  @parameterized.parameters(1e20, 3.3e38)
  def test_squares_beyond_range_give_the_bias(self, magnitude):
    x = elliptic((16, 2))
    x[:, 0] = magnitude * np.sign(x[:, 0].real)
    bias = elliptic((2,), seed=1)
    y, _ = train(x, None, bias)
    np.testing.assert_array_equal(y[:, 0], np.full(16, bias[0]))
    np.testing.assert_array_equal(y[:, 1], train(x, None, bias)[0][:, 1])

  def test_masks(self):
    x, mask = elliptic((12, 5, 3), 1e2), normal((12, 5, 3), seed=5) < 0.5
    mask[..., 2] = False
    dirty = np.where(mask, x, np.complex64(np.nan))
    bias, old = elliptic((3,), seed=1), some_stats(3)
    expected = reference.complex_whiten(x[..., :2], mask=mask[..., :2])
    y, stats = train(dirty, None, bias, old, mask=mask)
    expected = expected + bias[:2]
    np.testing.assert_allclose(y[..., :2], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(y[..., 2], np.full((12, 5), bias[2]))
    np.testing.assert_array_equal(stats.mean[2], old.mean[2])
    np.testing.assert_array_equal(stats.cov[2], old.cov[2])
    self.assertTrue((stats.cov[:2] != old.cov[:2]).all())
    loss = lambda x: jnp.sum(jnp.abs(train(x, mask=mask)[0]) ** 2)
    gradient = np.asarray(jax.grad(loss)(dirty))
    np.testing.assert_array_equal(gradient[~mask], 0)
    self.assertTrue(np.isfinite(gradient).all())

  def test_running_statistics(self):
    x, old = elliptic((16, 3), 2 - 1j), some_stats(3)
    _, stats = train(x, stats=old, momentum=0.6)
    parts = np.stack([x.real, x.imag], -1)
    cov = [np.cov(channel.T, ddof=0) for channel in np.moveaxis(parts, 1, 0)]
    for actual, before, new in (
      (stats.mean, old.mean, x.mean(0)), (stats.cov, old.cov, np.stack(cov))
    ):  # fmt: skip
      np.testing.assert_allclose(actual, 0.6 * before + 0.4 * new, rtol=1e-5)

  def test_evaluation(self):
    x, stats, scale = elliptic((8, 3)), some_stats(3), normal((3, 3), seed=1)
    y, same = normjax.complex_batch_norm(
      x, scale, None, stats, use_running_average=True
    )
    expected = reference.complex_whiten(x, scale, stats=stats)
    np.testing.assert_allclose(y, expected, atol=4e-6)
    chex.assert_trees_all_equal(same, stats)

  def test_devices(self):
    x, old = elliptic((40, 3), 1e4), some_stats(3)
    mask = normal(x.shape, seed=2) < np.linspace(-2, 2, 40)[:, None]
    mask[:5] = False
    mesh = meshes.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    white = functools.partial(train, stats=old)
    mapped = jax.jit(jax.shard_map(
      lambda x, mask: white(x, mask=mask, axis_name="d"),
      mesh=mesh, in_specs=(P("d"), P("d")), out_specs=(P("d"), P()),
    ))  # fmt: skip
    (y, stats), (expected, new) = mapped(x, mask), white(x, mask=mask)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    chex.assert_trees_all_close(stats, new, rtol=1e-6)


COMPLEX = jax.ShapeDtypeStruct((4, 6), jnp.complex64)


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"x": COMPLEX.update(dtype=jnp.float32)}, TypeError,
     "a complex x, got float32.*batch_norm"),
    ({"scale": jax.ShapeDtypeStruct((6,), jnp.float32)}, ValueError,
     r"scale must have shape \(6, 3\).*imaginary.*got \(6,\)"),
    ({"scale": jax.ShapeDtypeStruct((6, 3), jnp.complex64)}, TypeError,
     "scale must be real and floating, got complex64"),
    ({"stats": normjax.WhiteningStats(
        jax.ShapeDtypeStruct((6,), jnp.float32),
        jax.ShapeDtypeStruct((6, 2, 2), jnp.float32))},
     TypeError, "stats.mean is float32 but x is complex64"),
    ({"x": COMPLEX.update(shape=(1, 6))}, ValueError,
     "complex_batch_norm in training got x.*one value per channel"),
  )  # fmt: skip
  def test_message(self, given, error, message):
    with self.assertRaisesRegex(error, f"(?s){message}"):
      jax.eval_shape(train, **{"x": COMPLEX} | given)

  def test_no_channels(self):
    y, stats = train(np.zeros((4, 0), np.complex64))
    self.assertEqual((y.shape, stats.cov.shape), ((4, 0), (0, 2, 2)))
    y, _ = train(np.zeros((4, 0), np.complex64), stats=stats)
    self.assertEqual(y.shape, (4, 0))
