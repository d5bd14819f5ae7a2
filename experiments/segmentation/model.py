"""The net: a small U-Net with a norm after every 3x3 convolution."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn


class UNet(nn.Module):
  """A U-Net (Ronneberger et al., 2015) with padded convolutions.

  On the way down each level has 3x3 convolutions, each with norm and ReLU, and
  2x2 max pooling follows. On the way up the maps are repeated to twice the
  size, joined with those of the same level on the way down, and convolved in
  the same way. A 1x1 convolution gives the logits.

  Nothing in it fixes the size of the images: a net that was trained on crops
  also takes whole images.

  Attributes:
    norm: Called as `norm(train=...)`, returns the module to use, such as
      `functools.partial(normjax.linen.make_norm, "gn", num_groups=4)`.
    num_classes: Number of classes of a pixel.
    hidden: Number of channels of each level, from the largest maps to the
      smallest.
    convolutions: Number of convolutions of a level in each direction.

  >>> import functools
  >>> from normjax.linen import make_norm
  >>> model = UNet(
  ...   norm=functools.partial(make_norm, "gn", num_groups=4), num_classes=3)
  >>> x = jnp.zeros((2, 24, 24, 1))
  >>> variables = model.init(jax.random.key(0), x, train=False)
  >>> model.apply(variables, x, train=False).shape
  (2, 24, 24, 3)
  """

  norm: Callable[..., nn.Module]
  num_classes: int
  hidden: tuple[int, ...] = (8, 16, 32)
  convolutions: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns logits `[n, height, width, num_classes]`.

    Args:
      x: Images `[n, height, width, channels]`.
      train: Whether batch norm uses the statistics of the batch.

    Raises:
      ValueError: The sides of the images cannot be halved often enough.
    """
    halvings = len(self.hidden) - 1
    if any(side % 2**halvings for side in x.shape[1:3]):
      raise ValueError(
        f"{len(self.hidden)} levels need sides that are multiples of"
        f" {2**halvings}, got images of {x.shape[1:3]}."
      )
    *levels, lowest = self.hidden
    skips = []
    for width in levels:
      x = self._convolved(x, width, train)
      skips.append(x)
      x = nn.max_pool(x, (2, 2), strides=(2, 2))
    x = self._convolved(x, lowest, train)
    for width, skip in zip(reversed(levels), reversed(skips), strict=True):
      x = x.repeat(2, axis=1).repeat(2, axis=2)
      x = jnp.concatenate([x, skip], axis=-1)
      x = self._convolved(x, width, train)
    return nn.Conv(self.num_classes, (1, 1))(x)

  def _convolved(self, x: jax.Array, width: int, train: bool) -> jax.Array:
    for _ in range(self.convolutions):
      x = nn.Conv(width, (3, 3))(x)
      x = nn.relu(self.norm(train=train)(x))
    return x
