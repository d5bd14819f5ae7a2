import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from tests import reference


def normal(shape, mean=0.0, seed=0):
  random = np.random.default_rng(seed)
  return (mean + random.standard_normal(shape)).astype(np.float32)


class MomentsTest(parameterized.TestCase):
  @parameterized.product(
    axes=(0, -1, (0, 2), (0, 1, 2)), masked=(False, True),
    keepdims=(False, True),
  )  # fmt: skip
  def test_matches_float64(self, axes, masked, keepdims):
    mask = normal((4, 5, 6), seed=1) > 0 if masked else None
    over = tuple(np.atleast_1d(axes).tolist())

    def assert_close(value, expected, **tolerance):
      expected = expected if keepdims else np.squeeze(expected, over)
      self.assertEqual(value.shape, expected.shape)
      np.testing.assert_allclose(value, expected, **tolerance)

    for offset in (0.0, 1e2, 1e4, 1e6):
      x = normal((4, 5, 6), offset)
      m = normjax.moments(x, axes, mask=mask, keepdims=keepdims)
      mean, var = reference.mean_and_var(x, over, mask)
      assert_close(m.mean, mean, rtol=1.2e-7, atol=1e-7)
      # Half a unit in the last place, give or take a tie, goes to the tail.
      both = np.float64(m.mean) + np.float64(m.mean_tail)
      assert_close(both, mean, rtol=0, atol=1e-6)
      assert_close(m.var, var, rtol=1e-6)
      count = reference.counted(np.ones(x.shape), mask)
      count = count.sum(over, keepdims=True)
      assert_close(m.count, count)
      assert_close(m.m2, var * count, rtol=1e-6)
      _, unbiased = reference.mean_and_var(x, over, mask, ddof=1)
      assert_close(m.variance(ddof=1), unbiased, rtol=1e-6)

  @parameterized.parameters(1e2, 1e4, 1e6)
  def test_the_tail_continues_the_mean(self, mean):
    x = normal((8, 1000), mean)
    m = normjax.moments(x, 1)
    exact = np.float64(m.mean) + np.float64(m.mean_tail)
    np.testing.assert_allclose(exact, x.mean(1, np.float64), atol=2e-7)
    # The tail is what one number cannot hold.
    self.assertTrue(np.all(np.abs(m.mean_tail) <= np.spacing(m.mean)))

  @parameterized.parameters(
    (jnp.float16, jnp.float32), (jnp.bfloat16, jnp.float32),
    (jnp.float32, jnp.float32),
  )  # fmt: skip
  def test_at_least_float32(self, dtype, expected):
    # Keras clips a bfloat16 variance of 969022 to 65536.
    x = np.array([[-984.0, 984.0, -984.0, 984.0]]).astype(dtype)
    m = normjax.moments(x, 1)
    for field in m:
      self.assertEqual(field.dtype, expected)
    self.assertEqual(m.var, 984.0**2)

  def test_complex_variance_is_real(self):
    x = np.array([1 + 1j, 1 - 1j, -1 + 1j, -1 - 1j], np.complex64) + (3 - 2j)
    m = normjax.moments(x.astype(np.complex64), 0)
    self.assertEqual(m.mean, 3 - 2j)
    self.assertEqual(m.var.dtype, np.float32)
    self.assertEqual(m.var, 2.0)

  def test_nothing_counts(self):
    x = np.full((3, 4), np.nan, np.float32)
    for m in (
      normjax.moments(x, 1, mask=np.zeros((3, 1), bool)),
      normjax.moments(np.zeros((3, 0), np.float32), 1),
    ):
      for field in (*m, m.var, m.variance(ddof=1)):
        np.testing.assert_array_equal(field, np.zeros(3))

  def test_counts_do_not_stand_still(self):
    # A float32 counter stops at 2^24.
    n = 2**24 + 4
    shape = jax.eval_shape(lambda m: normjax.moments(m, 0), jnp.zeros(3))
    self.assertEqual(shape.count.dtype, jnp.float32)
    mask = np.ones(n, bool)
    m = normjax.moments(np.ones(n, np.float16), 0, mask=mask)
    self.assertEqual(m.count, n)
    self.assertEqual(m.mean, 1)

  def test_trees_of_nothing(self):
    """Orbax makes them of the statistics that it saves."""
    empty = jax.tree.map(lambda _: None, normjax.Moments.empty((3,)))
    self.assertIsNone(empty.count_tail)
    self.assertIsNone(empty.m2_tail)


class MergeMomentsTest(parameterized.TestCase):
  def assert_moments(self, m, x):
    x = np.float64(x)
    self.assertEqual(m.count, x.size)
    exact = np.float64(m.mean) + np.float64(m.mean_tail)
    np.testing.assert_allclose(
      exact, x.mean(), rtol=1e-12, atol=1e-6 * max(1, x.std())
    )
    np.testing.assert_allclose(m.var, x.var(), rtol=2e-6)

  @parameterized.product(
    mean=(0.0, 1e4, 1e6), gap=(0.0, 1.0, 1e6), sizes=((3, 500), (1, 1), (7, 7))
  )
  def test_union(self, mean, gap, sizes):
    a, b = normal(sizes[0], mean), normal(sizes[1], mean + gap, seed=1)
    parts = normjax.moments(a, 0), normjax.moments(b, 0)
    whole = np.concatenate([a, b])
    for pair in (parts, parts[::-1]):
      self.assert_moments(normjax.merge_moments(*pair), whole)
      self.assert_moments(jax.jit(normjax.merge_moments)(*pair), whole)

  def test_shapes_must_agree(self):
    parts = [normjax.moments(jnp.ones((3, 4)), axis) for axis in (0, 1)]
    with self.assertRaisesRegex(ValueError, r"of shapes \(4,\) and \(3,\)"):
      normjax.merge_moments(*parts)

  def test_in_any_order(self):
    sizes = (5, 1, 300, 40, 2)
    chunks = [normal(n, 10.0**i, seed=i) for i, n in enumerate(sizes)]
    parts = [normjax.moments(chunk, 0) for chunk in chunks]
    whole = np.concatenate(chunks)
    left = functools.reduce(normjax.merge_moments, parts)
    right = functools.reduce(
      lambda a, b: normjax.merge_moments(b, a), parts[::-1]
    )
    self.assert_moments(left, whole)
    self.assert_moments(right, whole)

  def test_streaming_keeps_the_digits(self):
    x = normal((256, 16), 1e6)

    @jax.jit
    def stream(x):
      start = normjax.moments(x[0], 0)
      merge = lambda m, chunk: (
        normjax.merge_moments(m, normjax.moments(chunk, 0)), None
      )  # fmt: skip
      return jax.lax.scan(merge, start, x[1:])[0]

    m = stream(x)
    np.testing.assert_allclose(
      np.float64(m.mean) + np.float64(m.mean_tail), x.mean(dtype=np.float64),
      atol=1e-5,
    )  # fmt: skip
    np.testing.assert_allclose(m.var, x.var(dtype=np.float64), rtol=1e-5)

  def test_empty_groups_are_neutral(self):
    empty = normjax.moments(np.zeros(0, np.float32), 0)
    m = normjax.moments(normal(9, 1e4), 0)
    for merged in (
      normjax.merge_moments(m, empty), normjax.merge_moments(empty, m)
    ):  # fmt: skip
      self.assertEqual(merged.count, 9)
      np.testing.assert_allclose(merged.mean, m.mean, rtol=1e-7)
      np.testing.assert_allclose(merged.m2, m.m2, rtol=1e-6)
      np.testing.assert_array_equal(merged.mean_tail, m.mean_tail)
    both = normjax.merge_moments(empty, empty)
    for field in both:
      self.assertEqual(field, 0)

  def test_many_groups_and_complex(self):
    x = (normal((4, 10), 1e2) + 1j * normal((4, 10), seed=1)).astype(
      np.complex64
    )
    m = normjax.merge_moments(
      normjax.moments(x[:, :3], 1), normjax.moments(x[:, 3:], 1)
    )
    mean, var = reference.mean_and_var(x, (1,))
    np.testing.assert_allclose(m.mean, mean[:, 0], rtol=1e-6)
    np.testing.assert_allclose(m.var, var[:, 0], rtol=1e-6)

  @parameterized.parameters(2**24, 10**12)
  def test_long_streams(self, seen):
    """A float32 count stands still at 2^24, and so does a sum of squares."""
    # https://github.com/DLR-RM/stable-baselines3/issues/1953 is of this kind.
    old = normjax.Moments(*np.float32([seen, 0, 0, seen]))
    batch = normjax.moments(normal(1024, 3.0), 0)
    steps = 1 << 14

    @jax.jit
    def stream(m):
      merge = lambda m, _: (normjax.merge_moments(m, batch), None)
      return jax.lax.scan(merge, m, None, length=steps)[0]

    m = stream(old)
    exact = lambda value, tail: float(value) + float(tail)
    # What the start itself holds, after rounding to float32.
    count = float(np.float32(seen)) + steps * 1024
    self.assertEqual(exact(m.count, m.count_tail), count)
    share = steps * 1024 / count
    mean = share * exact(batch.mean, batch.mean_tail)
    np.testing.assert_allclose(exact(m.mean, m.mean_tail), mean, rtol=1e-5)
    var = (
      (1 - share)
      + share * float(batch.var)
      + share * (1 - share) * float(batch.mean) ** 2
    )
    np.testing.assert_allclose(m.var, var, rtol=1e-6)
    np.testing.assert_allclose(
      exact(m.m2, m.m2_tail) - float(old.m2), var * count - float(old.m2),
      rtol=1e-4,
    )  # fmt: skip
