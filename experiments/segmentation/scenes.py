"""Generated scenes with exact masks, and what both tasks share."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.lab.data.batch import Batch

PyTree = Any

PER_AREA = 6  # Shapes in 48 x 48 pixels.
RADIUS = (4.0, 7.0)  # Of disks, in pixels; a bar is four times as long.
BAR = 3.0  # Width of a bar in pixels.
CONTRAST = (0.5, 1.5)  # How much brighter than the background a shape is.
TEXTURE, PERIOD = 0.3, (3.0, 12.0)  # Largest amplitude; pixels.
NOISE = 0.2  # Standard deviation, before the gain.
_AT_ONCE = 64  # Scenes that are drawn by one call.


class Look(NamedTuple):
  """How scenes look.

  Attributes:
    side: Height and width in pixels.
    lighting: How much the light differs between scenes: the gain is between
      `2 ** -lighting` and `2 ** lighting`, the offset between `-lighting` and
      `lighting`.
  """

  side: int = 48
  lighting: float = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
  """What is to be segmented.

  Attributes:
    name: Name of the data.
    classes: Names of the classes; the first is the background.
    draw: `draw(key, data, count)` returns scenes: images `[count, side, side,
      1]` and the class of each pixel `[count, side, side]`.
    train, validation, test: The data to draw from; None if there are none.
  """

  name: str
  classes: tuple[str, ...]
  draw: Callable[[jax.Array, PyTree, int], Batch]
  train: PyTree = None
  validation: PyTree = None
  test: PyTree = None


class Sets(NamedTuple):
  """The examples of a seed.

  Attributes:
    train: Crops `[n, crop, crop, 1]` and their classes, each of another scene.
    validation, test: Whole scenes.
  """

  train: Batch
  validation: Batch
  test: Batch


def shapes(look: Look = Look()) -> Task:  # noqa: B008
  """Returns the task of disks and bars on a background with stripes."""

  @functools.partial(jax.jit, static_argnums=2)
  def draw(key: jax.Array, data: PyTree, count: int) -> Batch:
    del data
    make = functools.partial(scene, look=look)
    return Batch(*jax.vmap(make)(jax.random.split(key, count)))

  return Task("shapes", ("background", "disk", "bar"), draw)


def scene(key: jax.Array, look: Look) -> tuple[jax.Array, jax.Array]:
  """Returns an image `[side, side, 1]` and the class of each pixel.

  >>> image, classes = scene(jax.random.key(0), Look(side=32))
  >>> image.shape, classes.shape, classes.dtype.name
  ((32, 32, 1), (32, 32), 'int32')
  """
  shapes_key, ground_key, light_key = jax.random.split(key, 3)
  place = jnp.arange(look.side, dtype=jnp.float32) + 0.5
  y, x = jnp.meshgrid(place, place, indexing="ij")
  # One call for all numbers, because each takes long to compile.
  count = max(1, round(PER_AREA * (look.side / 48) ** 2))
  numbers = jax.random.uniform(shapes_key, (count, 10))
  shape = functools.partial(_shape, x=x, y=y)
  clean = _texture(jax.random.uniform(ground_key, (4,)), x, y)
  classes = jnp.zeros((look.side, look.side), jnp.int32)
  for inside, kind, fill in zip(*jax.vmap(shape)(numbers), strict=True):
    clean = jnp.where(inside, fill, clean)  # Later shapes cover earlier ones.
    classes = jnp.where(inside, kind, classes)
  return lit(light_key, clean, look), classes


def lit(key: jax.Array, clean: jax.Array, look: Look) -> jax.Array:
  """Returns the image `[side, side, 1]` with noise, a gain and an offset."""
  noise_key, light_key = jax.random.split(key)
  noisy = clean + NOISE * jax.random.normal(noise_key, clean.shape)
  gain, offset = jax.random.uniform(light_key, (2,), minval=-1.0, maxval=1.0)
  gain, offset = 2 ** (look.lighting * gain), look.lighting * offset
  return (gain * noisy + offset)[..., None]


def _shape(
  numbers: jax.Array, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the pixels of a shape, its class, and what it is filled with."""
  x_middle, y_middle, size, turn, kind, bright, *texture = numbers
  x, y = x - len(x) * x_middle, y - len(y) * y_middle
  radius = _between(size, *RADIUS)
  along, across = _turned(x, y, turn * jnp.pi)
  is_bar = kind < 0.5
  inside = jnp.where(
    is_bar,
    (jnp.abs(along) < 2 * radius) & (jnp.abs(across) < BAR / 2),
    jnp.hypot(x, y) < radius,
  )
  fill = _between(bright, *CONTRAST) + _texture(texture, x, y)
  return inside, jnp.where(is_bar, 2, 1), fill


def _texture(
  numbers: Sequence[jax.Array] | jax.Array, x: jax.Array, y: jax.Array
) -> jax.Array:
  """Returns stripes of any direction, width and phase."""
  turn, width, phase, strength = numbers
  along, _ = _turned(x, y, turn * jnp.pi)
  waves = along / _between(width, *PERIOD) + phase
  return TEXTURE * strength * jnp.sin(2 * jnp.pi * waves)


def _turned(
  x: jax.Array, y: jax.Array, angle: jax.Array
) -> tuple[jax.Array, jax.Array]:
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return cos * x + sin * y, cos * y - sin * x


def _between(number: jax.Array, low: float, high: float) -> jax.Array:
  return low + (high - low) * number


@functools.lru_cache(maxsize=16)  # For all arms, with the default seeds.
def sets(task: Task, seed: int, *, crop: int, train: int, test: int) -> Sets:
  """Draws the examples of a seed.

  Args:
    task: The task.
    seed: The seed.
    crop: Height and width of the crops to train on.
    train, test: Number of crops to train on, and of scenes for the validation
      and for the test.
  """
  keys = jax.random.split(jax.random.key(seed), 4)
  train_key, crop_key, validation_key, test_key = keys
  scenes = _drawn(task, train_key, task.train, train)
  return Sets(
    _crops(jax.random.split(crop_key, train), *scenes[:2], crop),
    _drawn(task, validation_key, task.validation, test),
    _drawn(task, test_key, task.test, test),
  )


def _drawn(task: Task, key: jax.Array, data: PyTree, count: int) -> Batch:
  """Returns scenes, drawn so many at once that it compiles only once."""
  keys = jax.random.split(key, -(-count // _AT_ONCE))
  parts = [task.draw(part, data, _AT_ONCE) for part in keys]
  joined = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)
  return Batch(*joined[:2]).first(count)


@functools.partial(jax.jit, static_argnums=3)
def _crops(
  keys: jax.Array, inputs: jax.Array, targets: jax.Array, side: int
) -> Batch:
  """Returns a part `[side, side]` at a random place of every scene."""

  def crop(key: jax.Array, image: jax.Array, classes: jax.Array) -> Batch:
    y, x = jax.random.randint(key, (2,), 0, len(image) - side + 1)
    return Batch(
      jax.lax.dynamic_slice(image, (y, x, 0), (side, side, image.shape[-1])),
      jax.lax.dynamic_slice(classes, (y, x), (side, side)),
    )

  return jax.vmap(crop)(keys, inputs, targets)


def tiles(array: Any, side: int) -> Any:
  """Cuts scenes `[n, height, width, ...]` into squares `[m, side, side, ...]`.

  >>> import numpy as np
  >>> tiles(np.arange(16).reshape(1, 4, 4), 2)[1]
  array([[2, 3],
         [6, 7]])
  """
  count, height, width, *rest = array.shape
  rows, columns = height // side, width // side
  cut = array.reshape(count, rows, side, columns, side, *rest)
  return cut.swapaxes(2, 3).reshape(-1, side, side, *rest)
