"""Batch norm over parts of the batch: more noise at the same batch size."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

import normjax


class GhostBatchNorm(nn.Module):
  """Batch norm that standardizes each ghost batch separately in training.

  Attributes:
    size: Size of a ghost batch; it must divide the batch size.
    use_running_average: False in training, where the statistics of ghost
      batches are used; True in evaluation. Running statistics are over whole
      batches.
    momentum, epsilon, dtype: As in `normjax.linen.BatchNorm`.

  Reference: Hoffer et al., 2017, https://arxiv.org/abs/1705.08741, algorithm 1.
  """

  size: int
  use_running_average: bool
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
    if self.use_running_average:
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


def make_ghost(
  *, size: int, train: bool, dtype: Any = None, momentum: float = 0.9
) -> nn.Module:
  """Returns the module, with the signature of a norm factory."""
  return GhostBatchNorm(size, not train, momentum=momentum, dtype=dtype)
