"""Reads images and texts that TFDS or idx_builder prepared."""

import hashlib
import io
import pathlib
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from experiments.lab.errors import RefusedError

_BATCH = 1024  # Records read at once; one by one is 30 times slower.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names for channels.


class Name(NamedTuple):
  """The parts of a TFDS name, `dataset[/config][:version]`."""

  dataset: str
  config: str
  version: str

  @classmethod
  def parse(cls, text: str) -> "Name":
    """Returns the parts; missing ones are empty.

    Raises:
      RefusedError: `text` is not such a name.
    """
    pattern = r"([a-z]\w*)(?:/([\w.\-]+))?(?::(\d+\.\d+\.\d+))?"
    match = re.fullmatch(pattern, text, re.ASCII)
    if match is None:
      raise RefusedError(
        f"{text!r} is not the name of a dataset. Expected dataset, "
        "dataset/config or dataset/config:1.2.3, such as 'mnist'."
      )
    return cls(*match.groups(default=""))


def find(name: Name, data_dir: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder of a prepared data set, in its newest version.

  Args:
    name: Name of the data set.
    data_dir: TFDS's folder of data sets.

  Returns:
    `data_dir/dataset[/config]/version`, or None if it does not exist.
  """
  found = (data_dir / name.dataset / name.config).glob("*/dataset_info.json")
  versions = [
    path.parent
    for path in found
    if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    and name.version in ("", path.parent.name)
  ]
  return max(
    versions, key=lambda path: [*map(int, path.name.split("."))], default=None
  )


def described(data_dir: pathlib.Path) -> str:
  """Returns the folder for a message, which also says if there is none."""
  if data_dir.is_dir():
    return str(data_dir)
  return f"{data_dir} (there is no such folder)"


def fingerprint(folder: pathlib.Path) -> str:
  """Returns a text that changes when the files in the folder change."""
  digest = hashlib.sha256((folder / "dataset_info.json").read_bytes())
  for path in sorted(folder.iterdir()):
    stat = path.stat()
    digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
  return digest.hexdigest()


def check_features(features: Any, name: str) -> None:
  """Raises RefusedError unless these are images of one size and one label each.

  Args:
    features: `DatasetInfo.features`.
    name: Name of the data set, for the message.
  """
  import tensorflow_datasets as tfds

  parts: dict[str, Any] = {}
  if isinstance(features, tfds.features.FeaturesDict):
    parts.update(features.items())
  image, label = parts.get("image"), parts.get("label")
  if not (
    isinstance(image, tfds.features.Image)
    and isinstance(label, tfds.features.ClassLabel)
  ):
    raise RefusedError(
      f"{name} does not serve image classification: it needs a feature "
      f"`image` (Image) and a feature `label` (ClassLabel), but has {features}."
    )
  if (
    None in image.shape
    or image.shape[-1] not in _MODES
    or image.np_dtype != np.uint8
  ):
    raise RefusedError(
      f"{name} has images of shape {image.shape} and type "
      f"{np.dtype(image.np_dtype)}; expected one size for all, {[*_MODES]} "
      "channels, and uint8."
    )


def decode(folder: pathlib.Path) -> list[np.ndarray]:
  """Returns a prepared data set as arrays.

  Args:
    folder: What `find` returned.

  Returns:
    The number of classes; uint8 `[n, height, width, channels]` images and
    int32 `[n]` labels of the training split; the same for the test split.

  Raises:
    ImportError: A package that this needs is not installed.
    RefusedError: The data set has no images with labels, lacks one of the two
      splits, or is damaged.
  """
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(folder)
  info = builder.info
  check_features(info.features, info.name)
  missing = {"train", "test"} - set(info.splits)
  if missing:
    raise RefusedError(
      f"{info.name} has no split {', '.join(sorted(missing))}, only "
      f"{', '.join(info.splits)}."
    )
  arrays = [np.array(info.features["label"].num_classes)]
  for split in ("train", "test"):
    try:
      arrays.extend(_decode_split(builder, split))
    except ImportError:
      raise
    except Exception as error:  # Readers and decoders raise all kinds.
      raise RefusedError(
        f"The prepared dataset in {folder} is damaged: {error!r}. Delete the "
        "folder and run again."
      ) from error
  return arrays


def texts(folder: pathlib.Path, splits: Sequence[str]) -> list[bytes]:
  """Returns the texts of a prepared data set.

  Args:
    folder: What `find` returned.
    splits: Names of the splits.

  Returns:
    For each split, the feature `text` of all examples, concatenated.

  Raises:
    ImportError: A package that this needs is not installed.
    RefusedError: The data set has no such split or no text, or is damaged.
  """
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(folder)
  try:
    return [
      b"".join(example["text"] for example in _examples(builder, split, {}))
      for split in splits
    ]
  except ImportError:
    raise
  except Exception as error:  # As in `decode`.
    raise RefusedError(
      f"The prepared dataset in {folder} is damaged, or holds no text:"
      f" {error!r}. Delete the folder and run again."
    ) from error


def _decode_split(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
  import tensorflow_datasets as tfds
  from PIL import Image

  info = builder.info
  count = info.splits[split].num_examples
  shape = info.features["image"].shape
  images = np.empty((count, *shape), np.uint8)
  labels = np.empty(count, np.int32)
  # Decoded here, because TFDS would need TensorFlow or OpenCV.
  encoded = _examples(builder, split, {"image": tfds.decode.SkipDecoding()})
  examples = tqdm.tqdm(
    encoded,
    desc=f"Decoding {info.name}, {split}",
    total=count,
    unit="image",
    leave=False,
    disable=None,  # None shows it on terminals only.
  )
  index = -1
  for index, example in enumerate(examples):
    with Image.open(io.BytesIO(example["image"])) as image:
      pixels = np.asarray(image.convert(_MODES[shape[-1]]))
    images[index] = pixels.reshape(shape)
    labels[index] = example["label"]
  if index + 1 != count:
    raise RefusedError(f"it holds {index + 1} of {count} examples of {split}")
  classes = info.features["label"].num_classes
  if count and not 0 <= labels.min() <= labels.max() < classes:
    raise RefusedError(
      f"its labels go from {labels.min()} to {labels.max()}, with {classes} "
      "classes"
    )
  return images, labels


def _examples(
  builder: Any, split: str, decoders: dict[str, Any]
) -> Iterator[dict[str, Any]]:
  """Yields examples; `decoders` replace the decoding of some features."""
  import tensorflow_datasets as tfds

  if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
    # TFDS's default format, which TFDS reads only through TensorFlow.
    for path in builder.info.splits[split].filepaths:
      for record in _tfrecords(pathlib.Path(path)):
        yield builder.info.features.deserialize_example_np(
          record, decoders=decoders
        )
    return
  source: Sequence[Any] = builder.as_data_source(split, decoders=decoders)
  for start in range(0, len(source), _BATCH):
    batch = range(start, min(start + _BATCH, len(source)))
    yield from source.__getitems__(list(batch))  # type: ignore[attr-defined]


def _tfrecords(path: pathlib.Path) -> Iterator[bytes]:
  """Yields the records of a TFRecord file.

  Each record has a length (8 bytes), the checksum of the length (4 bytes), the
  data, and their checksum (4 bytes):
  https://www.tensorflow.org/tutorials/load_data/tfrecord
  """
  size = path.stat().st_size
  with path.open("rb") as file:
    while file.tell() < size:
      (length,) = struct.unpack("<Q4x", file.read(12))
      if file.tell() + length + 4 > size:
        raise RefusedError(f"{path} is cut off")
      yield file.read(length)
      file.seek(4, 1)
