"""Image-classification data as arrays: TFDS data sets, and embedded digits.

`load("auto")` is MNIST where it is prepared or can be downloaded, else the
handwritten digits that come with scikit-learn. TFDS data are read without
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

from experiments.lab import cache, tfds_folder


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
    name: What was loaded: "mnist" or "digits" when asked for "auto".
    train: The training split, validation included.
    test: The test split.
    num_classes: Labels are less than this.
    max_value: `images / max_value` is in [0, 1]; 255, or 16 for the digits.
  """

  name: str
  train: Split
  test: Split
  num_classes: int
  max_value: int


class UnavailableError(RuntimeError):
  """The data are neither here nor to be had; the message says what to do."""


def load(
  name: str = "auto", data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
  """Loads a data set.

  Args:
    name: "auto" (MNIST, or the digits where MNIST is not to be had), "digits"
      (scikit-learn's 1,797 images of 8x8 pixels), "mnist", or any other name
      that TFDS knows, such as "fashion_mnist" or "emnist/balanced", of a data
      set with features `image` and `label`.
    data_dir: TFDS's folder of data sets; None means `$TFDS_DATA_DIR`, else
      `~/tensorflow_datasets`.

  Returns:
    The data set, whole.

  Raises:
    ValueError: There is no such data set, it has no images and labels, or its
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
      "INSTEAD OF MNIST: the numbers of this run say nothing about MNIST. %s",
      error,
    )
  return _load_digits()


def train_validation_split(
  split: Split, *, train_fraction: float, seed: int
) -> tuple[Split, Split]:
  """Shuffles a split and cuts it in two.

  Args:
    split: At least two examples.
    train_fraction: Share of the first part, between 0 and 1.
    seed: Not negative. The same seed gives the same parts, with any version
      of NumPy.

  Returns:
    Two splits without common examples, which together are the whole; neither
    is empty.

  Raises:
    ValueError: `train_fraction` is not between 0 and 1, or leaves one part
      empty.

  >>> digits = load("digits")
  >>> parts = train_validation_split(digits.train, train_fraction=0.8, seed=0)
  >>> [len(part.labels) for part in parts]
  [1150, 287]
  """
  count = len(split.labels)
  if not 0 < train_fraction < 1:
    raise ValueError(
      f"train_fraction must be between 0 and 1, got {train_fraction}."
    )
  cut = round(count * train_fraction)
  if not 0 < cut < count:
    raise ValueError(
      f"train_fraction={train_fraction} of {count} examples leaves "
      f"{cut} for training and {count - cut} for validation; both need some."
    )
  # NumPy keeps the raw bits of its generators the same in all versions, but
  # not what `permutation` makes of them (NEP 19).
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
    # Every fifth example in the order of classes: the same for all runs, with
    # the same share of each class.
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
    raise ValueError(
      f"Data are read from local folders, got {data_dir}. Copy the prepared "
      "dataset to a local folder, and give that as data_dir or TFDS_DATA_DIR."
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

    from experiments.lab import download, idx_builder
  except ImportError as error:
    raise UnavailableError(_install(error)) from error

  known = tfds.list_builders(with_community_datasets=False)
  dataset = tfds_folder.Name.parse(name).dataset
  if dataset not in known:
    near = difflib.get_close_matches(dataset, ["auto", "digits", *known])
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(
      f"Unknown dataset {name!r}.{hint} Valid are 'auto', 'digits', "
      f"{', '.join(map(repr, idx_builder.NAMES))}, and every name that TFDS "
      "knows with features `image` and `label`, such as 'cifar10'."
    )
  start = f"The dataset {name!r} is not prepared in {data_dir}, and "
  tensorflow = (
    f"{start}TFDS needs TensorFlow to prepare it. Run `pip install tensorflow` "
    "and the same command again."
  )
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except (AssertionError, ValueError) as error:
    configs = ", ".join(tfds.builder_cls(dataset).builder_configs) or "none"
    raise ValueError(
      f"TFDS cannot load {name!r}: {error} (configs: {configs})."
    ) from error
  except ImportError as error:
    raise UnavailableError(tensorflow) from error
  folder = pathlib.Path(builder.data_dir)
  tfds_folder.check_features(builder.info.features, name)
  # It may be prepared under the default config, which `name` omits.
  if (folder / "dataset_info.json").exists():
    return folder

  elsewhere = (
    f" What can help: point TFDS_DATA_DIR (or data_dir) to a folder where it "
    f"is prepared, or copy {folder} from a machine where it is."
  )
  try:
    if dataset in idx_builder.NAMES:
      elsewhere += (
        " Files downloaded by other means are taken from "
        f"{data_dir / 'downloads' / dataset} if they are intact."
      )
      # What this takes, looked for before any download.
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
