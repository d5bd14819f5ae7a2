"""What is measured of the samples of a generator while it is trained."""

import functools
from typing import Any

import jax
import numpy as np

from experiments.gan import frechet
from experiments.gan.arms import unframed
from experiments.gan.config import Config
from experiments.gan.nets import GAN, Generator
from experiments.gan.yardstick import Yardstick
from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Members
from normjax.linen import reestimate

PyTree = Any
SHOWN = 9  # Samples that are kept for the figure.
_BATCHES = 50  # Of noise, to re-estimate statistics.
_NOISE_SEED = 10_000_000  # Added to a seed, for noise that training lacks.
_TINY = 1e-9  # Least variance of samples to divide by.


class Samples:
  """The samples of one lane, of the same noise after more and more steps."""

  def __init__(
    self,
    gan: GAN,
    config: Config,
    images: Images[Members],
    yardstick: Yardstick,
    seed: int,
  ):
    """Draws the noise, and takes the features of the real images.

    Args:
      gan: The networks.
      config: The settings.
      images: The images of one seed.
      yardstick: The classifier of the seed.
      seed: Determines the noise.
    """
    self._generator = gan.generator
    self._batch_size = config.batch_size
    self._yardstick = yardstick
    self._side = images.sample.shape[1]
    self._key, key = jax.random.split(jax.random.key(seed + _NOISE_SEED))
    self._noise = jax.random.normal(key, (config.samples, config.noise))
    assert images.validation is not None
    self._test, self._validation = (
      frechet.moments(
        yardstick.features(images.prepare(part.lane(0).inputs))[0]
      )
      for part in (images.test, images.validation)
    )
    self._found: list[dict[str, Any]] = []
    self._last: PyTree = None
    self._images: Any = None

  def measure(self, variables: PyTree) -> None:
    """Measures samples; the first call, before training, is only a start.

    Args:
      variables: Variables of the networks.
    """
    last = self._images
    self._last = {
      name: tree["generator"]
      for name, tree in variables.items()
      if "generator" in tree
    }
    self._images = self._sample(self._last)
    if last is None:
      return
    features, classes = self._yardstick.features(self._images)
    shares = self._yardstick.shares(classes)
    seen = frechet.moments(features)
    self._found.append(
      {
        "distances": frechet.distance(self._test, seen),
        "watched": frechet.distance(self._validation, seen),
        "entropies": frechet.entropy(shares),
        "hits": frechet.hit(shares),
        "moved": moved(last, self._images),
      }
    )

  def found(self) -> dict[str, np.ndarray]:
    """Returns what was measured, with other statistics at the end.

    Returns:
      For each measurement, of running statistics: "distances" to the test
      images and "watched", to the validation images, "entropies" and "hits" of
      classes, "moved". One number: "validation", the mean of the logarithm of
      "watched" over the last quarter; "reestimated" and "batch", distances to
      the test images with re-estimated statistics and with those of the batch
      of samples. And "samples", bytes `[SHOWN, side, side, channels]`.
    """
    found = {
      name: np.array([entry[name] for entry in self._found])
      for name in self._found[0]
    }
    again = self._sample(
      reestimated(
        self._generator,
        self._last,
        self._key,
        self._noise.shape[1],
        self._batch_size,
      )
    )
    of_batch = self._sample(self._last, train=True)
    return {
      **found,
      "validation": np.log(late(found["watched"])).mean(),
      "reestimated": self._distance(again),
      "batch": self._distance(of_batch),
      "samples": np.round(255 * self._images[:SHOWN]).astype(np.uint8),
    }

  def _distance(self, images: Any) -> np.ndarray:
    features, _ = self._yardstick.features(images)
    return np.array(frechet.distance(self._test, frechet.moments(features)))

  def _sample(self, variables: PyTree, train: bool = False) -> np.ndarray:
    images = _sampled(self._generator, variables, self._noise, train)
    return np.asarray(unframed(images, self._side))


def late(values: np.ndarray, part: int = 4) -> np.ndarray:
  """Returns the last quarter of `[..., checkpoints]`, or another part."""
  return values[..., -(values.shape[-1] // part) :]


def moved(before: np.ndarray, after: np.ndarray) -> float:
  """Returns how far samples of the same noise have moved.

  Args:
    before, after: Images `[n, ...]`.

  Returns:
    Their mean squared difference over that of two independent samples of the
    later ones, which is twice their variance: 0 for the same images, 1 for
    unrelated ones. Above 1, all samples moved together.

  >>> images = np.array([[0.0], [1.0]])
  >>> moved(images, images), moved(images, images + 3)
  (0.0, 18.0)
  """
  change = np.square(after - before).mean()
  return float(change / max(_TINY, 2 * after.var(axis=0).mean()))


def reestimated(
  generator: Generator, variables: PyTree, key: jax.Array, noise: int, size: int
) -> PyTree:
  """Returns the generator's variables with the statistics of new noise.

  Args:
    generator: The generator.
    variables: Its variables.
    key: Key of the noise.
    noise: Numbers from which an image is made.
    size: Batch size, that of training.
  """
  batches = jax.random.normal(key, (_BATCHES, size, noise))
  return reestimate(generator, variables, [*batches], train=False)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _sampled(
  generator: Generator, variables: PyTree, noise: jax.Array, train: bool
) -> jax.Array:
  images, _ = generator.apply(
    variables, noise, train=train, mutable=["batch_stats"]
  )
  return images
