"""What runs outside of `jax.jit` is what runs inside."""

import unittest
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from normjax.functional import primitives
from normjax.native import library
from tests.cases import BATCH, KINDS, LAYER, differentiable, named

needs_kernels = unittest.skipUnless(
  library.load(), "the native kernels are not built"
)


class EagerTest(parameterized.TestCase):
  @parameterized.named_parameters(
    named(KINDS, "plain") + named((LAYER, BATCH), "masked")
  )
  def test_same_results(self, case, masked):
    # https://github.com/google-deepmind/gemma/issues/367 is of this kind.
    x, (scale, bias) = case.input(mean=3.0), case.parameters()
    mask = {"mask": case.input(seed=2) > -1} if masked == "masked" else {}
    given, _ = differentiable(case, scale, bias)

    def run(x, *given):
      rest = iter(given)
      scale_, bias_ = (p if p is None else next(rest) for p in (scale, bias))
      y, vjp = jax.vjp(
        lambda x: case.apply(x, scale_, bias_, **case.options | mask), x
      )
      return y, *vjp(case.input(seed=1))

    compiled = jax.jit(run)
    kernels = "@normjax_normalize" in compiled.lower(x, *given).as_text()
    # XLA fuses what it compiles together, and rounds otherwise in a fusion.
    tolerance = 0 if kernels else 1e-6
    results = zip(run(x, *given), compiled(x, *given), strict=True)
    for actual, expected in results:
      np.testing.assert_allclose(
        actual, expected, rtol=tolerance, atol=tolerance
      )

  @needs_kernels
  def test_no_formula_runs_by_itself(self):
    ran = mock.Mock()
    gradient = jax.grad(lambda x: jnp.sum(normjax.layer_norm(x) ** 3))
    x = LAYER.input()
    expected = gradient(x)
    for primitive in (primitives._normalize_p, primitives._pullback_p):
      self.enter_context(mock.patch.object(primitive, "impl", ran))
    np.testing.assert_array_equal(gradient(x), expected)
    ran.assert_not_called()

  @needs_kernels
  def test_disable_jit(self):
    x = LAYER.input()
    gradient = jax.grad(lambda x: jnp.sum(normjax.layer_norm(x)[0]))
    expected = normjax.layer_norm(x), gradient(x)
    with jax.disable_jit():
      actual = normjax.layer_norm(x), gradient(x)
    np.testing.assert_array_equal(actual[0], expected[0])
    np.testing.assert_allclose(actual[1], expected[1], atol=1e-6)
