"""How far a picture is from a style and from a content.

Pictures are compared in the features of one layer of fixed random filters with
ReLU, on the picture at full, half and quarter resolution.
"""

import jax
import jax.numpy as jnp
import numpy as np

_FILTERS = 32
_SIZE = 5  # Width of a filter in pixels.
_SCALES = 3
_CONTENT = 1  # Number of the scale, from 0, at which contents are compared.
_GRAY = (0.299, 0.587, 0.114)  # Brightness of red, green and blue.


def filters() -> np.ndarray:
  """Returns the filters `[height, width, 3, filters]`, always the same."""
  drawn = np.random.default_rng(0).normal(size=(_SIZE, _SIZE, 3, _FILTERS))
  return np.asarray(drawn * np.sqrt(2 / (3 * _SIZE**2)), np.float32)


def features(pictures: jax.Array) -> list[jax.Array]:
  """Returns the features of pictures `[n, height, width, 3]` at each scale.

  Scale k has the shape `[n, height / 2**k - 4, width / 2**k - 4, filters]`.
  """
  x, found = pictures - 0.5, []
  for scale in range(_SCALES):
    if scale:
      n, height, width, channels = x.shape
      x = x[:, : height // 2 * 2, : width // 2 * 2]
      x = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
    y = jax.lax.conv_general_dilated(
      x,
      jnp.asarray(filters()),
      (1, 1),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    found.append(jax.nn.relu(y))
  return found


def gram(features: jax.Array) -> jax.Array:
  """Returns the mean products of features, `[n, filters, filters]`.

  >>> print(gram(jnp.array([[[[1.0, 2.0]], [[3.0, 0.0]]]])))
  [[[5. 1.]
    [1. 2.]]]
  """
  flat = features.reshape(len(features), -1, features.shape[-1])
  return jnp.einsum("npi,npj->nij", flat, flat) / flat.shape[1]


def grams(pictures: jax.Array) -> list[jax.Array]:
  """Returns the Gram matrices of pictures at each scale."""
  return [gram(found) for found in features(pictures)]


def style_distance(pictures: jax.Array, targets: list[jax.Array]) -> jax.Array:
  """Returns the distances `[n]` of pictures to styles.

  Args:
    pictures: `[n, height, width, 3]`.
    targets: Gram matrices of the styles at each scale, `[n, ...]`.

  Returns:
    The squared distance of the Gram matrices over the squared norm of the
    targets, averaged over scales: 1 is that of a gray picture.
  """
  squares = [
    jnp.square(found - target).sum((1, 2)) / jnp.square(target).sum((1, 2))
    for found, target in zip(grams(pictures), targets, strict=True)
  ]
  return jnp.stack(squares).mean(axis=0)


def content_distance(
  pictures: jax.Array, contents: jax.Array, variance: float
) -> jax.Array:
  """Returns the distances `[n]` of pictures to contents.

  Colours and the mean brightness are left aside, because the style sets them.

  Args:
    pictures, contents: `[n, height, width, 3]`.
    variance: That of contents, from `content_variance`.
  """
  found, wanted = map(_structure, (pictures, contents))
  return jnp.square(found - wanted).mean((1, 2, 3)) / variance


def content_variance(contents: jax.Array) -> jax.Array:
  """Returns the mean variance of the features that contents are compared by."""
  return jnp.square(_structure(contents)).mean()


def _structure(pictures: jax.Array) -> jax.Array:
  """Returns features of gray pictures minus their means over positions."""
  found = features(gray(pictures))[_CONTENT]
  return found - found.mean((1, 2), keepdims=True)


def gray(pictures: jax.Array) -> jax.Array:
  """Returns pictures without colour, with three equal channels."""
  brightness = pictures @ jnp.asarray(_GRAY, pictures.dtype)
  return jnp.stack([brightness] * 3, axis=-1)
