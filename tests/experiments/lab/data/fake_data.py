"""Small data sets in the formats of the real ones, written independently."""

import gzip
import io
import json
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

_REPOSITORY = pathlib.Path(__file__).parents[4]


def real_data_dir() -> pathlib.Path | None:
  """The folder where the full MNIST is prepared, or None."""
  shared = _REPOSITORY.parent / "shared" / "data" / "tfds"
  folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or shared)
  return folder if (folder / "mnist" / "3.0.1").is_dir() else None


def run(code: str, **variables: str) -> subprocess.Popen[str]:
  """Starts Python in a process of its own, with warnings as errors."""
  return subprocess.Popen(
    [sys.executable, "-W", "error", "-c", code],
    cwd=_REPOSITORY,
    env=os.environ | variables,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def images_and_labels(count: int, seed: int = 0, shape=(28, 28)):
  rng = np.random.default_rng(seed)
  return (
    rng.integers(0, 256, (count, *shape), np.uint8),
    rng.permutation(np.arange(count) % 10).astype(np.uint8),
  )


def idx(array: np.ndarray) -> bytes:
  """A gzipped IDX file of bytes."""
  header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
  return gzip.compress(header + array.tobytes(), mtime=0)


def idx_files(train: int = 50, test: int = 20, seed: int = 0):
  """The four files of a small MNIST, by name."""
  files = {}
  for prefix, count in (("train", train), ("t10k", test)):
    images, labels = images_and_labels(count, seed + count)
    files[f"{prefix}-images-idx3-ubyte.gz"] = idx(images)
    files[f"{prefix}-labels-idx1-ubyte.gz"] = idx(labels)
  return files


def put_downloads(data_dir: pathlib.Path, name: str, files: dict[str, bytes]):
  """Puts files where preparing looks for what is already downloaded."""
  folder = data_dir / "downloads" / name
  folder.mkdir(parents=True)
  for filename, content in files.items():
    (folder / filename).write_bytes(content)


def prepare(
  data_dir: pathlib.Path, features, splits, name="fake", version="1.2.0"
):
  """Writes any TFDS data set in the array_record format."""

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version(version)

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      del dl_manager
      return {key: enumerate(value) for key, value in splits.items()}

    def _generate_examples(self):
      raise NotImplementedError

  Builder.name = name
  builder = Builder(data_dir=data_dir)
  builder.download_and_prepare(file_format="array_record")
  return pathlib.Path(builder.data_dir)


def encoded(image: np.ndarray, image_format: str = "PNG") -> bytes:
  """The bytes of a file with the image; channels are last, or absent."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, image_format)
  return file.getvalue()


def to_tfrecord(folder: pathlib.Path) -> None:
  """Rewrites a prepared data set as TensorFlow would have written it."""
  builder = tfds.builder_from_directory(folder)
  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  for split in builder.info.splits:
    source = builder.as_data_source(split, deserialize_method=raw)
    with (folder / f"{builder.name}-{split}.tfrecord-00000-of-00001").open(
      "wb"
    ) as file:
      for record in source.__getitems__(list(range(len(source)))):
        file.write(struct.pack("<QI", len(record), 0) + record + b"\0" * 4)
  for path in folder.glob("*.array_record-*"):
    path.unlink()
  path = folder / "dataset_info.json"
  info = json.loads(path.read_text())
  info["fileFormat"] = "tfrecord"
  path.write_text(json.dumps(info))
