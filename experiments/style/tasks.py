"""Contents, styles and the batches of a training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.data.batch import Batch
from experiments.lab.training.batches import Drawn
from experiments.style import texture

STYLES = ("flower", "stripes", "dots")

# Columns of the content picture, at half its size, for each of the three sets.
# They share no pixel.
_TEST, _TRAIN, _VALIDATION = slice(0, 80), slice(80, 240), slice(240, 320)
_STRIDE = 16  # Pixels between held-out crops.
_SIDE = 128  # Pixels of a style picture.
NARROWEST, WIDEST = 20, 80  # Pixels of a crop; quarters must hold a filter.


class Task(NamedTuple):
  """What is to be painted, and how.

  Attributes:
    train, validation, test: Parts of the content picture, `[height, width, 3]`.
    styles: Style pictures `[styles, side, side, 3]`, in the order of `STYLES`.
    targets: Gram matrices of the styles at each scale, `[styles, ...]`.
    variance: See `texture.content_variance`.
    crop: Height and width of the crops in pixels.
  """

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  styles: np.ndarray
  targets: list[jax.Array]
  variance: float
  crop: int


def load(crop: int) -> Task:
  """Loads scikit-learn's photographs: china as content, flower as a style."""
  from sklearn import datasets  # Slow to import.

  content, flower = map(_halved, datasets.load_sample_images().images)
  petals = flower[50 : 50 + _SIDE, 92 : 92 + _SIDE]
  styles = np.stack([petals, stripes(_SIDE), dots(_SIDE)])
  train, validation, test = (
    content[:, part] for part in (_TRAIN, _VALIDATION, _TEST)
  )
  return Task(
    train=train,
    validation=validation,
    test=test,
    styles=styles,
    targets=jax.jit(texture.grams)(styles),
    variance=float(jax.jit(texture.content_variance)(crops(train, crop))),
    crop=crop,
  )


def _halved(photograph: np.ndarray) -> np.ndarray:
  """Averages 2x2 pixels of `[height, width, 3]` bytes, and divides by 255."""
  height, width = (side // 2 for side in photograph.shape[:2])
  x = photograph[: 2 * height, : 2 * width] / np.float32(255)
  return x.reshape(height, 2, width, 2, 3).mean((1, 3))


def stripes(side: int) -> np.ndarray:
  """Returns wavy stripes of blue and white, `[side, side, 3]`."""
  y, x = np.mgrid[:side, :side].astype(np.float32)
  phase = (x + y) / 8 + 0.25 * np.sin(2 * np.pi * x / 32)
  return _mixed(0.5 + 0.5 * np.sin(2 * np.pi * phase), (0.1, 0.2, 0.6), 1)


def dots(side: int) -> np.ndarray:
  """Returns pink dots in rows on dark green, `[side, side, 3]`."""
  y, x = np.mgrid[:side, :side].astype(np.float32)
  shifted = x + 4 * (y // 8 % 2)
  radius = np.hypot(shifted % 8 - 3.5, y % 8 - 3.5)
  share = np.clip(3.5 - radius, 0, 1)
  return _mixed(share, (0.05, 0.25, 0.15), (1, 0.6, 0.8))


def _mixed(share: np.ndarray, dark: Any, light: Any) -> np.ndarray:
  dark, light = (np.asarray(colour, np.float32) for colour in (dark, light))
  return dark + share[..., None] * (light - dark)


def faded(pictures: Any, contrast: float) -> Any:
  """Returns pictures whose distance from middle gray is `contrast` times it.

  >>> print(faded(np.array([0.0, 0.5, 1.0]), 0.5))
  [0.25 0.5  0.75]
  """
  return 0.5 + contrast * (pictures - 0.5)


def crops(picture: np.ndarray, side: int) -> np.ndarray:
  """Returns all crops `[n, side, side, 3]` on a grid of 16 pixels."""
  height, width = picture.shape[:2]
  return np.stack(
    [
      picture[top : top + side, left : left + side]
      for top in range(0, height - side + 1, _STRIDE)
      for left in range(0, width - side + 1, _STRIDE)
    ]
  )


def held_out(picture: np.ndarray, side: int, style: int) -> Batch:
  """Returns the crops of a picture, all to be painted in one style."""
  found = crops(picture, side)
  return Batch(found, np.full(len(found), style, np.int32))


def source(task: Task, styles: tuple[int, ...], size: int) -> Drawn:
  """Returns the source of random crops, half of them mirrored.

  Args:
    task: The task.
    styles: Numbers of the styles, from which each crop gets one at random.
    size: Number of crops in a batch.
  """

  def draw(key: jax.Array, data: Any, size: int) -> Batch:
    picture, styles = data
    down, right, mirror, which = jax.random.split(key, 4)
    height, width = (side - task.crop + 1 for side in picture.shape[:2])
    top = jax.random.randint(down, (size,), 0, height)
    left = jax.random.randint(right, (size,), 0, width)
    cut = jax.vmap(
      lambda top, left: jax.lax.dynamic_slice(
        picture, (top, left, 0), (task.crop, task.crop, 3)
      )
    )(top, left)
    mirrored = jax.random.bernoulli(mirror, shape=(size, 1, 1, 1))
    cut = jnp.where(mirrored, cut[:, :, ::-1], cut)
    return Batch(cut, jax.random.choice(which, styles, (size,)))

  data = (jnp.asarray(task.train), jnp.asarray(styles, jnp.int32))
  return Drawn(draw, data, size)
