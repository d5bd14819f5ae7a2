"""Derivatives of every norm, in both directions and of second order."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.test_util import check_grads

import normjax
from tests import cases, reference

MEANS = (0.0, 1e2, 1e4, 1e6)
TOLERANCE = 1e-5
CORE = (*cases.KINDS, cases.ANNOTATED_TRANSFORMER)


def like(x, seed):
  """Returns a random array of the shape and dtype of `x`."""
  random = np.random.default_rng(seed)
  return random.standard_normal(np.shape(x)).astype(x.dtype)


class DerivativesTest(parameterized.TestCase):
  def assert_close(self, gradient, expected, tolerance=TOLERANCE):
    error = reference.relative_error(gradient, expected)
    self.assertLessEqual(error, tolerance)

  @parameterized.named_parameters(cases.named(cases.CASES))
  def test_reverse_mode(self, case):
    parameters, function = cases.differentiable(case, *case.parameters())
    pull = jax.jit(lambda x, p, dy: jax.vjp(function, x, *p)[1](dy))
    for mean in MEANS:
      x = case.input(mean)
      dy = like(x, 7)
      gradients = pull(x, parameters, dy)
      dx, *rest = case.expect(x, *case.parameters()).pullback(dy)
      for gradient, expected in zip(
        gradients, [dx, *rest][: len(gradients)], strict=True
      ):
        self.assertEqual(gradient.dtype, np.float32)
        self.assert_close(gradient, expected)

  @parameterized.named_parameters(cases.named(cases.CASES))
  def test_forward_mode(self, case):
    parameters, function = cases.differentiable(case, *case.parameters())
    push = jax.jit(lambda x, dx: jax.jvp(
      lambda x: function(x, *parameters), (x,), (dx,)))  # fmt: skip
    for mean in MEANS:
      x = case.input(mean)
      dx = like(x, 8)
      y, dy = push(x, dx)
      expected = case.expect(x, *case.parameters())
      self.assert_close(y, expected.y)
      self.assert_close(dy, expected.pushforward(dx))

  @parameterized.named_parameters(cases.named(CORE))
  def test_reverse_mode_is_forward_mode_transposed(self, case):
    parameters, function = cases.differentiable(case, *case.parameters())
    x = case.input(1e4)
    arguments = (x, *parameters)
    tangents = tuple(like(a, 3 + i) for i, a in enumerate(arguments))
    dy = like(x, 9)
    push = jax.jit(lambda *a: jax.jvp(function, a, tangents)[1])
    pull = jax.jit(lambda *a: jax.vjp(function, *a)[1](dy))
    forward = np.vdot(np.float64(push(*arguments)), np.float64(dy))
    products = [
      np.float64(g) * np.float64(t)
      for g, t in zip(pull(*arguments), tangents, strict=True)
    ]
    size = sum(np.abs(product).sum() for product in products)
    reverse = sum(product.sum() for product in products)
    self.assertAlmostEqual(forward / size, reverse / size, delta=1e-6)

  @parameterized.named_parameters(cases.named(CORE))
  def test_forward_and_reverse_jacobians_agree(self, case):
    _, function = cases.differentiable(case, None, None)
    x = case.input(1e2)
    forward = jax.jit(jax.jacfwd(function))(x)
    reverse = jax.jit(jax.jacrev(function))(x)
    self.assert_close(forward, np.float64(reverse))
    # The Jacobian of standardization is symmetric.
    square = np.reshape(forward, (x.size, x.size))
    self.assert_close(square, np.float64(square.T))

  @parameterized.named_parameters(
    cases.named((cases.BATCH, cases.ANNOTATED_TRANSFORMER))
  )
  def test_second_order_numerically(self, case):
    jax.config.update("jax_enable_x64", True)
    self.addCleanup(jax.config.update, "jax_enable_x64", False)
    parameters, function = cases.differentiable(
      case, *case.parameters(dtype=np.float64)
    )
    x = case.input(0.3, dtype=np.float64)
    check_grads(function, (x, *parameters), order=2, modes=("fwd", "rev"))

  @parameterized.named_parameters(cases.named(CORE))
  def test_hessian_vector_product(self, case):
    scale, bias = case.parameters()
    _, function = cases.differentiable(case, scale, bias)
    x = case.input(1e4)
    v, weight = like(x, 5), like(x, 6)
    given = [p for p in (scale, bias) if p is not None]
    loss = lambda x: jnp.sum(jnp.tanh(function(x, *given)) * weight)

    def gradient(x):
      result = case.expect(x, scale, bias)
      return result.pullback(weight / np.cosh(result.y) ** 2)[0]

    step = 1e-4
    x64 = np.float64(x)
    expected = gradient(x64 + step * v) - gradient(x64 - step * v)
    expected /= 2 * step
    over_reverse = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (v,))[1])
    over_forward = jax.jit(jax.grad(lambda x: jax.jvp(loss, (x,), (v,))[1]))
    self.assert_close(over_reverse(x), expected, 2e-5)
    self.assert_close(over_forward(x), expected, 2e-5)

  @parameterized.named_parameters(cases.named(CORE))
  def test_constant_groups_have_finite_gradients(self, case):
    # https://github.com/FluxML/Flux.jl/issues/2096,
    # https://github.com/pyg-team/pytorch_geometric/pull/2917,
    # https://github.com/jax-ml/jax/issues/11716.
    parameters, function = cases.differentiable(case, *case.parameters())
    pull = jax.jit(lambda x, p, dy: jax.vjp(function, x, *p)[1](dy))
    for value in (0.0, 0.1, 1e6 + 0.1875):
      x = np.full(case.shape, value, np.float32)
      dy = like(x, 7)
      gradients = pull(x, parameters, dy)
      expected = case.expect(x, *case.parameters()).pullback(dy)
      for gradient, wanted in zip(gradients, expected, strict=False):
        self.assert_close(gradient, wanted)
      if case.centered and parameters:
        np.testing.assert_array_equal(gradients[1], 0)

  @parameterized.named_parameters(cases.named(CORE))
  def test_constant_groups_have_finite_second_derivatives(self, case):
    _, function = cases.differentiable(case, None, None)
    x = np.full(case.shape, 3.7, np.float32)
    weight, v = like(x, 1), like(x, 2)
    loss = lambda x: jnp.sum(function(x) ** 2 * weight)
    product = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (v,))[1])(x)
    self.assertTrue(np.all(np.isfinite(product)))

  @parameterized.parameters(1e-3, 1e-12, 1e-30)
  def test_constant_groups_with_tiny_epsilon(self, epsilon):
    x = np.full((3, 7), 5.3, np.float32)
    dy = like(x, 0)
    for outside in (False, True):
      options = {"epsilon": epsilon, "epsilon_outside_sqrt": outside}
      _, pullback = jax.vjp(lambda x: normjax.layer_norm(x, **options), x)  # noqa: B023
      expected = reference.layer_norm(x, **options).pullback(dy)[0]
      self.assert_close(pullback(dy)[0], expected)

  def test_zeros_under_rms_norm(self):
    x = np.zeros((3, 7), np.float32)
    dy = like(x, 0)
    y, pullback = jax.vjp(normjax.rms_norm, x)
    np.testing.assert_array_equal(y, 0)
    self.assert_close(pullback(dy)[0], np.float64(dy) * 1e3)

  def test_pairs(self):
    # Of two numbers only the sign of the difference is left, so that dx is
    # what remains of the cancellation of two equal terms: measure by those.
    for mean in MEANS:
      x = (mean + like(np.zeros((64, 2), np.float32), 0)).astype(np.float32)
      dy = like(x, 1)
      _, pullback = jax.vjp(normjax.layer_norm, x)
      expected = reference.layer_norm(x).pullback(dy)[0]
      terms = np.abs(dy) / np.sqrt(np.var(x, 1, np.float64)[:, None] + 1e-6)
      error = np.abs(np.float64(pullback(dy)[0]) - expected)
      size = np.broadcast_to(terms.max(1, keepdims=True), error.shape)
      self.assertLessEqual((error / size).max(), TOLERANCE)

  @parameterized.parameters(2, 3, 5, 1000, 65536)
  def test_any_group_size(self, size):
    norms = [(normjax.rms_norm, reference.rms_norm)]
    if size > 2:
      norms.append((normjax.layer_norm, reference.layer_norm))
    for norm, expected in norms:
      for mean in (0.0, 1e6):
        x = (mean + like(np.zeros((4, size)), 0)).astype(np.float32)
        dy = like(x, 1)
        _, pullback = jax.vjp(norm, x, np.ones(size, np.float32))
        dx, d_scale = pullback(dy)
        wanted = expected(x).pullback(dy)
        self.assert_close(dx, wanted[0])
        self.assert_close(d_scale, wanted[1])

  @parameterized.named_parameters(cases.named((cases.LAYER, cases.RMS)))
  def test_complex(self, case):
    scale, bias = case.parameters()
    _, function = cases.differentiable(case, scale, bias)
    given = [p for p in (scale, bias) if p is not None]
    x = (case.input(1e2) + 1j * case.input(1e2, seed=1)).astype(np.complex64)
    dx = (like(x.real, 2) + 1j * like(x.real, 3)).astype(np.complex64)
    dy = (like(x.real, 4) + 1j * like(x.real, 5)).astype(np.complex64)
    push = jax.jit(
      lambda x: jax.jvp(lambda x: function(x, *given), (x,), (dx,))[1]
    )
    expected = case.expect(x, scale, bias).pushforward(dx)
    self.assert_close(push(x), expected)
    pull = jax.jit(lambda x: jax.vjp(lambda x: function(x, *given), x)[1](dy))
    (gradient,) = pull(x)
    # JAX's cotangents pair without conjugation.
    forward = np.sum(expected * dy).real
    reverse = np.sum(np.complex128(gradient) * dx).real
    size = np.abs(expected * dy).sum()
    self.assertAlmostEqual(forward / size, reverse / size, delta=1e-6)


class StatisticsDerivativesTest(parameterized.TestCase):
  @parameterized.parameters(*MEANS)
  def test_moments(self, mean):
    x = cases.LAYER.input(mean)
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, len(x))).astype(np.float32)
    mask = random.random(x.shape) < 0.6

    def loss(x):
      m = normjax.moments(x, 1, mask=mask)
      return jnp.sum(a * m.mean) + jnp.sum(b * m.variance(ddof=1))

    center, _ = reference.mean_and_var(x, 1, mask)
    count = mask.sum(1, keepdims=True)
    expected = a[:, None] / count
    expected = expected + b[:, None] * 2 * (x - center) / (count - 1)
    gradient = jax.jit(jax.grad(loss))(x)
    error = reference.relative_error(gradient, np.where(mask, expected, 0))
    self.assertLessEqual(error, TOLERANCE)
    np.testing.assert_array_equal(np.asarray(gradient)[~mask], 0)

  def test_moments_of_a_constant(self):
    x = np.full((2, 5), 0.1, np.float32)
    gradient = jax.grad(lambda x: jnp.sum(normjax.moments(x, 1).var))(x)
    np.testing.assert_array_equal(gradient, 0)

  @parameterized.parameters(*MEANS)
  def test_running_statistics(self, mean):
    x = cases.BATCH.input(mean)
    a, b = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    old = normjax.BatchStats(np.zeros(6, np.float32), np.ones(6, np.float32))

    def loss(x):
      _, stats = normjax.batch_norm(
        x, stats=old, use_running_average=False, momentum=0.75
      )
      return jnp.sum(a * stats.mean) + jnp.sum(b * stats.var)

    center = x.mean(0, np.float64)
    expected = 0.25 * (a + 2 * b * (x - center)) / len(x)
    gradient = jax.jit(jax.grad(loss))(x)
    error = reference.relative_error(gradient, expected)
    self.assertLessEqual(error, TOLERANCE)

  def test_evaluation(self):
    x = cases.BATCH.input(1e2)
    random = np.random.default_rng(0)
    stats = normjax.BatchStats(
      (100 + random.standard_normal(6)).astype(np.float32),
      random.uniform(0.5, 2, 6).astype(np.float32),
    )
    scale, bias = cases.BATCH.parameters()
    dy = like(x, 1)
    _, pullback = jax.vjp(
      lambda x, scale, bias: normjax.batch_norm(
        x, scale, bias, stats, use_running_average=True
      )[0],
      x, scale, bias,
    )  # fmt: skip
    expected = reference.batch_norm(x, scale, bias, stats=stats).pullback(dy)
    for gradient, wanted in zip(pullback(dy), expected, strict=True):
      error = reference.relative_error(gradient, wanted)
      self.assertLessEqual(error, TOLERANCE)
