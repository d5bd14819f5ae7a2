"""The nets: a backbone, with a detector or a classifier on top of it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

STRIDE = 8  # Pixels along the side of a cell.
HIDDEN = (16, 16, 32, 64)

Norm = Callable[..., nn.Module]


class Backbone(nn.Module):
  """The stem of ResNet and three 3x3 convolutions, each with a norm and ReLU.

  The stem is a 7x7 convolution with stride 2, norm, ReLU and 3x3 max pooling
  with stride 2. The second convolution after it has stride 2.

  Attributes:
    norm: Called as `norm(train=...)`, returns the module to use, such as
      `functools.partial(normjax.linen.make_norm, "bn")`.
    hidden: Channels of the stem and of each convolution.
  """

  norm: Norm
  hidden: tuple[int, ...] = HIDDEN

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns maps `[n, rows, columns, c]`, an eighth of the images' size."""
    stem, *widths = self.hidden

    def convolution(
      x: jax.Array, width: int, size: int, stride: int
    ) -> jax.Array:
      kernel = nn.initializers.he_normal()
      # No bias: the norm would take it away, and has its own.
      x = nn.Conv(
        width, (size, size), stride, use_bias=False, kernel_init=kernel
      )(x)
      return nn.relu(self.norm(train=train)(x))

    x = convolution(x, stem, size=7, stride=2)
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    for layer, width in enumerate(widths):
      x = convolution(x, width, size=3, stride=2 if layer == 1 else 1)
    return x


class Detector(nn.Module):
  """Says of each cell of a grid whether an object has its middle there.

  Attributes:
    norm, hidden: As in `Backbone`.
    num_classes: Number of classes.

  >>> import functools
  >>> from normjax.linen import make_norm
  >>> model = Detector(norm=functools.partial(make_norm, "bn"))
  >>> x = jnp.zeros((2, 48, 48, 1))
  >>> variables = model.init(jax.random.key(0), x, train=False)
  >>> model.apply(variables, x, train=False).shape
  (2, 6, 6, 15)
  """

  norm: Norm
  hidden: tuple[int, ...] = HIDDEN
  num_classes: int = 10

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns the outputs `[n, rows, columns, 1 + 4 + num_classes]` of cells.

    They are the logit of "an object is here", its box as in `grid.encoded`, and
    the logits of its class. The images are `[n, height, width, 1]`, and a cell
    has 8x8 pixels.
    """
    x = Backbone(self.norm, self.hidden, name="backbone")(x, train=train)
    return nn.Conv(1 + 4 + self.num_classes, (1, 1), name="head")(x)


class Classifier(nn.Module):
  """The same backbone, to be trained on images of one object.

  Attributes:
    norm, hidden, num_classes: As in `Detector`.
  """

  norm: Norm
  hidden: tuple[int, ...] = HIDDEN
  num_classes: int = 10

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits `[n, num_classes]` of `[n, height, width, 1]`."""
    x = Backbone(self.norm, self.hidden, name="backbone")(x, train=train)
    return nn.Dense(self.num_classes, name="head")(jnp.mean(x, axis=(1, 2)))
