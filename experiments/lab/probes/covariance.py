"""Covariances of features: how correlated they are, how well conditioned."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.lab.data.batch import Array
from experiments.lab.models.nets import MLP
from experiments.lab.probes import signals

# float32 does not tell smaller eigenvalues from zero, which is the eigenvalue
# of a feature that never varies, such as that of a dead ReLU.
LARGEST_CONDITION = 1e6


def covariance(x: jax.Array) -> jax.Array:
  """Returns the covariance `[features, features]` of `[n, features]`."""
  deviations = x - x.mean(axis=0, keepdims=True)
  return deviations.T @ deviations / len(x)


def correlation(x: jax.Array, group_size: int) -> jax.Array:
  """Returns the mean |correlation| of two features of the same group.

  Args:
    x: Features `[n, features]`; groups are adjacent.
    group_size: Features in a group, at least 2.

  >>> x = jnp.array([[1.0, 2.0, 1.0], [2.0, 4.0, 0.0], [3.0, 6.0, 1.0]])
  >>> print(f"{correlation(x[:, :2], 2):.2f} {correlation(x[:, 1:], 2):.2f}")
  1.00 0.00
  """

  def of_group(x: jax.Array) -> jax.Array:
    cov = covariance(x)
    deviation = jnp.sqrt(jnp.diagonal(cov))
    matrix = jnp.abs(cov) / (deviation[:, None] * deviation[None])
    pairs = group_size * (group_size - 1)
    return (matrix.sum() - jnp.trace(matrix)) / pairs

  groups = x.reshape(len(x), -1, group_size)
  return jax.vmap(of_group, in_axes=1)(groups).mean()


def condition_number(x: jax.Array) -> jax.Array:
  """Returns the condition number of the covariance of `[n, features]`.

  It is the ratio of the largest to the smallest eigenvalue, and at most
  `LARGEST_CONDITION`.

  >>> x = jnp.array([[3.0, 1.0], [3.0, -1.0], [-3.0, 1.0], [-3.0, -1.0]])
  >>> print(f"{condition_number(x):.3f}")
  9.000
  """
  values = jnp.linalg.eigvalsh(covariance(x))
  smallest = jnp.maximum(values[0], values[-1] / LARGEST_CONDITION)
  return values[-1] / smallest


def of_norms(
  model: MLP, variables: Any, inputs: Array, group_size: int
) -> dict[str, jax.Array]:
  """Returns what norms do to a batch in training mode, means over the layers.

  Args:
    model: Model with its norms before the activations.
    variables: Variables of the model.
    inputs: Inputs of the model.
    group_size: Features in a group.

  Returns:
    The `correlation` within groups "before" and "after" the norm, and the
    "condition" number of the next layer's input, a geometric mean.
  """
  before, after = zip(
    *signals.around_norms(model, variables, inputs, train=True), strict=True
  )
  conditions = [condition_number(model.activation(x)) for x in after]
  return {
    "before": jnp.stack([correlation(x, group_size) for x in before]).mean(),
    "after": jnp.stack([correlation(x, group_size) for x in after]).mean(),
    "condition": jnp.exp(jnp.log(jnp.stack(conditions)).mean()),
  }
