"""Correlations and condition numbers, beside NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.probes import covariance


def mixed(n=200, features=6):
  rng = np.random.default_rng(0)
  mixing = rng.normal(size=(features, features))
  return 3 + rng.normal(size=(n, features)) @ mixing


def correlation(x, size):
  """The mean |correlation| of pairs in a group, one by one."""
  matrix = np.abs(np.corrcoef(x.T))
  pairs = [
    matrix[i, j]
    for i in range(len(matrix))
    for j in range(len(matrix))
    if i != j and i // size == j // size
  ]
  return np.mean(pairs)


def condition(x):
  return np.linalg.cond(np.cov(x.T))


class CovarianceTest(absltest.TestCase):
  def test_correlation_within_groups(self):
    x = mixed()
    for size in (2, 3, 6):
      found = covariance.correlation(jnp.asarray(x, jnp.float32), size)
      np.testing.assert_allclose(found, correlation(x, size), rtol=1e-5)

  def test_condition_number(self):
    x = mixed()
    found = covariance.condition_number(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, condition(x), rtol=1e-3)

  def test_a_feature_that_never_varies(self):
    x = jnp.asarray(mixed(), jnp.float32).at[:, 0].set(1.0)
    np.testing.assert_allclose(
      covariance.condition_number(x),
      covariance.LARGEST_CONDITION,
      rtol=1e-5,
    )

  def test_of_norms(self):
    """Of a net whose layers are computed by hand."""
    model = MLP(norm=norm_factory("bn"), hidden=(4, 4))
    x = jnp.asarray(mixed(), jnp.float32)
    variables = model.init(jax.random.key(1), x, train=False)
    found = covariance.of_norms(model, variables, x, 2)
    signal, before, conditions = np.asarray(x, np.float64), [], []
    for layer in range(2):
      dense = variables["params"][f"Dense_{layer}"]
      signal = signal @ np.asarray(dense["kernel"], np.float64)
      before.append(correlation(signal, 2))
      signal = (signal - signal.mean(axis=0)) / np.sqrt(
        signal.var(axis=0) + 1e-5
      )
      signal = np.maximum(signal, 0)
      conditions.append(condition(signal))
    for name, expected in (
      ("before", np.mean(before)),
      ("after", np.mean(before)),
      ("condition", np.sqrt(np.prod(conditions))),
    ):
      np.testing.assert_allclose(found[name], expected, rtol=1e-3)


if __name__ == "__main__":
  absltest.main()
