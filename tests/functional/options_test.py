"""What options and arrays may be: arrays, traced values, lists, wrappers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from tests.cases import KINDS, LAYER, RMS, differentiable, named

X = np.arange(12, dtype=np.float32).reshape(4, 3) ** 2


class Wrapper:
  """Converts to an array, as `flax.nnx.Param` does."""

  def __init__(self, value):
    self.value = value

  def __jax_array__(self):
    return self.value


def train(x, **options):
  return normjax.batch_norm(x, use_running_average=False, **options)[0]


class ArrayLikeTest(parameterized.TestCase):
  @parameterized.parameters(
    (lambda v: v.tolist(),), (Wrapper,), (np.asarray,), (jnp.asarray,)
  )
  def test_arrays_may_be_what_converts_to_arrays(self, convert):
    scale, bias = np.float32([1, 2, 3]), np.float32([0, 1, 2])
    mask = X > 4
    y = normjax.layer_norm(
      convert(X), convert(scale), bias=convert(bias), mask=mask.tolist()
    )
    expected = normjax.layer_norm(X, scale, bias, mask=mask)
    np.testing.assert_array_equal(y, expected)
    stats = normjax.BatchStats(convert(bias), convert(scale))
    y, _ = normjax.batch_norm(X, stats=stats, use_running_average=True)
    stats = normjax.BatchStats(bias, scale)
    expected, _ = normjax.batch_norm(X, stats=stats, use_running_average=True)
    np.testing.assert_array_equal(y, expected)

  @parameterized.parameters(
    ({"x": "three"}, "x must be an array.*got str: 'three'"),
    ({"x": X, "scale": {"w": 1}}, "scale must be an array.*got dict"),
    ({"x": X, "bias": object()}, "bias must be an array.*got object"),
    ({"x": [[1.0], [2.0, 3.0]]}, "x must be an array.*got list"),
    ({"x": np.array(["1.0"])}, "x must hold numbers, got <U3"),
    ({"x": X, "bias": np.array([1.0, None])}, "bias must hold .*got object"),
    ({"x": None}, "layer_norm needs an array x, got NoneType"),
    ({"x": normjax.BatchStats(X, X)}, "needs an array x, got BatchStats"),
  )
  def test_what_does_not_convert_is_refused_by_name(self, arguments, message):
    with self.assertRaisesRegex(TypeError, message):
      normjax.layer_norm(**arguments)


class ArrayOptionsTest(parameterized.TestCase):
  @parameterized.parameters(np.float32, np.float64, jnp.float32, np.array)
  def test_numbers(self, convert):
    for norm in (normjax.layer_norm, normjax.rms_norm, train):
      np.testing.assert_array_equal(
        norm(X, epsilon=convert(0.5)), norm(X, epsilon=0.5)
      )

  @parameterized.parameters(np.bool_, jnp.bool_, np.array)
  def test_flags(self, convert):
    _, stats = normjax.batch_norm(X, use_running_average=convert(False))
    y, _ = normjax.batch_norm(X, stats=stats, use_running_average=convert(True))
    expected, _ = normjax.batch_norm(X, stats=stats, use_running_average=True)
    np.testing.assert_array_equal(y, expected)

  def test_axes_and_counts(self):
    expected = normjax.group_norm(X, num_groups=1, reduction_axes=-1)
    y = normjax.group_norm(
      X, num_groups=jnp.int32(1), reduction_axes=jnp.array([-1])
    )
    np.testing.assert_array_equal(y, expected)

  @parameterized.parameters(
    ("use_running_average", True, normjax.batch_norm),
    ("reduction_axes", 1, normjax.layer_norm),
    ("num_groups", 3, normjax.group_norm),
    ("ddof", 1, functools.partial(normjax.standardize, axes=1)),
    ("axes", 1, normjax.moments),
  )
  def test_a_traced_option_is_refused_by_name(self, name, value, function):
    call = jax.jit(lambda value: function(X, **{name: value}))
    message = f"{name} must be known while tracing, got .*static_argnames"
    with self.assertRaisesRegex(TypeError, message):
      call(value)


class TracedEpsilonTest(parameterized.TestCase):
  @parameterized.named_parameters(named(KINDS))
  def test_is_what_a_number_is(self, case):
    x, (scale, bias) = case.input(), case.parameters()
    _, apply = differentiable(case, scale, bias, epsilon=0.3)
    given, _ = differentiable(case, scale, bias)

    @jax.jit
    def traced(epsilon, x, *given):
      _, apply = differentiable(case, scale, bias, epsilon=epsilon)
      return apply(x, *given)

    dy = case.input(seed=1)
    y, vjp = jax.vjp(apply, x, *given)
    y_, vjp_ = jax.vjp(lambda *given: traced(0.3, *given), x, *given)
    np.testing.assert_allclose(y_, y, rtol=1e-6, atol=1e-6)
    for actual, expected in zip(vjp_(dy), vjp(dy), strict=True):
      np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)

  @parameterized.named_parameters(named((LAYER, RMS)))
  def test_derivative(self, case):
    x, (scale, bias) = case.input(), case.parameters()

    def loss(epsilon):
      return jnp.sum(case.apply(x, scale, bias, epsilon=epsilon) ** 3)

    step = 2.0**-6
    slope = (loss(1 + step) - loss(1 - step)) / (2 * step)
    for derivative in (jax.grad, jax.jacfwd):
      np.testing.assert_allclose(derivative(loss)(1.0), slope, rtol=2e-3)

  def test_mapped(self):
    epsilons = jnp.array([1e-6, 1.0])
    y = jax.vmap(lambda epsilon: normjax.layer_norm(X, epsilon=epsilon))(
      epsilons
    )
    for actual, epsilon in zip(y, (1e-6, 1.0), strict=True):
      np.testing.assert_allclose(
        actual, normjax.layer_norm(X, epsilon=epsilon), rtol=1e-6, atol=1e-6
      )

  def test_evaluation(self):
    stats = normjax.BatchStats(np.float32([0, 1, 2]), np.float32([1, 2, 3]))
    evaluate = lambda epsilon: normjax.batch_norm(
      X, stats=stats, use_running_average=True, epsilon=epsilon
    )[0]
    np.testing.assert_allclose(jax.jit(evaluate)(0.5), evaluate(0.5), rtol=1e-6)

  def test_must_be_a_scalar(self):
    with self.assertRaisesRegex(
      ValueError, r"epsilon must be a scalar.*\(2,\)"
    ):
      jax.jit(lambda epsilon: normjax.rms_norm(X, epsilon=epsilon))(jnp.ones(2))
