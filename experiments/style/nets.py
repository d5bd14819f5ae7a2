"""The net that paints a picture in a style, for one style or for several."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

Norm = Callable[..., nn.Module]

PLACES = ("norms", "input")  # Where a net of several styles is told the style.


class StyleNorm(nn.Module):
  """A norm, then a gain and a bias that each style has for itself.

  With instance norm this is conditional instance norm,
  https://arxiv.org/abs/1610.07629.

  Attributes:
    norm: Called as `norm(train=...)`, returns a norm without gain and bias.
    styles: Number of styles.

  >>> import functools
  >>> from normjax.linen import make_norm
  >>> plain = functools.partial(
  ...   make_norm, "in", use_scale=False, use_bias=False)
  >>> norm = StyleNorm(plain, styles=3)
  >>> x, style = jnp.ones((2, 8, 8, 16)), jnp.array([0, 2])
  >>> variables = norm.init(jax.random.key(0), x, style, train=False)
  >>> {name: p.shape for name, p in variables["params"].items()}
  {'scale': (3, 16), 'bias': (3, 16)}
  """

  norm: Norm
  styles: int

  @nn.compact
  def __call__(
    self, x: jax.Array, style: jax.Array, *, train: bool
  ) -> jax.Array:
    """Normalizes `x` `[n, height, width, c]` in the styles `[n]`."""
    shape = (self.styles, x.shape[-1])
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    x = self.norm(train=train)(x)
    return x * scale[style][:, None, None] + bias[style][:, None, None]


class Stylizer(nn.Module):
  """Two convolutions, residual blocks, upsampling, two convolutions.

  The net of https://arxiv.org/abs/1603.08155 at a small size. All convolutions
  are 3x3, and a norm and ReLU follow all but the last. Borders are mirrored:
  with zeros there, the output would depend on the brightness of the picture
  even behind an instance norm.

  Attributes:
    norm: Called as `norm(train=...)`, returns the module to use. If the style
      is told to the norms, these have no gain and bias of their own.
    widths: Number of channels at full and at half resolution.
    blocks: Number of residual blocks, at half resolution.
    styles: Number of styles.
    told: Where a net of several styles is told the style of a picture: "norms",
      which get a gain and a bias for each style, or "input", by a constant
      channel for each style.

  >>> import functools
  >>> from normjax.linen import make_norm
  >>> model = Stylizer(functools.partial(make_norm, "in"), widths=(4, 8))
  >>> x = jnp.zeros((2, 16, 16, 3))
  >>> variables = model.init(jax.random.key(0), x, train=False)
  >>> model.apply(variables, x, train=False).shape
  (2, 16, 16, 3)
  """

  norm: Norm
  widths: tuple[int, int] = (8, 16)
  blocks: int = 2
  styles: int = 1
  told: str = "norms"

  @nn.compact
  def __call__(
    self, x: jax.Array, style: jax.Array | None = None, *, train: bool
  ) -> jax.Array:
    """Returns pictures like `x`, `[n, height, width, 3]` from 0 to 1.

    Args:
      x: Pictures; height and width are even.
      style: Number of the style of each picture, `[n]`; None means the first.
      train: Whether batch norm uses the statistics of the batch.
    """
    if self.told not in PLACES:
      raise ValueError(f"told must be one of {PLACES}, got {self.told!r}.")
    if style is None:
      style = jnp.zeros(len(x), jnp.int32)

    def normed(x: jax.Array) -> jax.Array:
      if self.styles > 1 and self.told == "norms":
        return StyleNorm(self.norm, self.styles)(x, style, train=train)
      return self.norm(train=train)(x)

    full, half = self.widths
    x = x - 0.5
    if self.styles > 1 and self.told == "input":
      constant = jax.nn.one_hot(style, self.styles)[:, None, None]
      shape = (*x.shape[:3], self.styles)
      x = jnp.concatenate([x, jnp.broadcast_to(constant, shape)], axis=-1)
    x = nn.relu(normed(_conv(x, full)))
    x = nn.relu(normed(_conv(x, half, stride=2)))
    for _ in range(self.blocks):
      y = nn.relu(normed(_conv(x, half)))
      x = x + normed(_conv(y, half))
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    x = nn.relu(normed(_conv(x, full)))
    return nn.sigmoid(_conv(x, 3))


def _conv(x: jax.Array, features: int, stride: int = 1) -> jax.Array:
  """A 3x3 convolution, with the borders mirrored."""
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
  return nn.Conv(features, (3, 3), stride, padding="VALID")(x)
