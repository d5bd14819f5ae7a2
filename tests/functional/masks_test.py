"""What is masked is not there: a masked norm equals one of the rest."""

import hypothesis
import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from hypothesis import strategies

import normjax
from tests import cases, reference

CORE = (*cases.KINDS, cases.ANNOTATED_TRANSFORMER)


def random_mask(shape, seed=0, share=0.6):
  return np.random.default_rng(seed).random(shape) < share


def shift(case):
  """Returns what a place that does not count comes out as."""
  _, bias = case.parameters()
  return case.expect(np.zeros(case.shape), None, bias).y


@strategies.composite
def masked_inputs(draw):
  """Draws a shape, axes of it, a mean, and a mask that broadcasts to it."""
  shape = draw(strategies.sampled_from([(4, 6), (2, 3, 5), (3, 1, 4, 2)]))
  ndim = len(shape)
  axes = draw(
    strategies.sets(strategies.integers(0, ndim - 1), min_size=1, max_size=ndim)
  )
  full = [draw(strategies.sampled_from([size, size, 1])) for size in shape]
  dropped = draw(strategies.integers(0, ndim - 1))
  mask = draw(hypothesis.extra.numpy.arrays(bool, full[dropped:]))
  mean = draw(strategies.sampled_from([0.0, -7.5, 1e4, 1e6]))
  garbage = draw(strategies.sampled_from([np.nan, np.inf, -np.inf, 3e38]))
  return shape, tuple(sorted(axes)), mask, mean, garbage


class MasksTest(parameterized.TestCase):
  @hypothesis.given(masked_inputs(), strategies.integers(0, 2**20))
  @hypothesis.settings(
    max_examples=20, deadline=None, derandomize=True, database=None
  )
  def test_equals_the_norm_of_compacted_data(self, drawn, seed):
    shape, axes, mask, mean, garbage = drawn
    x = np.random.default_rng(seed).standard_normal(shape) + mean
    x = x.astype(np.float32)
    present = np.broadcast_to(mask, shape)
    dirty = np.where(present, x, np.float32(garbage))
    y = np.asarray(normjax.standardize(dirty, axes, mask=mask))
    m = normjax.moments(dirty, axes, mask=mask, keepdims=True)
    np.testing.assert_array_equal(y[~present], 0)
    kept = [i for i in range(len(shape)) if i not in axes]
    for index in np.ndindex(*[shape[i] for i in kept]):
      group = [slice(None)] * len(shape)
      for axis, i in zip(kept, index, strict=True):
        group[axis] = slice(i, i + 1)
      group = tuple(group)
      compacted = x[group][present[group]]
      self.assertEqual(m.count[group].item(), compacted.size)
      if compacted.size:
        expected = reference.standardize(compacted, (0,))[0]
        error = reference.scaled_error(y[group][present[group]], expected)
        self.assertLessEqual(error, 2e-6)
        np.testing.assert_allclose(
          m.var[group].item(), np.var(compacted, dtype=np.float64),
          rtol=2e-6, atol=1e-12,
        )  # fmt: skip
      else:
        self.assertEqual(m.mean[group].item(), 0)
        self.assertEqual(m.var[group].item(), 0)

  @parameterized.named_parameters(cases.named(cases.CASES))
  def test_every_group_equals_the_norm_of_what_counts(self, case):
    x = case.input(1e3)
    mask = random_mask(x.shape)
    y = np.asarray(case.apply(x, mask=mask))
    groups = case.groups()
    # Standardization of what counts in a group, by the plain formula.
    options = {
      name: value
      for name, value in case.options.items()
      if name in ("ddof", "epsilon_outside_sqrt")
    }
    options["epsilon"] = 1e-5 if case.name.startswith("batch") else 1e-6
    for group in range(groups.max() + 1):
      here = (groups == group) & mask
      expected, _ = reference.standardize(
        x[here], (0,), centered=case.centered, **options
      )
      self.assertLessEqual(reference.scaled_error(y[here], expected), 2e-6)

  @parameterized.named_parameters(cases.named(cases.CASES))
  def test_nothing_in_masked_places_counts(self, case):
    x = case.input(1e2)
    scale, bias = case.parameters()
    mask = random_mask(x.shape)
    dy = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    parameters, function = cases.differentiable(case, scale, bias, mask=mask)

    @jax.jit
    def run(x, parameters, dy):
      y, pullback = jax.vjp(function, x, *parameters)
      return y, pullback(dy)

    clean = np.where(mask, x, np.float32(0))
    y, gradients = run(clean, parameters, dy)
    expected = case.expect(clean, scale, bias, mask=mask)
    self.assertLessEqual(reference.relative_error(y, expected.y), 2e-6)
    for gradient, wanted in zip(gradients, expected.pullback(dy), strict=False):
      self.assertLessEqual(reference.relative_error(gradient, wanted), 1e-5)
    np.testing.assert_array_equal(np.asarray(y)[~mask], shift(case)[~mask])
    np.testing.assert_array_equal(np.asarray(gradients[0])[~mask], 0)
    for garbage in (np.nan, np.inf, -np.inf, 3e38):
      dirty = np.where(mask, x, np.float32(garbage))
      y_dirty, gradients_dirty = run(dirty, parameters, dy)
      np.testing.assert_array_equal(y_dirty, y)
      for gradient, wanted in zip(gradients_dirty, gradients, strict=True):
        np.testing.assert_array_equal(gradient, wanted)

  @parameterized.named_parameters(cases.named(CORE))
  def test_forward_mode_ignores_nan(self, case):
    x = case.input(1e2)
    mask = random_mask(x.shape)
    x = np.where(mask, x, np.float32(np.nan))
    dx = np.where(mask, case.input(seed=3), np.float32(np.nan))
    push = jax.jit(lambda x, dx: jax.jvp(
      lambda x: case.apply(x, mask=mask), (x,), (dx,))[1])  # fmt: skip
    expected = case.expect(x, mask=mask).pushforward(dx)
    self.assertLessEqual(reference.relative_error(push(x, dx), expected), 1e-5)

  @parameterized.named_parameters(cases.named(CORE))
  def test_second_order_ignores_nan(self, case):
    x = case.input(1e2)
    mask = random_mask(x.shape)
    groups = case.groups()
    mask[groups == groups.max()] = False
    weight, v = case.input(seed=1), case.input(seed=2)
    loss = lambda x: jnp.sum(jnp.tanh(case.apply(x, mask=mask)) * weight)
    product = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (v,))[1])
    clean = np.asarray(product(np.where(mask, x, np.float32(0))))
    dirty = np.asarray(product(np.where(mask, x, np.float32(np.nan))))
    np.testing.assert_array_equal(clean, dirty)
    self.assertTrue(np.all(np.isfinite(clean)))
    np.testing.assert_array_equal(clean[~mask], 0)

  @parameterized.named_parameters(cases.named(CORE))
  def test_empty_groups_are_the_bias_with_zero_gradients(self, case):
    # flax.linen: NaN in the output, in the gradient of scale even where the
    # loss drops the row, and in the running statistics for ever.
    scale, bias = case.parameters()
    x = case.input(1e2)
    groups = case.groups()
    for empty in (groups == 1, np.ones_like(groups, bool)):
      parameters, function = cases.differentiable(
        case, scale, bias, mask=~empty
      )
      dirty = np.where(empty, np.float32(np.nan), x)
      y, pullback = jax.vjp(function, dirty, *parameters)
      np.testing.assert_array_equal(np.asarray(y)[empty], shift(case)[empty])
      dy = case.input(seed=5)
      gradients = pullback(dy)
      np.testing.assert_array_equal(np.asarray(gradients[0])[empty], 0)
      wanted = case.expect(x, scale, bias, mask=~empty).pullback(dy)
      for gradient, expected in zip(gradients, wanted, strict=False):
        self.assertLessEqual(reference.relative_error(gradient, expected), 1e-5)
      if parameters and empty.all():
        np.testing.assert_array_equal(gradients[1], 0)

  @parameterized.named_parameters(cases.named(CORE))
  def test_one_element_left(self, case):
    x = case.input(1e3)
    groups = case.groups()
    mask = np.ones(x.shape, bool)
    alone = np.flatnonzero(groups == 0)
    mask.flat[alone[1:]] = False
    y = np.asarray(case.apply(x, mask=mask))
    self.assertTrue(np.all(np.isfinite(y)))
    if case.centered:
      self.assertEqual(y.flat[alone[0]], 0)

  @parameterized.named_parameters(
    ("full", (2, 3, 4, 6)), ("pixels", (2, 3, 4, 1)), ("rows", (2, 3, 1, 1)),
    ("examples", (2, 1, 1, 1)), ("channels", (6,)), ("no_batch", (3, 4, 1)),
    ("scalar", ()),
  )  # fmt: skip
  def test_masks_broadcast(self, shape):
    # flax.linen's GroupNorm refuses (batch, height, width, 1).
    x = 50 + np.random.default_rng(0).standard_normal((2, 3, 4, 6))
    x = x.astype(np.float32)
    mask = np.asarray(random_mask(shape, 4))
    full = np.broadcast_to(mask, x.shape)
    for norm, options in (
      (normjax.group_norm, {"num_groups": 3}),
      (normjax.instance_norm, {}),
      (normjax.layer_norm, {"reduction_axes": (1, 2, 3)}),
      (normjax.rms_norm, {}),
      (normjax.batch_norm, {"use_running_average": False}),
      (normjax.standardize, {"axes": (0, 2)}),
    ):
      narrow = jax.tree.leaves(norm(x, mask=mask, **options))
      broad = jax.tree.leaves(norm(x, mask=full, **options))
      for a, b in zip(narrow, broad, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)

  @parameterized.named_parameters(cases.named(CORE))
  def test_a_full_mask_changes_nothing(self, case):
    x = case.input(1e3)
    y = case.apply(x, mask=np.ones(x.shape, bool))
    np.testing.assert_allclose(y, case.apply(x), rtol=2e-6, atol=2e-6)

  @parameterized.named_parameters(cases.named(CORE))
  def test_half_precision_and_complex(self, case):
    mask = random_mask(case.shape)
    for dtype in (jnp.bfloat16, jnp.float16, jnp.complex64):
      x = case.input(3.0, dtype=dtype)
      x = np.where(mask, x, np.full((), np.nan, dtype))
      y = np.asarray(case.apply(x, mask=mask))
      self.assertEqual(y.dtype, x.dtype)
      error = np.abs(reference.wide(y) - case.expect(x, mask=mask).y)
      self.assertLessEqual(error.max(), 4 * float(jnp.finfo(dtype).eps))
      np.testing.assert_array_equal(y[~mask], np.zeros((), dtype))

  def test_the_mask_may_be_traced(self):
    x = cases.LAYER.input(1e3)
    mask = random_mask(x.shape)
    y = jax.jit(lambda x, mask: normjax.layer_norm(x, mask=mask))(x, mask)
    error = reference.scaled_error(y, reference.layer_norm(x, mask=mask).y)
    self.assertLessEqual(error, 2e-6)


class NanTest(parameterized.TestCase):
  @parameterized.named_parameters(cases.named(cases.CASES))
  def test_stays_in_its_group(self, case):
    x = case.input(1e2)
    groups = case.groups()
    other = groups != 1
    dy = case.input(seed=1)

    @jax.jit
    def run(x):
      y, pullback = jax.vjp(case.apply, x)
      return y, pullback(dy)[0]

    clean = jax.tree.map(np.asarray, run(x))
    for bad in (np.nan, np.inf, -np.inf):
      dirty = x.copy()
      dirty.flat[np.flatnonzero(groups == 1)[0]] = bad
      y, dx = jax.tree.map(np.asarray, run(dirty))
      np.testing.assert_array_equal(y[other], clean[0][other])
      np.testing.assert_array_equal(dx[other], clean[1][other])
      # Silence would be worse than NaN.
      self.assertTrue(np.any(np.isnan(y[~other])))


class RunningStatisticsMaskTest(parameterized.TestCase):
  def test_empty_channels_leave_them_alone(self):
    # Keras lets the moving variance decay; flax.linen makes it NaN.
    x = cases.BATCH.input(5.0)
    mask = random_mask(x.shape)
    mask[:, [1, 4]] = False
    x = np.where(mask, x, np.float32(np.nan))
    old = normjax.BatchStats(
      np.arange(6, dtype=np.float32), np.arange(1, 7, dtype=np.float32)
    )
    for ddof in (0, 1):
      _, new = normjax.batch_norm(
        x, stats=old, use_running_average=False, mask=mask,
        momentum=0.9, running_var_ddof=ddof,
      )  # fmt: skip
      expected = reference.running_statistics(
        x, old, mask=mask, momentum=0.9, running_var_ddof=ddof
      )
      for field, before, wanted in zip(new, old, expected, strict=True):
        np.testing.assert_allclose(field, wanted, rtol=1e-6)
        np.testing.assert_array_equal(field[jnp.array([1, 4])], before[[1, 4]])

  def test_one_value_has_no_unbiased_variance(self):
    x = np.full((3, 1), 7.0, np.float32)
    mask = np.array([[False], [True], [False]])
    old = normjax.BatchStats(np.zeros(1, np.float32), np.ones(1, np.float32))
    _, new = normjax.batch_norm(
      x, stats=old, use_running_average=False, mask=mask, momentum=0.5,
      running_var_ddof=1,
    )  # fmt: skip
    self.assertEqual(new.mean, 3.5)
    self.assertEqual(new.var, 1.0)

  def test_evaluation_masks_too(self):
    x = cases.BATCH.input(5.0)
    mask = random_mask(x.shape)
    dirty = np.where(mask, x, np.float32(np.nan))
    scale, bias = cases.BATCH.parameters()
    stats = normjax.BatchStats(np.ones(6, np.float32), np.ones(6, np.float32))
    y, _ = normjax.batch_norm(
      dirty, scale, bias, stats, use_running_average=True, mask=mask
    )
    expected = reference.batch_norm(x, scale, bias, mask=mask, stats=stats).y
    self.assertLessEqual(reference.scaled_error(y, expected), 2e-6)
    gradient = jax.grad(
      lambda x: jnp.sum(
        normjax.batch_norm(
          x, scale, bias, stats, use_running_average=True, mask=mask
        )[0]
      )
    )(dirty)
    np.testing.assert_array_equal(np.asarray(gradient)[~mask], 0)
    self.assertTrue(np.all(np.isfinite(gradient)))

  def test_single_channel(self):
    # https://github.com/keras-team/keras/issues/19848: IndexError.
    x = np.arange(6, dtype=np.float32).reshape(6, 1)
    mask = np.array([True, True, True, False, False, False])[:, None]
    y, stats = normjax.batch_norm(x, use_running_average=False, mask=mask)
    self.assertEqual(stats.mean, 1.0)
    np.testing.assert_allclose(stats.var, [2 / 3], rtol=1e-6)
    np.testing.assert_array_equal(y[3:], 0)
