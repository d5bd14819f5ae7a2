"""Scenes: canvases with digits of several sizes, and where the digits are."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.data.arrays import Images, Pool
from experiments.lab.data.batch import Batch, Members

MOST = 3  # Digits of a scene.
BOX = 4  # Numbers of a box: its middle (y, x), height and width.
_LAYOUTS = 12  # Of so many, the one with the least overlap is taken.
_INK = 0.2  # Darker pixels do not belong to a digit; white is 1.
_LEVELS = 255


class Digits(NamedTuple):
  """Digits to draw from.

  Attributes:
    images: `[n, height, width]`, from 0 to 1.
    labels: `[n]`.
    ink: `[n, 4]`, the rows and columns of an image between which its ink is:
      top, bottom, left, right.
  """

  images: jax.Array
  labels: jax.Array
  ink: jax.Array

  def some(self, chosen: Any) -> "Digits":
    """Returns the digits at an index, a slice or an array of indices."""
    return Digits(*(array[chosen] for array in self))


class Sizes(NamedTuple):
  """How many scenes a seed gets, and how large they are.

  Attributes:
    train, validation, test: Numbers of scenes.
    canvas: Height and width of a scene in pixels.
    sides: The longer side of a digit is between these, in pixels.
    most: The most digits of a scene.
  """

  train: int
  validation: int
  test: int
  canvas: int
  sides: tuple[float, float]
  most: int = MOST


def digits(pool: Pool) -> Digits:
  """Returns the images of a pool, with the places of their ink."""
  images = np.asarray(pool.prepare(pool.examples.inputs)).mean(axis=-1)
  extents = []
  for axis in (2, 1):  # Rows with ink, then columns.
    inked = (images > _INK).any(axis=axis)
    extents += [inked.argmax(1), inked.shape[1] - inked[:, ::-1].argmax(1)]
  return Digits(
    jnp.asarray(images),
    jnp.asarray(pool.examples.targets),
    jnp.asarray(np.stack(extents, axis=1), jnp.float32),
  )


def scene(
  key: jax.Array, some: Digits, canvas: int, sides: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws a scene; a pure function of the key.

  Args:
    key: Typed key.
    some: The digits, of which the scene has the first one, two, ... or all.
    canvas: Height and width of the scene in pixels.
    sides: The longer side of a digit is between these, in pixels.

  Returns:
    - The scene `[canvas, canvas, 1]`, from 0 to 1.
    - Its digits `[most, 5]`: box and label. A box is the middle, height and
      width of the ink in pixels: (y, x, height, width).
    - Which of the digits there are, booleans `[most]`.

  >>> from experiments.lab.data import arrays
  >>> first = digits(arrays.load_pool("digits")).some(slice(3))
  >>> image, objects, there = scene(jax.random.key(0), first, 48, (12, 24))
  >>> image.shape, objects.shape, there.shape
  ((48, 48, 1), (3, 5), (3,))
  """
  number, *layouts = jax.random.split(key, 1 + _LAYOUTS)
  images, labels, ink = some
  most = len(labels)
  there = jnp.arange(most) < jax.random.randint(number, (), 1, most + 1)
  extent = jnp.stack([ink[:, 1] - ink[:, 0], ink[:, 3] - ink[:, 2]], axis=-1)
  share = extent / extent.max(axis=-1, keepdims=True)

  def layout(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    large, place = jax.random.split(key)
    longest = jax.random.uniform(large, (most, 1), jnp.float32, *sides)
    size = longest * share
    free = jax.random.uniform(place, (most, 2))
    middle = size / 2 + free * (canvas - size)
    return middle, size, _overlap(middle, size, there)

  middles, extents, overlaps = jax.vmap(layout)(jnp.stack(layouts))
  best = jnp.argmin(overlaps)
  middle, size = middles[best], extents[best]
  pixels = jnp.arange(float(canvas)) + 0.5

  def paint(
    image: jax.Array, ink: jax.Array, at: jax.Array, size: jax.Array
  ) -> jax.Array:
    rows, columns = (
      _weights(
        ink[2 * axis]
        + (pixels - at[axis] + size[axis] / 2)
        / size[axis]
        * (ink[2 * axis + 1] - ink[2 * axis]),
        image.shape[axis],
      )
      for axis in (0, 1)
    )
    return rows @ image @ columns.T

  painted = jax.vmap(paint)(images, ink, middle, size)
  whole = jnp.max(painted, axis=0, where=there[:, None, None], initial=0.0)
  labels = labels[:, None].astype(jnp.float32)
  return whole[..., None], jnp.concatenate([middle, size, labels], -1), there


def prepare(scenes: jax.Array) -> jax.Array:
  """Converts scenes from bytes to numbers from 0 to 1."""
  return scenes.astype(jnp.float32) / _LEVELS


def load(
  pool: Pool, sizes: Sizes, seeds: Sequence[int], rates: int = 1
) -> Images[Members]:
  """Draws the scenes of every seed, from the digits that the seed has for each.

  Args:
    pool: The digits.
    sizes: How many scenes, and how large.
    seeds, rates: As in `Pool.split`.

  Returns:
    Scenes as bytes, whose "targets" are the digits `[most, 5]` of `scene`, and
    "counted" which of them there are. Lanes as in `Pool.split`.
  """
  split = pool.split(seeds)
  every = digits(pool)
  parts = [
    _draw(every, *_choice(split, sizes, lane, seed), sizes.canvas, sizes.sides)
    for lane, seed in enumerate(seeds)
  ]
  scenes = jax.tree.map(lambda *each: jnp.concatenate(each), *parts)
  train, validation, test = (
    Members(scenes, jnp.asarray(chosen))
    for chosen in _chosen(sizes, len(seeds), rates)
  )
  return Images(pool.name, train, test, pool.num_classes, prepare, validation)


def labelled(images: Images[Members]) -> Images[Members]:
  """Returns scenes of one digit with its label as the target."""
  pool = images.train.pool
  labels = jnp.asarray(pool.targets)[:, 0, BOX].astype(jnp.int32)
  pool = pool._replace(targets=labels, counted=None)
  train, validation, test = (
    Members(pool, part.chosen)
    for part in (images.train, images.validation, images.test)
    if part is not None
  )
  return images._replace(train=train, validation=validation, test=test)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _draw(
  every: Digits,
  keys: jax.Array,
  chosen: jax.Array,
  canvas: int,
  sides: tuple[float, float],
) -> Batch:
  image, objects, there = jax.vmap(
    lambda key, own: scene(key, every.some(own), canvas, sides)
  )(keys, chosen)
  return Batch(jnp.rint(image * _LEVELS).astype(jnp.uint8), objects, there)


def _choice(
  split: Images[Members], sizes: Sizes, lane: int, seed: int
) -> tuple[jax.Array, jax.Array]:
  """Returns a key and the digits `[most]` for every scene of a seed."""
  assert split.validation is not None
  keys, chosen = [], []
  sets = (split.train, split.validation, split.test)
  for number, (own, count) in enumerate(zip(sets, sizes[:3], strict=True)):
    key, which = jax.random.split(
      jax.random.fold_in(jax.random.key(seed), number)
    )
    keys.append(jax.random.split(key, count))
    shape = (count, sizes.most)
    chosen.append(jax.random.choice(which, own.chosen[lane], shape))
  return jnp.concatenate(keys), jnp.concatenate(chosen)


def _chosen(sizes: Sizes, seeds: int, rates: int) -> list[np.ndarray]:
  """Returns the places of the scenes of each set and lane."""
  counts = sizes[:3]
  starts = sum(counts) * np.arange(seeds, dtype=np.int32)[:, None]
  ends = np.cumsum(counts)
  return [
    np.tile(starts + np.arange(end - count, end, dtype=np.int32), (rates, 1))
    for count, end in zip(counts, ends, strict=True)
  ]


def _overlap(middle: jax.Array, size: jax.Array, there: jax.Array) -> jax.Array:
  """Returns the area that is common to two boxes, summed over all pairs."""
  low, high = middle - size / 2, middle + size / 2
  common = jnp.minimum(high[:, None], high[None]) - jnp.maximum(
    low[:, None], low[None]
  )
  area = jnp.prod(jnp.maximum(common, 0), axis=-1)
  counts = there[:, None] & there[None] & ~jnp.eye(len(there), dtype=bool)
  return jnp.sum(area, where=counts)


def _weights(at: jax.Array, count: int) -> jax.Array:
  """Returns the weights `[n, count]` of pixels, to interpolate between them.

  Args:
    at: Positions `[n]`; the middle of pixel k is at k + 0.5.
    count: Number of pixels; outside of them it is black.
  """
  return jnp.maximum(
    0, 1 - jnp.abs(at[:, None] - 0.5 - jnp.arange(float(count))[None])
  )
