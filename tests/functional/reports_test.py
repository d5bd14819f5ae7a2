"""Programs from public reports, with normjax's norms in them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from tests import cases, reference


def batch_norm(x, scale, **options):
  return normjax.batch_norm(x, scale, use_running_average=False, **options)[0]


def in_rows(norm):
  """Returns a norm of each row, mapped as a model of one row would be."""

  def mapped(x, scale, mask=None):
    one = lambda x, mask: norm(x, scale, mask=mask)
    return jax.vmap(one, (0, None if mask is None else 0))(x, mask)

  return mapped


def as_one_group(x, scale, mask):
  """Returns the group norm of a row, which is a batch of one here."""
  mask = None if mask is None else mask[None]
  return normjax.group_norm(x[None], scale, num_groups=1, mask=mask)[0]


class MappedProductTest(parameterized.TestCase):
  """A product with each row, then a sum of squares in it.

  https://github.com/jax-ml/jax/issues/39103: the CPU compiler of jaxlib 0.10.2
  computes the last of 32,769 rows wrongly.
  """

  def setUp(self):
    super().setUp()
    random = np.random.default_rng(0)
    # Small integers, of which products and sums are exact.
    self.x, self.matrix = (
      random.integers(-8, 9, shape).astype(np.float32)
      for shape in ((32769, 3), (3, 3))
    )
    self.scale = random.standard_normal(3).astype(np.float32)
    self.dy = random.standard_normal(self.x.shape).astype(np.float32)
    self.mask = random.random(self.x.shape) < 0.7

  def test_the_report_itself(self):
    squares = lambda x: jax.vmap(lambda row: jnp.sum((self.matrix @ row) ** 2))(
      x
    )
    expected = np.sum((self.x @ self.matrix.T) ** 2, 1)
    np.testing.assert_array_equal(squares(self.x), expected)
    wrong = np.flatnonzero(jax.jit(squares)(self.x) != expected)
    if wrong.size:
      self.skipTest(f"this jaxlib miscompiles plain jax.numpy, rows {wrong}")

  @parameterized.product(
    norm=("layer", "rms", "group", "batch"), masked=(False, True)
  )
  def test_compiled_and_eager_are_right(self, norm, masked):
    function, expect = {
      "layer": (in_rows(normjax.layer_norm), reference.layer_norm),
      "rms": (in_rows(normjax.rms_norm), reference.rms_norm),
      "group": (
        in_rows(as_one_group),
        functools.partial(reference.group_norm, num_groups=1),
      ),
      "batch": (batch_norm, reference.batch_norm),
    }[norm]
    mask = self.mask if masked else None

    def run(x, matrix, scale):
      multiply = functools.partial(jnp.matmul, matrix, precision="highest")
      products = jax.vmap(multiply)(x)
      return function(products, scale, mask=mask)

    def both(x, matrix, scale, dy):
      y, pullback = jax.vjp(run, x, matrix, scale)
      return y, pullback(dy)

    arguments = self.x, self.matrix, self.scale, self.dy
    expected = expect(self.x @ self.matrix.T, self.scale, mask=mask)
    d_product, d_scale, _ = expected.pullback(self.dy)
    wanted = d_product @ self.matrix, d_product.T @ self.x, d_scale
    y, gradients = jax.jit(both)(*arguments)
    for value in (y, run(*arguments[:3])):
      self.assertLessEqual(reference.scaled_error(value, expected.y), 4e-6)
    for gradient, exact in zip(gradients, wanted, strict=True):
      self.assertLessEqual(reference.relative_error(gradient, exact), 1e-5)

  @parameterized.named_parameters(
    ("layer", cases.LAYER, {}),
    ("rms", cases.RMS, {}),
    ("batch", cases.BATCH, {}),
    ("group", cases.GROUP, {"num_groups": 3}),
    ("layer_ddof", cases.LAYER, {"ddof": 1}),
    ("layer_masked", cases.LAYER, {"mask": True}),
    ("rms_masked", cases.RMS, {"mask": True}),
  )
  def test_without_the_product(self, case, options):
    """The same compiler computes gradients of the formulas wrongly.

    With more than 2^15 elements, in rows whose length is no multiple of 4.
    """
    random = np.random.default_rng(1)
    x, dy = random.standard_normal((2, 4099, 9)).astype(np.float32)
    scale = random.standard_normal(9).astype(np.float32)
    options = dict(options)
    if "mask" in options:
      options["mask"] = random.random(x.shape) < 0.7

    @jax.jit
    def run(x, scale, dy):
      apply = lambda x, scale: case.apply(x, scale, **options)
      y, pullback = jax.vjp(apply, x, scale)
      return y, *pullback(dy)

    expected = case.expect(x, scale, **options)
    y, dx, d_scale = run(x, scale, dy)
    wanted_dx, wanted_d_scale, _ = expected.pullback(dy)
    self.assertLessEqual(reference.scaled_error(y, expected.y), 4e-6)
    self.assertLessEqual(reference.relative_error(dx, wanted_dx), 1e-5)
    self.assertLessEqual(
      reference.relative_error(d_scale, wanted_d_scale), 1e-5
    )


class NanBehindMaskTest(parameterized.TestCase):
  """Embeddings out of range are NaN; a mask leaves them out.

  https://github.com/jax-ml/jax/issues/26328: every gradient of the model is
  NaN all the same.
  """

  @parameterized.named_parameters(cases.named(cases.KINDS))
  def test_gradients(self, case):
    scale, bias = case.parameters()
    given = [p for p in (scale, bias) if p is not None]
    mask = np.random.default_rng(2).random(case.shape) < 0.6
    # One whole group is padding.
    mask[case.groups() == 0] = False
    weights = case.input(seed=1)

    def loss(x, *given):
      y = case.apply(x, *given, mask=mask)
      mean = jnp.mean(y * weights, where=mask)
      return mean + jnp.max(y, where=mask, initial=-jnp.inf) + jnp.sum(y**2)

    every = tuple(range(1 + len(given)))
    gradient = jax.grad(loss, every)

    @jax.jit
    def run(x, tangent, *given):
      push = lambda f, x: jax.jvp(lambda x: f(x, *given), (x,), (tangent,))
      two = jnp.stack([x, x])
      return {
        "reverse, second order": push(gradient, x),
        "forward, vmap": jax.vmap(lambda x: push(loss, x))(two),
        "checkpoint, vmap": jax.vmap(
          lambda x: jax.grad(jax.checkpoint(loss), every)(x, *given)
        )(two),
      }

    clean = np.where(mask, case.input(), np.float32(0))
    tangent = case.input(seed=3)
    expected = run(clean, tangent, *given)
    chex.assert_tree_all_finite(expected)
    for dx, *_ in expected["reverse, second order"]:
      np.testing.assert_array_equal(dx[~mask], 0)
      self.assertTrue(np.any(dx[mask] != 0))
    for bad in (np.nan, np.inf, -np.inf):
      dirty = np.where(mask, clean, np.float32(bad))
      chex.assert_trees_all_equal(run(dirty, tangent, *given), expected)

  @parameterized.named_parameters(cases.named(cases.KINDS))
  def test_debug_nans(self, case):
    scale, bias = case.parameters()
    mask = np.random.default_rng(2).random(case.shape) < 0.6
    mask[case.groups() == 0] = False
    x = np.where(mask, case.input(), np.float32(np.nan))
    dy = case.input(seed=1)
    given, norm = cases.differentiable(case, scale, bias, mask=mask)
    eager = lambda x, *given: case.apply(x, *given, mask=mask)
    with jax.debug_nans(True):
      with self.assertRaises(FloatingPointError):
        jax.jit(jnp.mean)(x)
      for function in (norm, eager):
        y, pullback = jax.vjp(function, x, *given)
        gradients = pullback(dy)
        chex.assert_tree_all_finite((y, gradients))
        np.testing.assert_array_equal(gradients[0][~mask], 0)

  def test_the_report_itself(self):
    ids = np.random.default_rng(0).integers(0, 20, (8, 10))
    mask = (ids < 10)[..., None]
    table, scale, bias = np.ones((10, 4)), np.ones(4), np.zeros(4)
    table = table + np.random.default_rng(1).random((10, 4))

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def gradients(table, scale, bias):
      x = jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)
      y, _ = normjax.batch_norm(
        x, scale, bias, use_running_average=False, mask=mask
      )
      return jnp.mean(jnp.max(y, (1, 2), where=mask, initial=-jnp.inf))

    arguments = (np.float32(value) for value in (table, scale, bias))
    chex.assert_tree_all_finite(gradients(*arguments))
