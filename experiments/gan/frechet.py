"""Numbers that say how good generated images are, from a classifier.

Heusel et al., 2017, https://arxiv.org/abs/1706.08500, introduced the Fréchet
distance of features for images, with Inception's features.
"""

import numpy as np

LEAST = 0.01  # Share of the samples that a class needs to be hit.


def distance(real: np.ndarray, fake: np.ndarray) -> float:
  """Returns the Fréchet distance of two sets of features.

  It is that of the normal distributions with their means m and covariances C:
  |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), the square of the Wasserstein
  distance.

  Args:
    real, fake: Features `[n, features]` and `[m, features]`, n and m above 1.

  Returns:
    The distance, not negative; NaN if a feature is not finite.

  >>> x = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
  >>> f"{distance(x, x + [3, 4]):.3f}"
  '25.000'

  Reference: Dowson & Landau, 1982,
  https://doi.org/10.1016/0047-259X(82)90077-X, equation 4.
  """
  first, second = np.asarray(real, np.float64), np.asarray(fake, np.float64)
  if not (np.isfinite(first).all() and np.isfinite(second).all()):
    return float("nan")
  shift = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
  covariance, other = (
    np.atleast_2d(np.cov(x, rowvar=False)) for x in (first, second)
  )
  # C1 C2 has the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2).
  values, vectors = np.linalg.eigh(covariance)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  shared = np.linalg.eigvalsh(root @ other @ root)
  cross = np.sqrt(np.maximum(shared, 0)).sum()
  total = shift + np.trace(covariance) + np.trace(other) - 2 * cross
  return float(max(0.0, total))


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
