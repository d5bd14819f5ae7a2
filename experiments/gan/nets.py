"""A small DCGAN: a generator and a discriminator, as one model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

# Called as norm(train=...), returns the module to use.
NormFactory = Callable[..., nn.Module]

_SLOPE = 0.2  # Of leaky ReLU below 0, from the paper.


class Generator(nn.Module):
  """A dense layer, then transposed convolutions that double height and width.

  Attributes:
    norm: Makes the norm before each ReLU.
    output_norm: Makes the norm before the tanh.
    hidden: Number of channels of each hidden layer.
    size: Height and width of the images, a multiple of 2 ** len(hidden).
    channels: Number of channels of the images.

  >>> from experiments.lab.models.norms import norm_factory
  >>> net = Generator(
  ...   norm_factory("bn"), norm_factory("none"), hidden=(8, 4), size=8)
  >>> noise = jnp.ones((3, 16))
  >>> images, _ = net.init_with_output(jax.random.key(0), noise, train=False)
  >>> images.shape
  (3, 8, 8, 1)
  """

  norm: NormFactory
  output_norm: NormFactory
  hidden: tuple[int, ...]
  size: int
  channels: int = 1

  @nn.compact
  def __call__(self, noise: jax.Array, *, train: bool) -> jax.Array:
    """Returns images `[n, size, size, channels]` from -1 to 1.

    Args:
      noise: `[n, features]`.
      train: Whether batch norm uses the statistics of this batch.
    """
    first, *others = self.hidden
    side = self.size // 2 ** len(self.hidden)
    x = nn.Dense(side * side * first)(noise)
    x = x.reshape(-1, side, side, first)
    x = nn.relu(self.norm(train=train)(x))
    for channels in others:
      x = nn.ConvTranspose(channels, (4, 4), (2, 2))(x)
      x = nn.relu(self.norm(train=train)(x))
    x = nn.ConvTranspose(self.channels, (4, 4), (2, 2))(x)
    return jnp.tanh(self.output_norm(train=train)(x))


class Discriminator(nn.Module):
  """Convolutions that halve height and width, then a dense layer.

  Attributes:
    norm: Makes the norm before each leaky ReLU but the first.
    input_norm: Makes the norm of the first layer.
    output_norm: Makes the norm of the logits.
    hidden: Number of channels of each convolution.
    spectral: Whether each kernel is divided by its largest singular value.

  >>> from experiments.lab.models.norms import norm_factory
  >>> bn, none = norm_factory("bn"), norm_factory("none")
  >>> net = Discriminator(bn, none, none, hidden=(4, 8))
  >>> images = jnp.ones((3, 8, 8, 1))
  >>> logits, _ = net.init_with_output(jax.random.key(0), images, train=True)
  >>> logits.shape
  (3,)
  """

  norm: NormFactory
  input_norm: NormFactory
  output_norm: NormFactory
  hidden: tuple[int, ...]
  spectral: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns logits `[n]`, of being real, of images `[n, h, w, channels]`."""
    x = images
    norms = [self.input_norm, *[self.norm] * (len(self.hidden) - 1)]
    for channels, norm in zip(self.hidden, norms, strict=True):
      x = self._linear(nn.Conv(channels, (4, 4), (2, 2)), x, train)
      x = nn.leaky_relu(norm(train=train)(x), _SLOPE)
    x = self._linear(nn.Dense(1), x.reshape(x.shape[0], -1), train)
    return self.output_norm(train=train)(x)[:, 0]

  def _linear(self, layer: nn.Module, x: jax.Array, train: bool) -> jax.Array:
    if self.spectral:
      return nn.SpectralNorm(layer)(x, update_stats=train)
    return layer(x)


class GAN(nn.Module):
  """Both networks, under the names by which the updates of a step train them.

  Attributes:
    generator, discriminator: The networks.
  """

  generator: Generator
  discriminator: Discriminator

  def __call__(self, noise: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits of generated images; for `init`, which needs both."""
    return self.judge(self.generate(noise, train=train), train=train)

  def generate(self, noise: jax.Array, *, train: bool) -> jax.Array:
    return self.generator(noise, train=train)

  def judge(self, images: jax.Array, *, train: bool) -> jax.Array:
    return self.discriminator(images, train=train)
