"""Every norm under every transformation of JAX."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from tests import cases, reference


class TransformationsTest(parameterized.TestCase):
  def assert_exact(self, y, expected):
    self.assertLessEqual(reference.scaled_error(y, expected), 4e-6)

  @parameterized.named_parameters(cases.named(cases.CASES))
  def test_eval_shape(self, case):
    scale, bias = case.parameters()
    for dtype in (jnp.float32, jnp.bfloat16, jnp.complex64):
      x = jax.ShapeDtypeStruct(case.shape, dtype)
      y = jax.eval_shape(case.apply, x, scale, bias)
      self.assertEqual((y.shape, y.dtype), (case.shape, dtype))

  @parameterized.named_parameters(cases.named(cases.KINDS))
  def test_nested_vmap(self, case):
    xs = np.stack([
      [case.input(10.0**i, seed=3 * i + j) for j in range(3)] for i in range(2)
    ])  # fmt: skip
    masks = np.random.default_rng(0).random(xs.shape) < 0.7
    scale, bias = case.parameters()
    apply = lambda x, mask: case.apply(x, scale, bias, mask=mask)
    ys = jax.vmap(jax.vmap(apply, in_axes=-1), out_axes=1)(
      np.moveaxis(xs, 1, -1), np.moveaxis(masks, 1, -1)
    )
    ys = np.swapaxes(ys, 0, 1)
    for i in range(2):
      for j in range(3):
        expected = case.expect(xs[i, j], scale, bias, mask=masks[i, j]).y
        self.assert_exact(ys[i, j], expected)

  @parameterized.named_parameters(cases.named(cases.KINDS))
  def test_vmap_over_parameters_and_gradients(self, case):
    x = case.input()
    scales = np.stack([case.parameters(seed)[0] for seed in range(3)])
    dy = case.input(seed=1)

    def pull(scale):
      return jax.vjp(lambda x, s: case.apply(x, s), x, scale)[1](dy)

    dx, d_scale = jax.jit(jax.vmap(pull))(scales)
    for i, scale in enumerate(scales):
      expected = case.expect(x, scale).pullback(dy)
      self.assertLess(reference.relative_error(dx[i], expected[0]), 1e-5)
      self.assertLess(reference.relative_error(d_scale[i], expected[1]), 1e-5)

  @parameterized.named_parameters(cases.named(cases.KINDS))
  def test_scan_and_remat(self, case):
    x = case.input(1e4)
    scale, _ = case.parameters()

    def repeat(x, wrap):
      step = wrap(lambda y, _: (case.apply(y, scale) + y, None))
      return jnp.sum(jax.lax.scan(step, x, length=3)[0] ** 2)

    def unrolled(x):
      for _ in range(3):
        x = case.apply(x, scale) + x
      return jnp.sum(x**2)

    expected = jax.jit(jax.value_and_grad(unrolled))(x)
    for wrap in (lambda f: f, jax.checkpoint):
      value = jax.jit(jax.value_and_grad(lambda x: repeat(x, wrap)))(x)  # noqa: B023
      chex.assert_trees_all_close(value, expected, rtol=1e-5)

  @parameterized.named_parameters(cases.named(cases.KINDS))
  def test_compiled_once(self, case):
    chex.clear_trace_counter()
    norm = jax.jit(chex.assert_max_traces(case.apply, n=1))
    for seed in range(3):
      norm(case.input(seed=seed))

  def test_double_norm_in_a_residual_block(self):
    # https://github.com/linkedin/Liger-Kernel/issues/370: an in-place
    # backward pass corrupts a norm before and after the residual.
    x = cases.RMS.input()
    block = jax.jit(lambda x: x + normjax.rms_norm(normjax.rms_norm(x) + x))
    inner = reference.rms_norm(x)
    outer = reference.rms_norm(inner.y + x)
    self.assert_exact(block(x), x + outer.y)
    dy = cases.RMS.input(seed=1)
    d_sum = outer.pullback(dy)[0]
    expected = dy + d_sum + inner.pullback(d_sum)[0]
    (dx,) = jax.vjp(block, x)[1](dy)
    self.assertLess(reference.relative_error(dx, expected), 1e-5)

  def test_running_statistics_are_a_scan_carry(self):
    xs = np.random.default_rng(0).standard_normal((5, 8, 3)) + 100
    for dtype in (jnp.float32, jnp.bfloat16):
      batches = jnp.asarray(xs, dtype)
      old = normjax.BatchStats(jnp.zeros(3), jnp.ones(3))

      def step(stats, x):
        y, stats = normjax.batch_norm(
          x, stats=stats, use_running_average=False, momentum=0.9
        )
        return stats, y

      stats, ys = jax.lax.scan(step, old, batches)
      expected = (np.zeros(3), np.ones(3))
      for x in np.asarray(batches):
        expected = reference.running_statistics(x, expected, momentum=0.9)
      self.assertEqual(ys.dtype, dtype)
      for field, wanted in zip(stats, expected, strict=True):
        self.assertEqual(field.dtype, np.float32)
        np.testing.assert_allclose(field, wanted, rtol=1e-6)


class AxisNamesTest(parameterized.TestCase):
  """A mapped axis that is averaged over, under vmap."""

  def setUp(self):
    super().setUp()
    random = np.random.default_rng(0)
    x = 1e4 + random.standard_normal((2, 3, 4, 6)) * np.arange(1, 7)
    self.x = x.astype(np.float32)
    self.mask = random.random(self.x.shape) < 0.6
    self.mask[0, 1] = False

  def assert_exact(self, y, expected):
    self.assertLessEqual(reference.scaled_error(y, expected), 2e-6)

  @parameterized.parameters(("i", 0), ("j", 1), (("i", "j"), (0, 1)),
                            (["j", "i"], (0, 1)))  # fmt: skip
  def test_names_are_axes(self, names, axes):
    # https://github.com/google/flax/issues/3319.
    def mapped(function):
      inner = jax.vmap(function, axis_name="j")
      return jax.vmap(inner, axis_name="i")(self.x, self.mask)

    axes = np.atleast_1d(axes).tolist()
    y = mapped(lambda x, mask: normjax.standardize(
      x, 0, mask=mask, axis_name=names))  # fmt: skip
    over = (*axes, 2)
    self.assert_exact(y, reference.standardize(self.x, over, mask=self.mask)[0])
    y = mapped(lambda x, mask: normjax.layer_norm(
      x, mask=mask, axis_name=names))  # fmt: skip
    expected = reference.standardize(self.x, (*axes, 3), mask=self.mask)[0]
    self.assert_exact(y, expected)
    y = mapped(lambda x, mask: normjax.rms_norm(
      x, mask=mask, axis_name=names))  # fmt: skip
    expected = reference.rms_norm(
      self.x, reduction_axes=(*axes, 3), mask=self.mask
    )
    self.assert_exact(y, expected.y)
    m = mapped(lambda x, mask: normjax.moments(
      x, 0, mask=mask, axis_name=names))  # fmt: skip
    mean, var = reference.mean_and_var(self.x, over, self.mask)
    shape = m.mean.shape
    np.testing.assert_allclose(
      m.mean, np.broadcast_to(mean.squeeze(2), shape), rtol=1e-6
    )
    np.testing.assert_allclose(
      m.var, np.broadcast_to(var.squeeze(2), shape), rtol=1e-5
    )

  def test_group_and_instance_norm(self):
    x = self.x[:, :, None]  # A batch of one in every place.
    y = jax.vmap(jax.vmap(lambda x: normjax.group_norm(
      x, num_groups=2, axis_name="j"), axis_name="j"))(x)  # fmt: skip
    expected = reference.group_norm(self.x.reshape(2, 12, 6), num_groups=2).y
    self.assert_exact(np.reshape(y, (2, 12, 6)), expected)
    y = jax.vmap(jax.vmap(lambda x: normjax.instance_norm(
      x, axis_name="j"), axis_name="j"))(x)  # fmt: skip
    expected = reference.instance_norm(self.x.reshape(2, 12, 6)).y
    self.assert_exact(np.reshape(y, (2, 12, 6)), expected)

  def test_one_value_each_is_enough_together(self):
    x = self.x[:, 0, :1]
    y, stats = jax.vmap(
      lambda x: normjax.batch_norm(x, use_running_average=False, axis_name="i"),
      axis_name="i",
    )(x)
    self.assert_exact(y[:, 0], reference.batch_norm(x[:, 0]).y)
    np.testing.assert_array_equal(stats.mean[0], stats.mean[1])

  def test_derivatives(self):
    dy = np.random.default_rng(1).standard_normal(self.x.shape)
    dy = dy.astype(np.float32)

    def function(x):
      inner = lambda x, mask: normjax.standardize(
        x, 0, mask=mask, axis_name="i"
      )
      return jax.vmap(jax.vmap(inner), axis_name="i")(x, self.mask)

    _, derivative = reference.standardize(self.x, (0, 2), mask=self.mask)
    (dx,) = jax.vjp(function, self.x)[1](dy)
    self.assertLess(reference.relative_error(dx, derivative(dy)), 1e-5)
    _, push = jax.jvp(function, (self.x,), (dy,))
    self.assertLess(reference.relative_error(push, derivative(dy)), 1e-5)

  def test_an_array_that_does_not_vary_along_the_axis(self):
    x = self.x[0, 0]
    y = jax.vmap(lambda _: normjax.layer_norm(x, axis_name="i"), axis_name="i")(
      np.arange(3)
    )
    self.assert_exact(y[2], reference.layer_norm(x).y)
