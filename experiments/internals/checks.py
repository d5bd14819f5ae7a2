"""Numerical errors of the claimed properties of norms."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import normjax
from experiments.lab.probes import textbook
from normjax.linen import BatchNorm

EPSILON = 1e-5  # Of batch norm, as in textbooks.
MOMENTUM = 0.9


def moment_errors(
  name: str, epsilon: float, before: np.ndarray, after: np.ndarray
) -> tuple[float, float]:
  """Returns the largest errors of mean and variance.

  For RMS norm, these are zero and the largest error of the mean square.

  Args:
    name: Short name of the norm.
    epsilon: Epsilon of the norm.
    before, after: Groups before and after the norm, `[n, values]`.
  """
  before, after = before.astype(np.float64), after.astype(np.float64)
  centred = name != "rms"
  square = before.var(axis=1) if centred else (before**2).mean(axis=1)
  result = after.var(axis=1) if centred else (after**2).mean(axis=1)
  mean = np.abs(after.mean(axis=1)).max() if centred else 0.0
  return mean, np.abs(result - square / (square + epsilon)).max()


def layer_norm_errors(x: np.ndarray) -> dict[str, float]:
  """Returns errors of three properties of layer norm over the rows of `x`."""
  y = np.asarray(normjax.layer_norm(jnp.asarray(x), epsilon=1e-12), np.float64)
  affine = normjax.layer_norm(jnp.asarray(3 * x - 7), epsilon=1e-12)
  size = x.shape[-1]
  length = np.linalg.norm(y, axis=-1)
  return {
    "LN(a x + b) = LN(x)": np.abs(affine - y).max(),
    "length sqrt(d)": np.abs(length / math.sqrt(size) - 1).max(),
    "orthogonal to ones": np.abs(y.sum(axis=-1) / math.sqrt(size)).max()
    / math.sqrt(size),
  }


def batch_norm_errors(
  batches: np.ndarray,
  scale: np.ndarray,
  bias: np.ndarray,
  gradient: np.ndarray,
) -> dict[str, dict[str, float]]:
  """Returns relative errors of the layer, compared with NumPy.

  Args:
    batches: Inputs `[steps, batch, features]`; everything except the running
      statistics uses the first batch.
    scale, bias: Parameters `[features]`.
    gradient: Derivative of the loss with respect to the output, `[batch,
      features]`.

  Returns:
    Errors by name, for the forward pass, the derivatives and the inverse.
  """
  x = batches[0]
  steps = textbook.forward(x, scale, bias, EPSILON)
  moments = normjax.moments(x, 0)
  normalized = normjax.standardize(x, 0, epsilon=EPSILON)
  layer = BatchNorm(momentum=MOMENTUM, epsilon=EPSILON)
  variables = {
    "params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)},
    "batch_stats": {"mean": jnp.zeros(x.shape[1]), "var": jnp.ones(x.shape[1])},
  }
  means, variances = [], []
  train = jax.jit(
    lambda variables, x: layer.apply(
      variables, x, use_running_average=False, mutable=["batch_stats"]
    )
  )
  output, _ = train(variables, x)
  for batch in batches:
    _, updated = train(variables, batch)
    variables |= updated
    means.append(variables["batch_stats"]["mean"])
    variances.append(variables["batch_stats"]["var"])
  running = textbook.running(batches, MOMENTUM)
  evaluated = layer.apply(variables, x, use_running_average=True)
  by_running = (x - running[0][-1]) / np.sqrt(running[1][-1] + EPSILON)
  forward = {
    "mean": _relative(moments.mean, steps.mean),
    "var": _relative(moments.var, steps.var),
    "normalized": _relative(normalized, steps.normalized),
    "output": _relative(output, steps.output),
    "running mean": _relative(means, running[0]),
    "running var": _relative(variances, running[1]),
    "evaluation": _relative(evaluated, scale * by_running + bias),
  }

  formulas = textbook.backward(x, scale, EPSILON, gradient)
  _, by_inputs = jax.vjp(
    lambda x, scale, bias: normjax.batch_norm(
      x, scale, bias, use_running_average=False, epsilon=EPSILON
    )[0],
    *(jnp.asarray(value) for value in (x, scale, bias)),
  )

  def given_statistics(mean: jax.Array, var: jax.Array) -> jax.Array:
    centred = x - mean[None]
    return centred * (scale / jnp.sqrt(var + EPSILON))[None] + bias[None]

  _, by_statistics = jax.vjp(
    given_statistics,
    *(jnp.asarray(value, jnp.float32) for value in (steps.mean, steps.var)),
  )
  automatic = (
    by_inputs(jnp.asarray(gradient)),
    by_statistics(jnp.asarray(gradient)),
  )
  names = ("x", "scale", "bias", "mean", "var")
  derivatives = {
    name: _relative(found, getattr(formulas, name))
    for name, found in zip(names, (*automatic[0], *automatic[1]), strict=True)
  }

  back, _ = normjax.batch_norm(
    x,
    jnp.asarray(np.sqrt(steps.var + EPSILON), jnp.float32),
    jnp.asarray(steps.mean, jnp.float32),
    use_running_average=False,
    epsilon=EPSILON,
  )
  return {
    "forward": forward,
    "derivatives": derivatives,
    "inverse": {"input": _relative(back, x)},
  }


def _relative(found: object, expected: np.ndarray) -> float:
  """Returns the largest error, relative to the largest value."""
  error = np.abs(np.asarray(found, np.float64) - expected).max()
  return float(error / np.abs(expected).max())
