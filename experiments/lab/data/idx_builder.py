"""Prepares MNIST and similar data sets for TFDS, without TensorFlow.

TFDS reads data in the array_record format without TensorFlow, but its own
builders of these data sets need TensorFlow to prepare them. The builders here
write the same folder, with TFDS's name, version, features and format, from
files with TFDS's addresses and checksums. So TFDS can read it too.

The files are in the IDX format of http://yann.lecun.com/exdb/mnist, gzipped:
two zero bytes, a type, the number of axes, big-endian lengths, elements.
"""

import gzip
import io
import pathlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.lab.data import download

NAMES = ("mnist", "fashion_mnist", "kmnist")

_FILENAMES = {
  "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
  "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def tfds_sources(name: str) -> dict[str, download.Source]:
  """Returns TFDS's sources of a data set's files, by file name.

  Args:
    name: One of `NAMES`.
  """
  import tensorflow_datasets as tfds

  return {
    info.filename: download.Source(url, int(info.size), info.checksum)
    for url, info in tfds.builder_cls(name).url_infos.items()
  }


def prepare(
  name: str,
  data_dir: pathlib.Path,
  sources: Mapping[str, download.Source] | None = None,
) -> pathlib.Path:
  """Downloads a data set and writes it as TFDS does.

  Args:
    name: One of `NAMES`.
    data_dir: TFDS's folder of data sets. Downloads are kept in its
      `downloads/<name>`; files found there are used if they are intact.
    sources: The files, by file name; None means TFDS's own.

  Returns:
    The folder of the prepared data set.

  Raises:
    download.DownloadError: A file could not be downloaded.
    ValueError: A file has another format.
    OSError: `data_dir` cannot be written.
  """
  sources = tfds_sources(name) if sources is None else sources
  folder = data_dir / "downloads" / name
  names = [filename for pair in _FILENAMES.values() for filename in pair]
  download.fetch([sources[filename] for filename in names], folder)
  splits = {
    split: (
      read_idx(folder / images, ndim=3),
      read_idx(folder / labels, ndim=1),
    )
    for split, (images, labels) in _FILENAMES.items()
  }
  for split, (images, labels) in splits.items():
    if len(images) != len(labels):
      raise ValueError(
        f"{folder} holds {len(images)} images but {len(labels)} labels for "
        f"{split}. Delete the folder and run again."
      )
  builder = _builder(name, data_dir, splits)
  try:
    builder.download_and_prepare(file_format="array_record")
  except OSError:
    # Another process may have been faster; its folder is the same.
    if not (pathlib.Path(builder.data_dir) / "dataset_info.json").exists():
      raise
  return pathlib.Path(builder.data_dir)


def read_idx(path: pathlib.Path, *, ndim: int) -> np.ndarray:
  """Returns the array in a gzipped IDX file of unsigned bytes.

  Args:
    path: The file.
    ndim: Number of axes that the array must have.

  Raises:
    ValueError: The file has another format.
  """
  content = gzip.decompress(path.read_bytes())
  start = 4 + 4 * ndim
  magic = bytes((0, 0, 8, ndim))  # 8 stands for unsigned bytes.
  if len(content) < start or content[:4] != magic:
    raise ValueError(
      f"{path} should be an IDX file of bytes with {ndim} axes, but begins "
      f"with {content[:4]!r}. Delete it and run again."
    )
  shape = struct.unpack(f">{ndim}I", content[4:start])
  if len(content) - start != np.prod(shape, dtype=np.uint64):
    raise ValueError(
      f"{path} should hold {shape} bytes, but holds {len(content) - start}. "
      "Delete it and run again."
    )
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _builder(
  name: str,
  data_dir: pathlib.Path,
  splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Any:
  """Returns TFDS's builder, changed to take its examples from `splits`."""
  import tensorflow_datasets as tfds

  tfds_builder: Any = tfds.builder_cls(name)

  class Builder(tfds_builder, skip_registration=True):  # type: ignore[call-arg]
    # The folder records the module, and TFDS imports it to read the folder.
    __module__ = tfds_builder.__module__

    def _split_generators(self, dl_manager: object) -> Mapping[str, Iterator]:
      del dl_manager  # Without a network, it retries for minutes.
      return {
        split: self._generate_examples(*arrays)
        for split, arrays in splits.items()
      }

    def _generate_examples(
      self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, object]]]:
      from PIL import Image

      for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        png.seek(0)
        # TFDS would need TensorFlow to encode pixels.
        yield index, {"image": png, "label": int(label)}

  Builder.name = name
  return Builder(data_dir=data_dir)
