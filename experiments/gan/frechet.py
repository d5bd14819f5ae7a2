"""Numbers that say how good generated images are, from a classifier.

Heusel et al., 2017, https://arxiv.org/abs/1706.08500, introduced the Fréchet
distance of features for images, with Inception's features.
"""

from typing import NamedTuple

import numpy as np

LEAST = 0.01  # Share of the samples that a class needs to be hit.


class Moments(NamedTuple):
  """Mean `[features]` and covariance `[features, features]` of features."""

  mean: np.ndarray
  covariance: np.ndarray


def moments(features: np.ndarray) -> Moments:
  """Returns the moments of features `[n, features]`, n above 1, in float64."""
  x = np.asarray(features, np.float64)
  mean = x.mean(axis=0)
  x = x - mean
  # Not a matrix product: for one so small, threads of BLAS take longer.
  return Moments(mean, np.einsum("ni,nj->ij", x, x) / (len(x) - 1))


def distance(real: Moments, fake: Moments) -> float:
  """Returns the Fréchet distance of two sets of features.

  It is that of the normal distributions with means m and covariances C:
  |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), the square of the Wasserstein
  distance.

  Returns:
    The distance, not negative; NaN if a feature is not finite.

  >>> x = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
  >>> f"{distance(moments(x), moments(x + [3, 4])):.3f}"
  '25.000'

  Reference: Dowson & Landau, 1982,
  https://doi.org/10.1016/0047-259X(82)90077-X, equation 4.
  """
  if not all(np.isfinite(x).all() for x in (*real, *fake)):
    return float("nan")
  # C1 C2 has the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2).
  values, vectors = np.linalg.eigh(real.covariance)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  shared = np.linalg.eigvalsh(root @ fake.covariance @ root)
  cross = np.sqrt(np.maximum(shared, 0)).sum()
  traces = np.trace(real.covariance) + np.trace(fake.covariance)
  shift = np.square(real.mean - fake.mean).sum()
  return float(max(0.0, shift + traces - 2 * cross))


def entropy(shares: np.ndarray) -> float:
  """Returns the entropy of shares in nats: log(k) if k classes are equal.

  >>> f"{entropy(np.array([0.5, 0.5, 0.0])):.3f}"
  '0.693'
  """
  held = shares[shares > 0]
  return float(-(held * np.log(held)).sum())


def hit(shares: np.ndarray) -> int:
  """Returns how many classes have a share of at least `LEAST`.

  >>> hit(np.array([0.9, 0.095, 0.005, 0.0]))
  2
  """
  return int((shares >= LEAST).sum())
