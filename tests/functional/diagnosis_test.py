"""JAX's tools of diagnosis see through the primitives."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.experimental import checkify, roofline

import normjax
from tests.cases import KINDS, named

INFINITE = np.float32([[1, 2, 3, 4], [1, np.inf, 3, 4]])


class DiagnosisTest(parameterized.TestCase):
  @parameterized.named_parameters(named(KINDS))
  def test_checkify_reports_nan(self, case):
    x = case.input()
    x[0] = np.inf
    checked = checkify.checkify(case.apply, errors=checkify.float_checks)
    error, _ = jax.jit(checked)(x)
    self.assertIn("nan generated", error.get())
    error, _ = jax.jit(checked)(case.input())
    self.assertIsNone(error.get())

  def test_checkify_reports_nan_in_a_gradient(self):
    gradient = jax.grad(lambda x, dy: jnp.vdot(normjax.layer_norm(x), dy))
    checked = checkify.checkify(gradient, errors=checkify.float_checks)
    error, _ = checked(np.ones((2, 4), np.float32), INFINITE)
    self.assertIn("nan generated", error.get())

  @parameterized.parameters(jax.jit, lambda function: function)
  def test_debug_nans(self, wrap):
    function = wrap(normjax.layer_norm)
    with jax.debug_nans(True):
      function(INFINITE[:1])
      with self.assertRaisesRegex(FloatingPointError, "nan"):
        function(INFINITE)
      with self.assertRaisesRegex(FloatingPointError, "nan"):
        jax.grad(lambda x: jnp.sum(function(x)))(INFINITE)

  def test_debug_nans_sees_no_nan_that_is_masked(self):
    x = INFINITE.copy()
    x[1, 1] = np.nan
    with jax.debug_nans(True):
      y = normjax.layer_norm(x, mask=np.isfinite(x))
    self.assertTrue(np.isfinite(y).all())

  @parameterized.named_parameters(named(KINDS))
  def test_roofline_counts_operations_and_bytes(self, case):
    x = case.input()
    _, result = roofline.roofline(case.apply)(
      jax.ShapeDtypeStruct(x.shape, x.dtype)
    )
    self.assertGreaterEqual(result.unfused_flops, 4 * x.size)
    self.assertGreaterEqual(result.unfused_hbm_bytes, 2 * x.nbytes)

  def test_programs_can_be_printed(self):
    program = jax.make_jaxpr(jax.grad(lambda x: normjax.layer_norm(x).sum()))
    self.assertIn("layer_norm", str(program(INFINITE)))
