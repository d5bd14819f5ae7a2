"""Image-classification data as arrays: TFDS data sets, and embedded digits.

`load("auto")` returns MNIST if it is prepared or can be downloaded, otherwise
the handwritten digits that come with scikit-learn. TFDS data are read without
TensorFlow. Decoded arrays are cached (see `cache.directory`).
"""

import dataclasses
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
from typing import NamedTuple

import numpy as np
from absl import logging

from experiments.lab.data import tfds_folder
from experiments.lab.errors import RefusedError
from experiments.lab.runs import cache


class Split(NamedTuple):
  """Images and their labels.

  Attributes:
    images: uint8 `[n, height, width, channels]`.
    labels: int32 `[n]`.
  """

  images: np.ndarray
  labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set in memory.

  Attributes:
    name: What was loaded; for "auto" this is "mnist" or "digits".
    train: The training split, including the validation set.
    test: The test split.
    num_classes: Number of classes; labels are less than this.
    max_value: `images / max_value` is in [0, 1]; 255, or 16 for the digits.
  """

  name: str
  train: Split
  test: Split
  num_classes: int
  max_value: int


class UnavailableError(RefusedError):
  """The data are not on disk and could not be downloaded."""


def load(
  name: str = "auto", data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
  """Loads a data set.

  Args:
    name: "auto" (MNIST, or the digits if MNIST is unavailable), "digits"
      (scikit-learn's 1,797 images of 8x8 pixels), "mnist", or the name of any
      other TFDS data set with features `image` and `label`, such as
      "fashion_mnist" or "emnist/balanced".
    data_dir: TFDS's folder of data sets; None means `$TFDS_DATA_DIR`, or
      `~/tensorflow_datasets` if that is not set.

  Returns:
    The whole data set.

  Raises:
    RefusedError: The data set does not exist, has no images and labels, or its
      prepared folder is damaged.
    UnavailableError: The data set is not prepared, and preparing it failed.
  """
  if name == "digits":
    return _load_digits()
  if name != "auto":
    return _load_tfds(name, data_dir)
  try:
    return _load_tfds("mnist", data_dir)
  except UnavailableError as error:
    logging.warning(
      "Using scikit-learn's embedded digits (1,797 images of 8x8 pixels) "
      "INSTEAD OF MNIST: the numbers of this run say nothing about MNIST.\n%s",
      error,
    )
  return _load_digits()


def train_validation_split(
  split: Split, *, train_fraction: float, seed: int
) -> tuple[Split, Split]:
  """Shuffles a split and divides it in two.

  Args:
    split: At least two examples.
    train_fraction: Share of the first part, between 0 and 1.
    seed: Not negative. The same seed gives the same parts, with any version
      of NumPy.

  Returns:
    Two disjoint splits that contain all examples; neither is empty.

  Raises:
    RefusedError: `train_fraction` is not between 0 and 1, or leaves one part
      empty.

  >>> digits = load("digits")
  >>> parts = train_validation_split(digits.train, train_fraction=0.8, seed=0)
  >>> [len(part.labels) for part in parts]
  [1150, 287]
  """
  count = len(split.labels)
  if not 0 < train_fraction < 1:
    raise RefusedError(
      f"train_fraction must be between 0 and 1, got {train_fraction}."
    )
  cut = round(count * train_fraction)
  if not 0 < cut < count:
    raise RefusedError(
      f"train_fraction={train_fraction} of {count} examples leaves "
      f"{cut} for training and {count - cut} for validation; both need at "
      "least one."
    )
  # The raw bits of NumPy's generators are the same in all versions, but the
  # results of `permutation` are not (NEP 19).
  order = np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")
  return (
    Split(split.images[order[:cut]], split.labels[order[:cut]]),
    Split(split.images[order[cut:]], split.labels[order[cut:]]),
  )


def _load_digits() -> Dataset:
  try:
    version = importlib.metadata.version("scikit-learn")
  except importlib.metadata.PackageNotFoundError as error:
    raise UnavailableError(_install(error)) from error
  # Cached because importing scikit-learn takes seconds.
  arrays = cache.load("digits", version)
  if arrays is None:
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int32)
    # The test set is every fifth example in the order of classes: the same for
    # all runs, with the same share of each class.
    order = np.argsort(labels, kind="stable")
    test = np.sort(order[::5])
    train = np.setdiff1d(order, test)
    arrays = [images[train], labels[train], images[test], labels[test]]
    cache.save("digits", version, arrays)
  return Dataset(
    name="digits",
    train=Split(*arrays[:2]),
    test=Split(*arrays[2:]),
    num_classes=10,
    max_value=16,
  )


def _load_tfds(text: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
  name = tfds_folder.Name.parse(text)
  data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
  if "://" in os.fspath(data_dir or ""):
    raise RefusedError(
      f"Data are read from local folders, got {data_dir}. Copy the prepared "
      "dataset to a local folder, and set data_dir or TFDS_DATA_DIR to it."
    )
  root = pathlib.Path(data_dir or "~/tensorflow_datasets").expanduser()
  folder = tfds_folder.find(name, root) or _prepare(text, root)
  fingerprint = tfds_folder.fingerprint(folder)
  place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
  key = f"{name.dataset}-{folder.name}-{place}"
  arrays = cache.load(key, fingerprint)
  if arrays is None:
    try:
      arrays = tfds_folder.decode(folder)
    except ImportError as error:
      raise UnavailableError(_install(error)) from error
    cache.save(key, fingerprint, arrays)
  num_classes, *rest = arrays
  return Dataset(
    name="/".join(filter(None, name[:2])),
    train=Split(*rest[:2]),
    test=Split(*rest[2:]),
    num_classes=int(num_classes),
    max_value=255,
  )


def _prepare(name: str, data_dir: pathlib.Path) -> pathlib.Path:
  """Prepares a data set and returns its folder."""
  try:
    import tensorflow_datasets as tfds

    from experiments.lab.data import download, idx_builder
  except ImportError as error:
    raise UnavailableError(_install(error)) from error

  known = tfds.list_builders(with_community_datasets=False)
  dataset = tfds_folder.Name.parse(name).dataset
  if dataset not in known:
    near = difflib.get_close_matches(dataset, ["auto", "digits", *known])
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise RefusedError(
      f"Unknown dataset {name!r}.{hint} Valid are 'auto', 'digits', "
      f"{', '.join(map(repr, idx_builder.NAMES))}, and every TFDS dataset "
      "with features `image` and `label`, such as 'cifar10'."
    )
  start = (
    f"The dataset {name!r} is not prepared in {tfds_folder.described(data_dir)}"
    ", and "
  )
  tensorflow = (
    f"{start}TFDS needs TensorFlow to prepare it. Run `pip install tensorflow` "
    "and the same command again."
  )
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except (AssertionError, ValueError) as error:
    configs = ", ".join(tfds.builder_cls(dataset).builder_configs) or "none"
    raise RefusedError(
      f"TFDS cannot load {name!r}: {error} (configs: {configs})."
    ) from error
  except ImportError as error:
    raise UnavailableError(tensorflow) from error
  folder = pathlib.Path(builder.data_dir)
  tfds_folder.check_features(builder.info.features, name)
  # `name` may omit the default config, under which it is prepared.
  if (folder / "dataset_info.json").exists():
    return folder

  elsewhere = (
    f"\nWhat can help: set TFDS_DATA_DIR (or data_dir) to a folder where it is "
    f"prepared, or copy {folder} from a machine where it is."
  )
  try:
    if dataset in idx_builder.NAMES:
      elsewhere += (
        "\nOr download the files by other means to "
        f"{data_dir / 'downloads' / dataset}; intact files are used."
      )
      # Fails before any download if a package is missing.
      for package in ("array_record.python", "PIL"):
        importlib.import_module(package)
      return idx_builder.prepare(dataset, data_dir)
    if importlib.util.find_spec("tensorflow") is None:
      raise UnavailableError(tensorflow + elsewhere)
    download.check_reachable(builder.url_infos or {})
    builder.download_and_prepare(file_format="array_record")
    return folder
  except download.DownloadError as error:
    raise UnavailableError(
      f"{start}cannot be downloaded. {error}{elsewhere}"
    ) from error
  except ImportError as error:
    raise UnavailableError(_install(error)) from error
  except OSError as error:
    raise UnavailableError(
      f"{start}cannot be written there: {error}.{elsewhere}"
    ) from error


def _install(error: ImportError) -> str:
  return (
    f"Loading this dataset needs a package that is not installed ({error}). "
    'Run `pip install -e ".[experiments]"` in the folder of normjax.'
  )
