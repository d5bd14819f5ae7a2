"""Programs from public reports, with normjax's norms in them."""

import functools

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
      products = jax.vmap(lambda row: matrix @ row)(x)
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
