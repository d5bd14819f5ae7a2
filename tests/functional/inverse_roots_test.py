"""Inverse roots and their derivatives, also where eigenvalues are equal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from absl.testing import parameterized

from normjax.functional import inverse_roots
from tests import reference

EPSILON = 0.1
# If a function is compiled by itself, JAX inlines the custom rules of what is
# linear in its derivative. They must not be needed.
by_eigenvectors = jax.jit(inverse_roots.by_eigenvectors)


def covariances(size, seed=0):
  random = np.random.default_rng(seed)
  x = random.standard_normal((3, 4 * size, size))
  return np.einsum("gni,gnj->gij", x, x) / (4 * size)


def rotated(eigenvalues):
  """Returns a matrix of these eigenvalues and random eigenvectors."""
  size = len(eigenvalues)
  random = np.random.default_rng(0)
  vectors, _ = np.linalg.qr(random.standard_normal((size, size)))
  return vectors * np.asarray(eigenvalues, float) @ vectors.T


def symmetric(size, seed=1):
  half = np.random.default_rng(seed).standard_normal((size, size))
  return half + half.T


def along(cov, direction):
  """Returns the inverse root as a function of a step in a direction."""
  return lambda t: by_eigenvectors(cov + t * direction, EPSILON)


# Derivatives of eigenvectors would be infinite in all but the last.
SPECTRA = {
  "identity": np.eye(4), "zero": np.zeros((4, 4)),
  "pairs": rotated([1, 1, 3, 3]), "rank_one": rotated([2, 0, 0, 0]),
  "close": rotated([1, 1 + 1e-9, 2, 2]), "apart": rotated([1, 2, 3, 4]),
}  # fmt: skip
# Covariances of a real and an imaginary part.
PAIRS = (
  [[1, 0], [0, 1]], [[1, 1], [1, 1]], [[1, -1], [-1, 1]], [[2, 0], [0, 0]],
  [[0, 0], [0, 0]], [[3, 1], [1, 2]],
)  # fmt: skip


class ValuesTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 5, 32)
  def test_matches_float64(self, size):
    cov = covariances(size)
    expected = [reference.inverse_root(each, 1e-3) for each in cov]
    functions = [
      inverse_roots.by_eigenvectors,
      functools.partial(inverse_roots.by_newton, iterations=30),
    ]
    if size == 2:
      functions.append(inverse_roots.of_two)
    for function in functions:
      with self.subTest(function=function):
        actual = jax.jit(function)(cov.astype(np.float32), 1e-3)
        self.assertLess(reference.relative_error(actual, expected), 5e-6)

  @parameterized.parameters(1, 5, 9)
  def test_newton_gives_the_iterates_of_the_paper(self, iterations):
    cov = covariances(6)
    actual = inverse_roots.by_newton(cov.astype(np.float32), 1e-3, iterations)
    expected = [reference.inverse_root(each, 1e-3, iterations) for each in cov]
    self.assertLess(reference.relative_error(actual, expected), 2e-6)

  def test_newton_stays_where_it_converged(self):
    """The form in the paper, in float32, is infinite after 60 steps."""
    cov = rotated([1, 1e-1, 1e-2, 1e-3]).astype(np.float32)
    expected = reference.inverse_root(np.float64(cov), 1e-6)
    p, matrix = jnp.eye(4), (cov + 1e-6 * np.eye(4, dtype=np.float32))
    matrix = matrix / np.trace(matrix)
    for _ in range(60):
      p = (3 * p - p @ p @ p @ matrix) / 2
    self.assertFalse(np.isfinite(p).all())
    for iterations in (20, 60, 200):
      actual = inverse_roots.by_newton(cov, 1e-6, iterations)
      self.assertLess(reference.relative_error(actual, expected), 1e-3)
    # Of rank one, and so large that rounding exceeds epsilon.
    cov = rotated([1e6, 0, 0, 0]).astype(np.float32)
    self.assertTrue(np.isfinite(inverse_roots.by_newton(cov, 1e-6, 200)).all())

  def test_epsilon_is_at_least_the_rounding_error(self):
    eps = np.finfo("float32").eps
    for variance, least in ((1.0, 1e-5), (1e4, 1e4 * eps), (1e30, 1e30 * eps)):
      cov = np.diag([variance, 0.0]).astype(np.float32)
      expected = np.diag(1 / np.sqrt([variance + least, least]))
      for function in (inverse_roots.by_eigenvectors, inverse_roots.of_two):
        actual = function(cov, 1e-5)
        np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=0)

  def test_negative_eigenvalues_count_as_zero(self):
    """They are rounding errors of covariances."""
    cov = np.float32([[1, 1 + 1e-6], [1 + 1e-6, 1]])
    for epsilon in (1e-5, 1e-12):
      for function in (inverse_roots.by_eigenvectors, inverse_roots.of_two):
        actual = function(cov, epsilon)
        expected = function(np.ones((2, 2), np.float32), epsilon)
        self.assertLess(reference.relative_error(actual, expected), 1e-5)

  @parameterized.parameters(1e-30, 1e-5, 1.0, 1e4, 1e20, 1e37)
  def test_closed_form_of_any_size(self, size):
    cov = size * np.asarray(PAIRS, np.float32)
    values, vectors = np.linalg.eigh(np.float64(cov))
    error = np.finfo("float32").eps * np.max(cov, (1, 2))[:, None]
    roots = np.sqrt(np.maximum(values, 0) + np.maximum(1e-5, error))
    expected = (vectors / roots[:, None]) @ vectors.swapaxes(-1, -2)
    actual = inverse_roots.of_two(cov, 1e-5)
    for one, wanted in zip(actual, expected, strict=True):
      self.assertLess(reference.relative_error(one, wanted), 1e-6)


class DerivativesTest(parameterized.TestCase):
  """In float64, against differences and Sylvester's equation."""

  def setUp(self):
    super().setUp()
    jax.config.update("jax_enable_x64", True)
    self.addCleanup(jax.config.update, "jax_enable_x64", False)

  def expected(self, cov, direction):
    """Returns the first and the second derivative along a direction."""
    root = scipy.linalg.sqrtm(cov + EPSILON * np.eye(4)).real
    inverse = scipy.linalg.inv(root)
    solve = functools.partial(scipy.linalg.solve_sylvester, root, root)
    d1 = solve(direction)
    d2 = solve(-2 * d1 @ d1)
    first = -inverse @ d1 @ inverse
    second = -inverse @ d2 @ inverse - 2 * first @ d1 @ inverse
    return first, second

  def test_first_and_second(self):
    covs, direction = np.stack(list(SPECTRA.values())), symmetric(4)
    slope = jax.jacfwd(along(covs, direction[None]))
    actual = jax.jit(lambda t: (slope(t), jax.jacfwd(slope)(t)))(0.0)
    for i, (name, cov) in enumerate(SPECTRA.items()):
      for order, wanted in enumerate(self.expected(cov, direction)):
        with self.subTest(name=name, order=order + 1):
          error = reference.relative_error(actual[order][i], wanted)
          self.assertLess(error, 1e-7)

  def test_reverse_mode_is_the_transpose(self):
    direction = symmetric(4)
    loss = lambda cov: jnp.sum(jnp.sin(by_eigenvectors(cov, EPSILON)))
    gradient = jax.grad(loss)

    @jax.jit
    @jax.vmap
    def run(cov):
      _, forward = jax.jvp(loss, (cov,), (direction,))
      product = lambda cov: jnp.vdot(gradient(cov), direction)
      _, over = jax.jvp(gradient, (cov,), (direction,))
      return forward, *jax.value_and_grad(product)(cov), over

    forward, reverse, under, over = run(np.stack(list(SPECTRA.values())))
    np.testing.assert_allclose(reverse, forward, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(over, under, rtol=1e-8, atol=1e-8)
    self.assertTrue(np.isfinite(under).all())

  def test_third(self):
    function = along(SPECTRA["pairs"], symmetric(4))
    second = jax.jit(jax.jacfwd(jax.jacfwd(function)))
    step = 1e-5
    expected = (second(step) - second(-step)) / (2 * step)
    third = jax.jit(jax.jacfwd(second))(0.0)
    self.assertLess(reference.relative_error(third, expected), 1e-6)

  def test_epsilon(self):
    cov = SPECTRA["pairs"]
    _, actual = jax.jvp(
      lambda epsilon: inverse_roots.by_eigenvectors(cov, epsilon),
      (EPSILON,), (1.0,),
    )  # fmt: skip
    expected, _ = self.expected(cov, np.eye(4))
    self.assertLess(reference.relative_error(actual, expected), 1e-9)

  def test_closed_form(self):
    cov, direction = np.asarray(PAIRS, float), symmetric(2)[None]

    def up_to_second(function):
      along = lambda t: function(cov + t * direction, EPSILON)
      slope = jax.jacfwd(along)
      both = lambda t: (along(t), slope(t), jax.jacfwd(slope)(t))
      return jax.jit(both)(0.0)

    for actual, wanted in zip(
      up_to_second(inverse_roots.of_two),
      up_to_second(inverse_roots.by_eigenvectors),
      strict=True,
    ):
      self.assertLess(reference.relative_error(actual, wanted), 1e-9)
