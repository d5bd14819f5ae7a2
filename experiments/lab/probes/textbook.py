"""Batch norm as in textbooks, in NumPy, one quantity at a time.

It shares no code with the library, so each is a check of the other. `x` is
`[batch, features]`; the notation is that of Ioffe & Szegedy, 2015,
https://arxiv.org/abs/1502.03167, algorithm 1 and section 3.
"""

from typing import NamedTuple

import numpy as np


class Forward(NamedTuple):
  """The steps of the forward pass."""

  mean: np.ndarray  # [features]
  var: np.ndarray  # [features], biased
  normalized: np.ndarray  # [batch, features], x hat
  scaled: np.ndarray  # gamma * x hat
  output: np.ndarray  # gamma * x hat + beta


class Backward(NamedTuple):
  """Derivatives of the loss with respect to inputs and intermediate results."""

  x: np.ndarray  # [batch, features]
  scale: np.ndarray  # [features]
  bias: np.ndarray  # [features]
  mean: np.ndarray  # [features]
  var: np.ndarray  # [features]


def forward(
  x: np.ndarray, scale: np.ndarray, bias: np.ndarray, epsilon: float
) -> Forward:
  """Returns the steps from `x` to the output, in float64."""
  x = np.asarray(x, np.float64)
  mean = x.mean(axis=0)
  var = ((x - mean) ** 2).mean(axis=0)
  normalized = (x - mean) / np.sqrt(var + epsilon)
  scaled = scale * normalized
  return Forward(mean, var, normalized, scaled, scaled + bias)


def backward(
  x: np.ndarray,
  scale: np.ndarray,
  epsilon: float,
  gradient: np.ndarray,
) -> Backward:
  """Returns the derivatives by the formulas of section 3, in float64.

  Args:
    x: Input of the forward pass.
    scale: Gain of the forward pass.
    epsilon: Epsilon of the forward pass.
    gradient: Derivative of the loss with respect to the output, `[batch,
      features]`.
  """
  steps = forward(x, scale, np.zeros_like(scale), epsilon)
  deviation = np.asarray(x, np.float64) - steps.mean
  std = np.sqrt(steps.var + epsilon)
  gradient = np.asarray(gradient, np.float64)
  by_normalized = gradient * scale
  by_var = (by_normalized * deviation).sum(axis=0) * -0.5 * std**-3
  by_mean = -(by_normalized / std).sum(axis=0) - by_var * 2 * deviation.mean(
    axis=0
  )
  by_x = by_normalized / std + by_var * 2 * deviation / len(x)
  return Backward(
    x=by_x + by_mean / len(x),
    scale=(gradient * steps.normalized).sum(axis=0),
    bias=gradient.sum(axis=0),
    mean=by_mean,
    var=by_var,
  )


def running(
  batches: np.ndarray, momentum: float
) -> tuple[np.ndarray, np.ndarray]:
  """Returns running mean and variance after every step.

  Args:
    batches: Inputs `[steps, batch, features]`.
    momentum: Share of the old statistic that is kept. The mean starts at 0, the
      variance at 1.

  Returns:
    Two arrays `[steps, features]`.
  """
  mean, var = np.zeros(batches.shape[2]), np.ones(batches.shape[2])
  means, variances = [], []
  for batch in np.asarray(batches, np.float64):
    mean = momentum * mean + (1 - momentum) * batch.mean(axis=0)
    var = momentum * var + (1 - momentum) * batch.var(axis=0)
    means.append(mean)
    variances.append(var)
  return np.array(means), np.array(variances)
