"""Scenes of handwritten digits in clutter."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Batch
from experiments.segmentation.scenes import Look, Task, lit

WANTED = 2  # Classes of the data set to find: zeros and ones.
COVERED = 0.3  # Of the area, by digits to find; as much by clutter.
INK = 0.5  # Pixels of a digit that are brighter are of its class.


class Cutouts(NamedTuple):
  """Images to paste.

  Attributes:
    wanted: Images `[m, height, width]`, from 0 to 1, of the classes to find.
    classes: Their classes in a scene, `[m]`, counted from 1.
    others: Images `[n, height, width]` of all classes, for the clutter.
  """

  wanted: jax.Array
  classes: jax.Array
  others: jax.Array


def digits(images: Images[Batch], look: Look) -> Task:
  """Returns the task of finding zeros and ones among halves of all digits.

  Args:
    images: Small images, with a validation set.
    look: How the scenes look.
  """

  def cutouts(examples: Batch | None) -> Cutouts:
    assert examples is not None
    pixels = images.prepare(jnp.asarray(examples.inputs)).mean(axis=-1)
    labels = np.asarray(examples.targets)
    wanted = np.flatnonzero(labels < WANTED)
    return Cutouts(pixels[wanted], jnp.asarray(labels[wanted] + 1), pixels)

  @functools.partial(jax.jit, static_argnums=2)
  def draw(key: jax.Array, data: Cutouts, count: int) -> Batch:
    make = functools.partial(scene, data=data, look=look)
    return Batch(*jax.vmap(make)(jax.random.split(key, count)))

  return Task(
    images.name,
    ("background", *(f"class {label}" for label in range(WANTED))),
    draw,
    cutouts(images.train),
    cutouts(images.validation),
    cutouts(images.test),
  )


def scene(
  key: jax.Array, data: Cutouts, look: Look
) -> tuple[jax.Array, jax.Array]:
  """Returns an image `[side, side, 1]` and the class of each pixel."""
  wanted_key, other_key, place_key, half_key, light_key = jax.random.split(
    key, 5
  )
  size = data.wanted.shape[1]
  count = max(1, round(COVERED * (look.side / size) ** 2))
  wanted = jax.random.randint(wanted_key, (count,), 0, len(data.wanted))
  others = jax.random.randint(other_key, (count,), 0, len(data.others))
  angles = jax.random.uniform(half_key, (count,), maxval=2 * jnp.pi)
  kept = jax.vmap(functools.partial(_half, size=size))(angles)
  halves = jnp.where(kept, data.others[others], 0.0)
  patches = jnp.concatenate([halves, data.wanted[wanted]])
  kinds = jnp.concatenate([jnp.zeros_like(wanted), data.classes[wanted]])
  # Digits are inside the scene; later ones cover earlier ones.
  corners = jax.random.randint(
    place_key, (2 * count, 2), 0, look.side - size + 1
  )
  clean = jnp.zeros((look.side, look.side))
  classes = jnp.zeros((look.side, look.side), jnp.int32)
  for patch, kind, corner in zip(patches, kinds, corners, strict=True):
    pasted = jax.lax.dynamic_update_slice(jnp.zeros_like(clean), patch, corner)
    clean = jnp.maximum(clean, pasted)
    classes = jnp.where(pasted > INK, kind, classes)
  return lit(light_key, clean, look), classes


def _half(angle: jax.Array, size: int) -> jax.Array:
  """Returns where a square is on one side of a line through its middle."""
  place = jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2
  y, x = jnp.meshgrid(place, place, indexing="ij")
  return jnp.sin(angle) * y + jnp.cos(angle) * x > 0
