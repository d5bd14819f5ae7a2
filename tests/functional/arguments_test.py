"""How the pure functions take their arguments."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax

FUNCTIONS = (
  normjax.batch_norm, normjax.batch_renorm, normjax.complex_batch_norm,
  normjax.decorrelated_batch_norm, normjax.domain_batch_norm,
  normjax.ghost_batch_norm, normjax.group_norm, normjax.instance_norm,
  normjax.layer_norm, normjax.moments, normjax.rms_norm, normjax.standardize,
  normjax.step_batch_norm,
)  # fmt: skip


class ArgumentsTest(parameterized.TestCase):
  @parameterized.parameters(*FUNCTIONS)
  def test_arrays_come_first_and_options_by_name(self, function):
    signature = inspect.signature(function)
    kinds = {name: p.kind for name, p in signature.parameters.items()}
    positional = [
      name for name, kind in kinds.items()
      if kind == inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]  # fmt: skip
    self.assertIn(tuple(positional), {
      ("x",), ("x", "axes"), ("x", "scale"), ("x", "scale", "bias"),
      ("x", "scale", "bias", "stats"),
      ("x", "domain", "scale", "bias", "stats"),
      ("x", "step", "scale", "bias", "stats"),
    })  # fmt: skip
    self.assertIn("mask", kinds)
    self.assertIn("axis_name", kinds)
    self.assertIn("Returns:", function.__doc__)

  @parameterized.parameters(
    (normjax.layer_norm, 1e-6), (normjax.rms_norm, 1e-6),
    (normjax.group_norm, 1e-6), (normjax.instance_norm, 1e-6),
    (normjax.standardize, 1e-6), (normjax.batch_norm, 1e-5),
    (normjax.decorrelated_batch_norm, 1e-5),
    (normjax.complex_batch_norm, 1e-5),
  )  # fmt: skip
  def test_epsilon_does_not_depend_on_the_dtype(self, function, epsilon):
    # https://github.com/pytorch/pytorch/issues/189581: eps=None meant the
    # machine epsilon of bfloat16, later that of float32.
    default = inspect.signature(function).parameters["epsilon"].default
    self.assertEqual(default, epsilon)

  def test_axes_may_be_any_sequence_of_integers(self):
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    expected = normjax.layer_norm(x, reduction_axes=(1, 2))
    for axes in ([1, 2], (-1, -2), np.array([2, 1]), range(1, 3), {1, 2}):
      y = normjax.layer_norm(x, reduction_axes=axes)
      np.testing.assert_array_equal(y, expected)
    expected = normjax.standardize(x, 1)
    for axis in ([1], (-2,), np.int64(1), np.array([1])):
      np.testing.assert_array_equal(normjax.standardize(x, axis), expected)

  def test_x_by_name(self):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y = normjax.layer_norm(scale=np.ones(3, np.float32), x=x)
    np.testing.assert_array_equal(y, normjax.layer_norm(x))

  def test_none_means_not_used(self):
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    ones, zeros = np.ones(6, np.float32), np.zeros(6, np.float32)
    y = normjax.layer_norm(x)
    for scale, bias in ((ones, None), (None, zeros), (ones, zeros)):
      given = normjax.layer_norm(x, scale, bias)
      np.testing.assert_allclose(given, y, rtol=1e-6, atol=1e-6)

  def test_parameters_of_another_dtype(self):
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    scale = np.full(6, 1.5, np.float32)
    expected = normjax.layer_norm(x, scale, scale)
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float64):
      y = normjax.layer_norm(x, scale.astype(dtype), scale.astype(dtype))
      self.assertEqual(y.dtype, np.float32)
      np.testing.assert_array_equal(y, expected)

  def test_jax_arrays_and_numpy_arrays(self):
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_array_equal(
      normjax.layer_norm(x), normjax.layer_norm(jax.numpy.asarray(x))
    )
