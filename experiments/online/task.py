"""The stream: images whose light, order and classes change.

A segment of the stream begins with a change, and is named after it. The stream
is the same for all seeds but for the images and the names of the classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.data.arrays import Pool
from experiments.lab.data.batch import Batch, Members

_SEED = 3  # With a seed of the study it gives the stream of that seed.
_LEVELS = 255


class Light(NamedTuple):
  """A grey value v from 0 to 1 becomes `brightness + contrast * v`."""

  contrast: float
  brightness: float


DAY, DUSK, FOG = Light(1.0, 0.0), Light(0.4, 0.0), Light(0.4, 0.4)


class Segment(NamedTuple):
  """A part of the stream.

  Attributes:
    kind: What changes at its start.
      - "start": Nothing.
      - "light": Contrast and brightness jump.
      - "order": Five of the ten classes come first, then the others; before and
        after this segment they are mixed.
      - "drift": Contrast and brightness change gradually.
      - "classes": Every digit has the name of another one.
    first, last: Light of its first and its last image.
  """

  kind: str
  first: Light
  last: Light


def _cycle(jump: Light, drift: Light) -> list[Segment]:
  return [
    Segment("light", jump, jump),
    Segment("order", jump, jump),
    Segment("drift", jump, drift),
    Segment("classes", drift, drift),
  ]


SEGMENTS = (
  Segment("start", DAY, DAY),
  *_cycle(jump=FOG, drift=DUSK),
  *_cycle(jump=DAY, drift=FOG),
  *_cycle(jump=DUSK, drift=DAY),
)


def numbers(kind: str) -> list[int]:
  """Returns which segments are of a kind.

  >>> numbers("light")
  [1, 5, 9]
  """
  return [n for n, segment in enumerate(SEGMENTS) if segment.kind == kind]


CONTRAST = numbers("light")[1]  # From dusk to day: only the contrast changes.


class Streams(NamedTuple):
  """The streams of all lanes.

  Attributes:
    stream: The examples of each lane in their order.
    test: Images that are not in the stream, in its last light and with its last
      names of the classes.
  """

  stream: Members
  test: Members


def prepare(x: jax.Array) -> jax.Array:
  """Converts bytes to the inputs of a model, float32 from 0 to 1."""
  return x.astype(jnp.float32) / _LEVELS


def streams(
  pool: Pool, length: int, seeds: Sequence[int], rates: int = 1
) -> Streams:
  """Returns the streams of seeds.

  Args:
    pool: Images. All images of a seed but those for its test are in its stream.
      If they are fewer than the stream is long, an image comes again after all
      others have come.
    length: Number of examples of a segment.
    seeds: Seeds; the stream of a seed depends on nothing else.
    rates: Number of learning rates; the lanes of one rate are adjacent.
  """
  images = pool.split(seeds)
  assert images.validation is not None
  values = np.asarray(pool.prepare(pool.examples.inputs))
  labels = np.asarray(pool.examples.targets)
  found: list[Batch] = []
  tests: list[Batch] = []
  for number, seed in enumerate(seeds):
    sets = images.train, images.validation
    own = np.concatenate([np.asarray(part.chosen[number]) for part in sets])
    rng = np.random.Generator(np.random.PCG64([seed, _SEED]))
    indices = ordered(own, labels, length, rng)
    names = _names(rng, pool.num_classes)
    classes = np.take_along_axis(
      np.repeat(names, length, axis=0), labels[indices][:, None], axis=1
    )[:, 0]
    found.append(Batch(_lit(values[indices], *lights(length)), classes))
    chosen = np.asarray(images.test.chosen[number])
    last = (np.full(len(chosen), value) for value in SEGMENTS[-1].last)
    tests.append(Batch(_lit(values[chosen], *last), names[-1][labels[chosen]]))
  return Streams(_members(found, rates), _members(tests, rates))


def ordered(
  own: np.ndarray, labels: np.ndarray, length: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns indices of images in the order of the stream.

  Args:
    own: Indices of the images.
    labels: Labels by index.
    length: Number of examples of a segment.
    rng: Decides on the order.
  """
  count = length * len(SEGMENTS)
  epochs = [rng.permutation(own) for _ in range(-(-count // len(own)))]
  parts = np.concatenate(epochs)[:count].reshape(len(SEGMENTS), length)
  for part, segment in zip(parts, SEGMENTS, strict=True):
    if segment.kind == "order":
      first = rng.permutation(labels.max() + 1)[: (labels.max() + 1) // 2]
      late = ~np.isin(labels[part], first)
      part[:] = part[np.argsort(late, kind="stable")]
  return parts.ravel()


def lights(length: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns contrast and brightness of every example of the stream."""
  share = np.linspace(0, 1, length)[:, None]
  found = np.concatenate(
    [
      (1 - share) * np.asarray(segment.first) + share * np.asarray(segment.last)
      for segment in SEGMENTS
    ]
  )
  return found[:, 0], found[:, 1]


def _names(rng: np.random.Generator, classes: int) -> np.ndarray:
  """Returns the name of every class in every segment, `[segments, classes]`."""
  names, found = np.arange(classes), []
  for segment in SEGMENTS:
    if segment.kind == "classes":
      # Along a random cycle, so that no class keeps its name.
      cycle = rng.permutation(classes)
      names = names.copy()
      names[cycle] = names[np.roll(cycle, 1)]
    found.append(names)
  return np.array(found, np.int32)


def _lit(
  values: np.ndarray, contrast: np.ndarray, brightness: np.ndarray
) -> np.ndarray:
  """Returns images as bytes, for values from 0 to 1 and a light for each."""
  spread = (slice(None), None, None, None)
  lit = brightness.astype("f")[spread] + contrast.astype("f")[spread] * values
  return np.rint(_LEVELS * lit).astype(np.uint8)


def _members(examples: Sequence[Batch], rates: int) -> Members:
  """Returns lanes that have the examples of each seed at every rate."""
  count = examples[0].num_examples
  whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), *examples)
  chosen = np.arange(len(examples) * count, dtype=np.int32).reshape(-1, count)
  return Members(whole, jnp.asarray(np.tile(chosen, (rates, 1))))
