"""Images as arrays, ready for training."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.data import images
from experiments.lab.data.batch import (
  Batch,
  Examples,
  Members,
  Prepare,
  parts,
)
from experiments.lab.data.images import Split
from experiments.lab.errors import RefusedError

# The split is part of the setting, like the data: it does not follow --seed.
_SPLIT_SEED = 0
# With a seed it gives the split of that seed, see `Pool.split`.
_POOL_SEED = 1
# Share of a pool without its test images that is for training.
_TRAIN_FRACTION = 0.8


# Batch: examples that all lanes share; Members: those of each lane.
_Set = TypeVar("_Set", bound=Examples)


class Images(NamedTuple, Generic[_Set]):
  """Image data, as bytes.

  Attributes:
    name: Name of the data set.
    train, test: Inputs and labels, a `Batch` or `Members`.
    num_classes: Number of classes; labels are less than this.
    prepare: Converts bytes to the model's inputs, float32 from 0 to 1.
    validation: Inputs and labels; None without a validation set.
  """

  name: str
  train: _Set
  test: _Set
  num_classes: int
  prepare: Prepare
  validation: _Set | None = None

  @property
  def sample(self) -> Any:
    """One blank image, as an input of the model."""
    return _blank(parts(self.train)[0], self.prepare)

  def prepared(self, count: int) -> Batch:
    """Returns the first training images, of the first lane, as inputs."""
    first = self.train.first(count)
    if isinstance(first, Members):
      first = first.lane(0)
    return _prepared(first, self.prepare)

  def __str__(self) -> str:
    told = [f"{self.name}: {self.train.num_examples:,} images for training"]
    if self.validation is not None:
      told.append(f"{self.validation.num_examples:,} for validation")
    return ", ".join([*told, f"{self.test.num_examples:,} for the test"])


class Sizes(NamedTuple):
  """Number of examples that a seed draws for each of its sets."""

  train: int
  validation: int
  test: int


class Pool(NamedTuple):
  """Image data, as bytes, from which every seed draws its own sets.

  Attributes:
    name: Name of the data set.
    examples: Its training images and, last, its test images, with labels.
    sizes: Number of examples of the sets of a seed.
    num_classes: Number of classes; labels are less than this.
    prepare: Converts bytes to the model's inputs, float32 from 0 to 1.
  """

  name: str
  examples: Batch
  sizes: Sizes
  num_classes: int
  prepare: Prepare

  @property
  def sample(self) -> Any:
    """One blank image, as an input of the model."""
    return _blank(self.examples, self.prepare)

  def prepared(self, count: int) -> Batch:
    """Returns the first images of the pool as inputs of the model."""
    return _prepared(self.examples.first(count), self.prepare)

  def split(
    self, seeds: Sequence[int], rates: int = 1, noise: float = 0.0
  ) -> Images[Members]:
    """Draws disjoint sets for training, validation and test for every seed.

    A seed always gets the same sets, whatever the other arguments. With smaller
    sizes for training it gets the first of the same examples.

    Args:
      seeds: Seeds, not negative.
      rates: Number of learning rates. The lanes of one rate are adjacent, seeds
        in order, as in `Engine.init`.
      noise: Share of the training targets of each seed, from 0 to 1, to replace
        by random classes.

    Returns:
      Images whose sets are `Members` with `rates * len(seeds)` lanes.

    Raises:
      RefusedError: The sizes exceed the pool, a set would be empty, or `noise`
        is not a share.
    """
    if min(self.sizes) < 1 or sum(self.sizes) > self.examples.num_examples:
      raise RefusedError(
        f"{self.name} has {self.examples.num_examples:,} images, from which"
        f" {self.sizes.train:,} cannot be drawn for training,"
        f" {self.sizes.validation:,} for validation and {self.sizes.test:,} for"
        " the test. Each set needs at least one image; choose sizes whose sum"
        " is not more than all images."
      )
    if not 0 <= noise <= 1:
      raise RefusedError(f"noise must be a share from 0 to 1, got {noise}.")
    drawn = [self._draw(seed, noise) for seed in seeds] * rates
    train, validation, test = (
      Members(self.examples, *own)
      for own in jax.tree.map(lambda *lanes: jnp.stack(lanes), *drawn)
    )
    return Images(
      self.name, train, test, self.num_classes, self.prepare, validation
    )

  def _draw(
    self, seed: int, noise: float
  ) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Returns indices and targets of the three sets of a seed."""
    # As in `images.train_validation_split`, only the raw bits, which are the
    # same in all versions of NumPy.
    bits = np.random.PCG64([seed, _POOL_SEED])
    order = _order(bits, self.examples.num_examples).astype(np.int32)
    # Training comes last, so that its size does not change the others.
    sizes = self.sizes.test, self.sizes.validation, self.sizes.train
    test, validation, train, _ = np.split(order, np.cumsum(sizes))
    targets = None
    if noise:
      targets = np.asarray(self.examples.targets)[train]
      replaced = _order(bits, len(train))[: round(noise * len(train))]
      targets[replaced] = bits.random_raw(len(replaced)) % self.num_classes
    return [(train, targets), (validation, None), (test, None)]

  def __str__(self) -> str:
    return (
      f"{self.name}: every seed draws {self.sizes.train:,} images for training,"
      f" {self.sizes.validation:,} for validation and {self.sizes.test:,} for"
      f" the test from {self.examples.num_examples:,}"
    )


def load(
  dataset: str,
  data_dir: str | None = None,
  *,
  train: int | None = None,
  test: int | None = None,
  train_fraction: float | None = None,
  halved: bool = False,
) -> Images[Batch]:
  """Loads images.

  Args:
    dataset, data_dir: As in `images.load`.
    train, test: Maximum number of images, always the same ones; None for all.
    train_fraction: Share of the training set to train on; the rest is the
      validation set. None means no validation set.
    halved: Whether to average 2x2 pixels of images larger than 16x16.

  Raises:
    RefusedError: There is no such data set, it is not available, or a part of
      it would be empty.
  """
  loaded = images.load(dataset, data_dir)
  whole, validation = _some(loaded.train, train), None
  if train_fraction is not None:
    whole, rest = images.train_validation_split(
      whole, train_fraction=train_fraction, seed=_SPLIT_SEED
    )
    validation = _batch(rest, halved)
  return Images(
    name=loaded.name,
    train=_batch(whole, halved),
    test=_batch(_some(loaded.test, test), halved),
    num_classes=loaded.num_classes,
    prepare=_prepare(loaded),
    validation=validation,
  )


def load_pool(
  dataset: str,
  data_dir: str | None = None,
  *,
  train: int | None = None,
  validation: int | None = None,
  test: int | None = None,
  halved: bool = False,
) -> Pool:
  """Loads images from which every seed draws its own sets.

  Args:
    dataset, data_dir: As in `images.load`.
    train, validation, test: Maximum numbers of images that a seed draws. By
      default, it draws as many for the test as the test set of the data set
      has, and splits the rest: 80% for training, 20% for validation.
    halved: Whether to average 2x2 pixels of images larger than 16x16.

  Raises:
    RefusedError: There is no such data set, or it is not available.

  >>> print(load_pool("digits"))
  digits: every seed draws 1,150 images for training, 287 for validation and \
360 for the test from 1,797
  """
  loaded = images.load(dataset, data_dir)
  rest = len(loaded.train.labels)
  most = round(_TRAIN_FRACTION * rest)
  every = (most, rest - most, len(loaded.test.labels))
  return Pool(
    name=loaded.name,
    examples=jax.tree.map(
      lambda *arrays: np.concatenate(arrays),
      _batch(loaded.train, halved),
      _batch(loaded.test, halved),
    ),
    sizes=Sizes(
      *(
        count if asked is None else min(asked, count)
        for asked, count in zip((train, validation, test), every, strict=True)
      )
    ),
    num_classes=loaded.num_classes,
    prepare=_prepare(loaded),
  )


def shapes(shape: tuple[int, ...], count: int) -> Images[Batch]:
  """Returns images without values, for `Engine.check`.

  Args:
    shape: Shape of an image.
    count: Number of images.
  """
  inputs = jax.ShapeDtypeStruct((count, *shape), jnp.uint8)
  batch = Batch(inputs, jax.ShapeDtypeStruct((count,), jnp.int32))  # type: ignore[arg-type]
  return Images(
    "shapes", batch, batch, 10, lambda x: x.astype(jnp.float32) / 255
  )


def _prepare(loaded: images.Dataset) -> Prepare:
  return lambda x: x.astype(jnp.float32) / loaded.max_value


def _blank(examples: Batch, prepare: Prepare) -> Any:
  shape, dtype = examples.inputs.shape[1:], examples.inputs.dtype
  return prepare(np.zeros((1, *shape), dtype))


def _prepared(examples: Batch, prepare: Prepare) -> Batch:
  return examples._replace(inputs=prepare(examples.inputs))


def _order(bits: np.random.PCG64, count: int) -> np.ndarray:
  """Returns a random order of `count` numbers."""
  return np.argsort(bits.random_raw(count), kind="stable")


def _some(split: Split, most: int | None) -> Split:
  count = len(split.labels)
  if most is None or most >= count:
    return split
  chosen, _ = images.train_validation_split(
    split, train_fraction=most / count, seed=_SPLIT_SEED
  )
  return chosen


def _batch(split: Split, halved: bool) -> Batch:
  pixels = split.images
  if halved and pixels.shape[1] > 16:
    n, height, width, channels = pixels.shape
    blocks = pixels.reshape(n, height // 2, 2, width // 2, 2, channels)
    pixels = np.round(blocks.mean(axis=(2, 4), dtype="f")).astype(np.uint8)
  return Batch(pixels, split.labels)
