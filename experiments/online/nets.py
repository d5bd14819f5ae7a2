"""A net of patches, and batch norm for one example at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

import normjax


class PatchNet(nn.Module):
  """Dense layers that all patches of an image share, then one for the classes.

  The first layer is a convolution whose stride is its size, the others are 1x1
  convolutions. As matrix products they are fast in compiled loops on CPUs too.
  A channel has one value for each patch, so a single image has statistics.

  Attributes:
    norm: Called as `norm(train=...)`, returns the module to use, such as
      `functools.partial(normjax.linen.make_norm, "gn", num_groups=8)`.
    hidden: Number of channels of each layer.
    patch: Height and width of a patch; an incomplete last one is left out.
    num_classes: Number of outputs.

  >>> model = PatchNet(norm=norm_factory("in"))
  >>> x = jnp.zeros((1, 8, 8, 1))
  >>> variables = model.init(jax.random.key(0), x, train=False)
  >>> model.apply(variables, x, train=False).shape
  (1, 10)
  """

  norm: Callable[..., nn.Module]
  hidden: tuple[int, ...] = (32, 32)
  patch: int = 2
  num_classes: int = 10

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits `[n, num_classes]` of `[n, height, width, c]`."""
    x = patches(x, self.patch)
    for channels in self.hidden:
      x = nn.Dense(channels)(x)
      x = nn.relu(self.norm(train=train)(x))
    # Not the mean over patches, which is constant after instance norm.
    return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))


def patches(x: jax.Array, size: int) -> jax.Array:
  """Returns the patches `[n, patches, size * size * c]` of images.

  >>> patches(jnp.arange(16).reshape(1, 4, 4, 1), 2)[0, 1]
  Array([2, 3, 6, 7], dtype=int32)
  """
  n, height, width, channels = x.shape
  rows, columns = height // size, width // size
  x = x[:, : rows * size, : columns * size]
  x = x.reshape(n, rows, size, columns, size, channels)
  return x.swapaxes(2, 3).reshape(n, rows * columns, -1)


class StreamNorm(nn.Module):
  """Batch norm by accumulated statistics, for batches of any size, also of one.

  In training, an example joins the running statistics first, and is then
  standardized by them. So training and evaluation compute the same function.
  The variance is that of all values so far, with weights that fall by
  `momentum` from one call to the next: the variance of the example's own
  values, which is zero if a channel has a single one, and the squared distance
  of its mean from the mean so far. The statistics are constants for the
  derivative.

  Attributes:
    use_running_average: False in training, True in evaluation.
    momentum: The share of the old statistics that is kept.
    epsilon: Added to the variance.

  The idea is that of streaming normalization (Liao et al., 2016,
  https://arxiv.org/abs/1610.06160), the average of the variance that of online
  normalization (Chiley et al., 2019, https://arxiv.org/abs/1905.05894), whose
  correction of the gradient is left out.

  >>> norm = StreamNorm(use_running_average=False, momentum=0.5)
  >>> x = jnp.array([[4.0]])  # One example, one channel.
  >>> variables = norm.init(jax.random.key(0), x)
  >>> y, updates = norm.apply(variables, x, mutable=["batch_stats"])
  >>> print(updates["batch_stats"])
  {'mean': Array([2.], dtype=float32), 'var': Array([4.5], dtype=float32)}
  """

  use_running_average: bool
  momentum: float = 0.99
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns normalized `x`, `[..., channels]`; in training, learns from it.

    Raises:
      ModifyScopeVariableError: In training, `batch_stats` is not mutable.
    """
    shape = x.shape[-1:]
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    var = self.variable("batch_stats", "var", jnp.ones, shape)
    stats = normjax.BatchStats(mean.value, var.value)
    if not (self.use_running_average or self.is_initializing()):
      batch = normjax.moments(x, axes=tuple(range(x.ndim - 1)))
      stats = jax.lax.stop_gradient(accumulated(stats, batch, self.momentum))
      mean.value, var.value = stats
    y, _ = normjax.batch_norm(
      x, scale, bias, stats, use_running_average=True, epsilon=self.epsilon
    )
    return y


def accumulated(
  stats: normjax.BatchStats, batch: normjax.Moments, momentum: float
) -> normjax.BatchStats:
  """Returns statistics of old and new values, which have the weights m, 1 - m.

  `normjax.update_stats` averages the variances of the batches instead, which
  would be zero for batches of one value.
  """
  gap = batch.mean - stats.mean
  share = 1 - momentum
  return normjax.BatchStats(
    stats.mean + share * gap,
    momentum * stats.var + share * (batch.var + momentum * jnp.square(gap)),
  )
