"""Batch norm over parts of the batch: more noise at the same batch size."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

import normjax


class GhostBatchNorm(nn.Module):
  """Standardizes each ghost batch on its own when it trains.

  Attributes:
    size: Of a ghost batch; divides the batch.
    train: Whether to use the statistics of ghost batches, or running ones,
      which are of whole batches.
    momentum, epsilon, dtype: As in `normjax.linen.BatchNorm`.

  Reference: Hoffer et al., 2017, https://arxiv.org/abs/1705.08741, algorithm 1.
  """

  size: int
  train: bool
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns `x` `[n, features]` standardized, scaled and shifted."""
    n, features = x.shape
    scale = self.param("scale", nn.initializers.ones, (features,))
    bias = self.param("bias", nn.initializers.zeros, (features,))
    mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
    var = self.variable("batch_stats", "var", jnp.ones, (features,))
    stats = normjax.BatchStats(mean.value, var.value)
    if not self.train:
      y, _ = normjax.batch_norm(
        x, scale, bias, stats, use_running_average=True, epsilon=self.epsilon
      )
      return y
    if n % self.size:
      raise ValueError(f"Ghosts of {self.size} do not divide a batch of {n}.")
    _, new = normjax.batch_norm(
      x, stats=stats, use_running_average=False, momentum=self.momentum
    )
    mean.value, var.value = new
    ghosts = x.reshape(n // self.size, self.size, features)
    y = normjax.standardize(ghosts, 1, epsilon=self.epsilon).reshape(x.shape)
    return y * scale[None] + bias[None]
