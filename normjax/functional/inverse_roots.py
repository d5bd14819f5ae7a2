"""Inverse square roots of covariance matrices, with their derivatives.

Each function returns `(cov + epsilon I)^(-1/2)` of symmetric matrices
`[..., size, size]` with eigenvalues of zero or more. Products have all digits
of float32 on every device.

Epsilon is at least the rounding error of the largest variance. A smaller one
would divide by what is left of an eigenvalue of zero, which is noise.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

PRECISION = lax.Precision.HIGHEST


class _Eigen(NamedTuple):
  """Eigenvectors, in columns, and the eigenvalues of the square root."""

  vectors: jax.Array
  roots: jax.Array


def by_eigenvectors(cov: jax.Array, epsilon: float | jax.Array) -> jax.Array:
  """Returns the inverse root from an eigendecomposition.

  An eigenvalue that rounding has made negative counts as zero. `epsilon` is
  added to the eigenvalues, which are more exact than a sum on the diagonal.

  The derivative of an eigendecomposition divides by differences of eigenvalues,
  which is infinite if two are equal. The derivative of the root does not: with
  R = (cov + epsilon I)^(1/2), dR is the solution of

    R dR + dR R = d cov + d epsilon I

  which in the basis of the eigenvectors divides by sums of the eigenvalues of R
  (Daleckii & Krein). The derivative of this solution solves such an equation
  too, so derivatives of every order exist.
  """
  values, vectors = jnp.linalg.eigh(lax.stop_gradient(cov))
  epsilon = _raised(epsilon, jnp.max(values, -1, initial=0))
  values = jnp.maximum(values, 0) + lax.stop_gradient(epsilon)[..., None]
  _, inverse = _roots(cov, epsilon, _Eigen(vectors, jnp.sqrt(values)))
  return inverse


@jax.custom_jvp
def _roots(
  cov: jax.Array, epsilon: jax.Array, eigen: _Eigen
) -> tuple[jax.Array, jax.Array]:
  """Returns the square root of `cov + epsilon I`, and its inverse.

  `eigen` belongs to this matrix and has no derivative of its own.
  """
  del cov, epsilon
  scaled = eigen.vectors * eigen.roots[..., None, :]
  divided = eigen.vectors / eigen.roots[..., None, :]
  return (
    _product(scaled, eigen.vectors.mT),
    _product(divided, eigen.vectors.mT),
  )


@_roots.defjvp
def _roots_jvp(
  primals: tuple[jax.Array, jax.Array, _Eigen],
  tangents: tuple[jax.Array, jax.Array, _Eigen],
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  cov, epsilon, eigen = primals
  d_cov, d_epsilon, _ = tangents
  root, inverse = _roots(cov, epsilon, eigen)
  d_matrix = d_cov + d_epsilon[..., None, None] * _identity_like(cov)
  d_root = _solution(root, d_matrix, eigen)
  return (root, inverse), (d_root, -_product(inverse, d_root, inverse))


def _solution(root: jax.Array, right: jax.Array, eigen: _Eigen) -> jax.Array:
  """Returns the X of `root X + X root = right`."""

  def solve(_: object, right: jax.Array) -> jax.Array:
    sums = eigen.roots[..., :, None] + eigen.roots[..., None, :]
    inner = _product(eigen.vectors.mT, right, eigen.vectors) / sums
    return _product(eigen.vectors, inner, eigen.vectors.mT)

  # It is differentiated by the equation, not by how it is solved.
  return lax.custom_linear_solve(
    lambda x: _product(root, x) + _product(x, root), right, solve,
    symmetric=True,
  )  # fmt: skip


def by_newton(
  cov: jax.Array, epsilon: float | jax.Array, iterations: int
) -> jax.Array:
  """Returns an approximate inverse root after some steps of Newton's method.

  Huang et al. (2019) iterate P <- (3 P - P^3 A) / 2 from P = I, where A is the
  matrix divided by its trace. Rounding errors of that form grow without end
  once it has converged. Here P A is a second iterate. The P are the same, and
  the errors do not grow (Higham, 2008, "Functions of matrices", section 6.4).
  """
  identity = _identity_like(cov)
  trace = jnp.trace(cov, axis1=-2, axis2=-1)
  matrix = cov + _raised(epsilon, trace)[..., None, None] * identity
  trace = jnp.trace(matrix, axis1=-2, axis2=-1)[..., None, None]
  root, inverse = matrix / trace, identity
  for _ in range(iterations):
    step = 1.5 * identity - 0.5 * _product(inverse, root)
    root, inverse = _product(root, step), _product(step, inverse)
  return inverse / jnp.sqrt(trace)


def of_two(cov: jax.Array, epsilon: float | jax.Array) -> jax.Array:
  """Returns the inverse root of 2 x 2 matrices, in closed form.

  With determinant s^2 and trace t of A, the root of A is
  (A + s I) / sqrt(t + 2 s) by the theorem of Cayley and Hamilton, and the
  determinant of the root is s. The matrix is divided by its larger variance
  first, so that no product leaves the range of numbers.
  """
  size = jnp.maximum(cov[..., 0, 0], cov[..., 1, 1])
  epsilon = _raised(epsilon, size)
  size = lax.stop_gradient(size + epsilon)  # The result does not depend on it.
  cov, epsilon = cov / size[..., None, None], epsilon / size
  a, b, d = cov[..., 0, 0], cov[..., 0, 1], cov[..., 1, 1]
  det = a * d - b * b
  # If rounding has made it negative it is zero, with its usual derivative.
  det = det - lax.stop_gradient(jnp.minimum(det, 0))
  s = jnp.sqrt(det + epsilon * (a + d) + epsilon * epsilon)
  scale = 1 / (s * jnp.sqrt(a + d + 2 * (epsilon + s)) * jnp.sqrt(size))
  rows = [[d + epsilon + s, -b], [-b, a + epsilon + s]]
  adjugate = jnp.stack([jnp.stack(row, -1) for row in rows], -2)
  return adjugate * scale[..., None, None]


def _raised(epsilon: float | jax.Array, variance: jax.Array) -> jax.Array:
  """Returns `epsilon`, or the rounding error of a variance if that is more."""
  error = float(jnp.finfo(variance.dtype).eps) * lax.stop_gradient(variance)
  return jnp.maximum(jnp.asarray(epsilon, variance.dtype), error)


def _identity_like(cov: jax.Array) -> jax.Array:
  return jnp.broadcast_to(jnp.eye(cov.shape[-1], dtype=cov.dtype), cov.shape)


def _product(*matrices: jax.Array) -> jax.Array:
  return functools.reduce(
    functools.partial(jnp.matmul, precision=PRECISION), matrices
  )
