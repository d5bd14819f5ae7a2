"""Batch norm followed by noise, which makes its outputs drift again."""

import jax
from flax import linen as nn
from flax.typing import Dtype

from experiments.lab.models.norms import norm_factory


class NoisyBatchNorm(nn.Module):
  """Batch norm, followed in training by noise that differs at every step.

  At every step, each unit draws a mean within `shift` of 0 and a factor between
  1 and `factor`. Each example then draws its own mean and factor within
  `spread` of these; its value is multiplied by the factor, and the mean is
  added.

  Attributes:
    train: Whether to use the statistics of the batch and to add noise.
    shift, factor, spread: See above.
    dtype: As in `normjax.linen.BatchNorm`.

  Reference: the experiment of Santurkar et al., 2018,
  https://arxiv.org/abs/1805.11604, section 2.1; the constants are chosen here.
  """

  train: bool
  shift: float = 0.5
  factor: float = 1.25
  spread: float = 0.1
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns batch norm of `x` `[n, features]`, with noise in training."""
    y = norm_factory("bn")(train=self.train, dtype=self.dtype)(x)
    if not self.train:
      return y
    keys = jax.random.split(self.make_rng("dropout"))
    means = self._drawn(keys[0], y, -self.shift, self.shift)
    factors = self._drawn(keys[1], y, 1.0, self.factor)
    return factors * y + means

  def _drawn(
    self, key: jax.Array, like: jax.Array, low: float, high: float
  ) -> jax.Array:
    """Returns numbers `[n, features]` around a random center per unit."""
    unit_key, key = jax.random.split(key)
    center = jax.random.uniform(
      unit_key, (1, like.shape[1]), like.dtype, low, high
    )
    return center + jax.random.uniform(
      key, like.shape, like.dtype, -self.spread, self.spread
    )
