"""Images as arrays, ready for training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.data import images
from experiments.lab.data.batch import Batch, Prepare
from experiments.lab.data.images import Split

# The split is part of the setting, like the data: it does not follow --seed.
_SPLIT_SEED = 0


class Images(NamedTuple):
  """Image data, as bytes.

  Attributes:
    name: Name of the data set.
    train, test: Inputs and labels.
    num_classes: Number of classes; labels are less than this.
    prepare: Converts bytes to the model's inputs, float32 from 0 to 1.
    validation: Inputs and labels; None without a validation set.
  """

  name: str
  train: Batch
  test: Batch
  num_classes: int
  prepare: Prepare
  validation: Batch | None = None

  @property
  def sample(self) -> Any:
    """One blank image, as an input of the model."""
    shape, dtype = self.train.inputs.shape[1:], self.train.inputs.dtype
    return self.prepare(np.zeros((1, *shape), dtype))

  def prepared(self, count: int) -> Batch:
    """Returns the first training images as inputs of the model."""
    batch = self.train.first(count)
    return batch._replace(inputs=self.prepare(batch.inputs))

  def __str__(self) -> str:
    parts = [f"{self.name}: {len(self.train.targets):,} images for training"]
    if self.validation is not None:
      parts.append(f"{len(self.validation.targets):,} for validation")
    return ", ".join([*parts, f"{len(self.test.targets):,} for the test"])


def load(
  dataset: str,
  data_dir: str | None = None,
  *,
  train: int | None = None,
  test: int | None = None,
  train_fraction: float | None = None,
  halved: bool = False,
) -> Images:
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
    prepare=lambda x: x.astype(jnp.float32) / loaded.max_value,
    validation=validation,
  )


def shapes(shape: tuple[int, ...], count: int) -> Images:
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
