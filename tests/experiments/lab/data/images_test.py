import importlib.util
import os
import pathlib
import tempfile
from unittest import mock

import hypothesis
import hypothesis.strategies as st
import numpy as np
import requests
import sklearn.datasets
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized

from experiments.lab.data import download, idx_builder, tfds_folder
from experiments.lab.data import images as data
from experiments.lab.runs import cache
from tests.experiments.lab.data import fake_data, http_files

_FILES = fake_data.idx_files()
_REAL = fake_data.real_data_dir()


def _assert_equal(actual: data.Dataset, expected: data.Dataset):
  for field in ("name", "num_classes", "max_value"):
    assert getattr(actual, field) == getattr(expected, field)
  for split in ("train", "test"):
    for one, other in zip(
      getattr(actual, split), getattr(expected, split), strict=True
    ):
      np.testing.assert_array_equal(one, other, strict=True)


class DataTest(parameterized.TestCase):
  """Every test has a data folder and a cache folder of its own."""

  def setUp(self):
    super().setUp()
    root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.data_dir = root / "data"
    self.cache_dir = root / "cache"
    self.enter_context(
      mock.patch.dict(
        os.environ,
        NORMJAX_CACHE_DIR=str(self.cache_dir),
        TFDS_DATA_DIR=str(self.data_dir),
      )
    )
    # No test may reach a host other than this one.
    self.set_sources(http_files.unreachable(_FILES))

  def set_sources(self, sources):
    self.enter_context(
      mock.patch.object(idx_builder, "tfds_sources", lambda name: sources)
    )

  def serve(self):
    server = self.enter_context(http_files.serve(_FILES))
    self.set_sources(server.sources)
    return server


class DigitsTest(DataTest):
  def test_are_those_of_scikit_learn(self):
    digits = data.load("digits")
    self.assertEqual(digits.name, "digits")
    self.assertEqual((digits.num_classes, digits.max_value), (10, 16))
    self.assertEqual(digits.train.images.shape, (1437, 8, 8, 1))
    self.assertEqual(digits.test.images.shape, (360, 8, 8, 1))
    images, labels = (
      np.concatenate(pair)
      for pair in zip(digits.train, digits.test, strict=True)
    )
    self.assertEqual((images.dtype, labels.dtype), (np.uint8, np.int32))
    self.assertEqual((images.min(), images.max()), (0, 16))
    whole = sklearn.datasets.load_digits()
    self.assertCountEqual(
      zip(labels, map(bytes, images), strict=True),
      zip(whole.target, map(bytes, whole.images.astype(np.uint8)), strict=True),
    )

  def test_both_parts_have_the_same_shares_of_classes(self):
    digits = data.load("digits")
    train = np.bincount(digits.train.labels, minlength=10)
    test = np.bincount(digits.test.labels, minlength=10)
    self.assertLessEqual(np.abs(test - (train + test) / 5).max(), 1)

  def test_cache_equals_fresh(self):
    _assert_equal(data.load("digits"), data.load("digits"))
    self.assertLen([*self.cache_dir.iterdir()], 1)

  def test_touches_neither_network_nor_tfds(self):
    code = (
      "import sys; events = []\n"
      "sys.addaudithook(lambda event, args: events.append(event))\n"
      "from experiments.lab.data import images; images.load('digits')\n"
      "assert not [e for e in events if e.startswith('socket.')]\n"
      "assert 'tensorflow_datasets' not in sys.modules"
    )
    process = fake_data.run(code)
    _, errors = process.communicate()
    self.assertEqual(process.returncode, 0, errors)


class FallbackTest(DataTest):
  def test_auto_falls_back_to_digits_and_says_so(self):
    with self.assertLogs("absl", "WARNING") as logs:
      dataset = data.load()
    self.assertEqual(dataset.name, "digits")
    (message,) = logs.output
    for part in (
      "INSTEAD OF MNIST",
      f"{self.data_dir} (there is no such folder)",
      "127.0.0.1",
      "cannot be reached",
      "TFDS_DATA_DIR",
      str(self.data_dir / "mnist" / "3.0.1"),
      str(self.data_dir / "downloads" / "mnist"),
    ):
      self.assertIn(part, message)

  def test_mnist_insists(self):
    with self.assertRaisesRegex(
      data.UnavailableError, "(?s)cannot be reached.*TFDS_DATA_DIR"
    ):
      data.load("mnist")
    self.assertFalse(self.data_dir.exists())

  @parameterized.parameters("truncated", "corrupted", "missing", "stalled")
  def test_a_bad_download_is_no_mnist(self, fault):
    server = self.serve()
    server.faults["train-images-idx3-ubyte.gz"] = fault
    with mock.patch.object(download, "_SILENCE_SECONDS", 0.2):
      with self.assertLogs("absl", "WARNING") as logs:
        self.assertEqual(data.load("auto").name, "digits")
      self.assertIn("train-images-idx3-ubyte.gz", logs.output[0])
      with self.assertRaisesRegex(data.UnavailableError, "SHA-256"):
        data.load("mnist")
    server.faults.clear()
    self.assertEqual(data.load("auto").name, "mnist")

  def test_an_unwritable_folder_is_no_mnist(self):
    self.serve()
    self.data_dir.write_text("A file where the folder should be.")
    with self.assertRaisesRegex(data.UnavailableError, "cannot be written"):
      data.load("mnist")
    with self.assertLogs("absl", "WARNING"):
      self.assertEqual(data.load("auto").name, "digits")

  @parameterized.parameters("tensorflow_datasets", "PIL", "array_record")
  def test_a_missing_package_is_named(self, package):
    server = self.serve()
    code = (
      "import sys; from experiments.lab.data import images as data\n"
      "from experiments.lab.data import download, idx_builder\n"
      "from experiments.lab.data.download import Source\n"
      f"idx_builder.tfds_sources = lambda name: {server.sources}\n"
      f"sys.modules[{package!r}] = None\n"
      "try:\n"
      "  data.load('mnist')\n"
      "except data.UnavailableError as error:\n"
      f"  assert '{package}' in str(error) and 'pip' in str(error), error\n"
      "else:\n"
      "  raise AssertionError('loaded')\n"
      "assert data.load('auto').name == 'digits'"
    )
    process = fake_data.run(code)
    _, errors = process.communicate()
    self.assertEqual(process.returncode, 0, errors)
    self.assertEqual(server.served, [])  # Said before any download.

  def test_a_damaged_data_set_is_not_silently_replaced(self):
    self.serve()
    data.load("mnist")
    for path in (self.data_dir / "mnist" / "3.0.1").glob("*train*"):
      path.write_bytes(b"damaged")
    with self.assertRaisesRegex(ValueError, "damaged.*Delete the folder"):
      data.load("auto")


class TfdsTest(DataTest):
  @parameterized.parameters(*idx_builder.NAMES)
  def test_prepares_loads_and_caches(self, name):
    server = self.serve()
    dataset = data.load(name)
    self.assertEqual(dataset.name, name)
    self.assertEqual((dataset.num_classes, dataset.max_value), (10, 255))
    for split, count in ((dataset.train, 50), (dataset.test, 20)):
      images, labels = fake_data.images_and_labels(count, count)
      self.assertEqual(split.images.shape, (count, 28, 28, 1))
      self.assertEqual(split.images.dtype, np.uint8)
      self.assertEqual(split.labels.dtype, np.int32)
      self.assertCountEqual(
        zip(split.labels, map(bytes, split.images), strict=True),
        zip(labels, map(bytes, images), strict=True),
      )
    with mock.patch.object(tfds_folder, "decode") as decode:
      _assert_equal(data.load(name), dataset)
      decode.assert_not_called()
    self.assertLen(server.served, 4)
    self.assertLen([*self.cache_dir.iterdir()], 1)

  def test_auto_is_mnist_where_possible(self):
    self.serve()
    with self.assertNoLogs("absl", "WARNING"):
      self.assertEqual(data.load().name, "mnist")

  def test_data_dir_wins_over_the_environment(self):
    self.serve()
    other = self.data_dir.with_name("other")
    data.load("mnist", data_dir=str(other))
    self.assertTrue((other / "mnist" / "3.0.1").is_dir())
    self.assertFalse(self.data_dir.exists())

  def test_folders_elsewhere_are_refused(self):
    with self.assertRaisesRegex(ValueError, "local folders, got gs://bucket"):
      data.load("auto", "gs://bucket/folder")

  def test_the_default_folder_is_that_of_tfds(self):
    self.serve()
    home = self.data_dir.with_name("home")
    with mock.patch.dict(os.environ, HOME=str(home)):
      del os.environ["TFDS_DATA_DIR"]
      data.load("mnist")
    self.assertTrue((home / "tensorflow_datasets" / "mnist").is_dir())

  def test_a_changed_data_set_is_noticed(self):
    fake_data.put_downloads(self.data_dir, "mnist", _FILES)
    self.serve()
    old = data.load("mnist")
    folder = self.data_dir / "mnist" / "3.0.1"
    for path in folder.iterdir():
      path.unlink()
    folder.rmdir()
    files = fake_data.idx_files(seed=1)
    server = self.enter_context(http_files.serve(files))
    self.set_sources(server.sources)
    new = data.load("mnist")
    self.assertFalse(np.array_equal(old.train.images, new.train.images))
    self.assertLen([*self.cache_dir.iterdir()], 1)

  def test_data_sets_in_two_folders_do_not_mix(self):
    self.serve()
    other = self.data_dir.with_name("other")
    first = data.load("mnist")
    files = fake_data.idx_files(seed=1)
    server = self.enter_context(http_files.serve(files))
    self.set_sources(server.sources)
    second = data.load("mnist", other)
    with mock.patch.object(tfds_folder, "decode") as decode:
      _assert_equal(data.load("mnist"), first)
      _assert_equal(data.load("mnist", other), second)
      decode.assert_not_called()

  def test_a_damaged_cache_is_rebuilt(self):
    self.serve()
    expected = data.load("mnist")
    (path,) = self.cache_dir.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with self.assertLogs("absl", "WARNING") as logs:
      _assert_equal(data.load("mnist"), expected)
    self.assertIn("is damaged", logs.output[0])
    with self.assertNoLogs("absl", "WARNING"):
      _assert_equal(data.load("mnist"), expected)

  def test_an_unusable_cache_stops_nothing(self):
    self.serve()
    self.cache_dir.write_text("A file where the folder should be.")
    with self.assertLogs("absl", "WARNING"):
      _assert_equal(data.load("mnist"), data.load("mnist"))

  def test_two_processes_at_once(self):
    self.serve()
    data.load("mnist")
    (path,) = self.cache_dir.iterdir()
    path.unlink()
    code = (
      "from experiments.lab.data import images; d = images.load('mnist')\n"
      "print(sum(int(a.sum()) for s in (d.train, d.test) for a in s))"
    )
    outputs = set()
    for process in [fake_data.run(code), fake_data.run(code)]:
      output, errors = process.communicate()
      self.assertEqual(process.returncode, 0, errors)
      outputs.add(output)
    self.assertLen(outputs, 1)
    self.assertEqual([*self.cache_dir.iterdir()], [path])

  def test_a_warm_cache_imports_nothing_heavy(self):
    self.serve()
    data.load("mnist")
    data.load("digits")
    code = (
      "import sys; from experiments.lab.data import images as data\n"
      "data.load('mnist'); data.load('digits')\n"
      "heavy = {'tensorflow_datasets', 'PIL', 'sklearn', 'requests', 'jax'}\n"
      "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    process = fake_data.run(code)
    _, errors = process.communicate()
    self.assertEqual(process.returncode, 0, errors)

  @parameterized.parameters("fake", "fake:1.2.0")
  def test_any_prepared_data_set_loads_by_name(self, name):
    shape = (6, 5, 3)
    images, labels = fake_data.images_and_labels(12, 0, shape)
    examples = [
      {"image": fake_data.encoded(image), "label": int(label)}
      for image, label in zip(images, labels, strict=True)
    ]
    fake_data.prepare(
      self.data_dir,
      {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(num_classes=11),
        "id": tfds.features.Scalar(np.int64),
      },
      {
        split: [example | {"id": 1} for example in part]
        for split, part in (("train", examples[:8]), ("test", examples[8:]))
      },
    )
    dataset = data.load(name)
    self.assertEqual((dataset.name, dataset.num_classes), ("fake", 11))
    self.assertCountEqual(
      zip(dataset.test.labels, map(bytes, dataset.test.images), strict=True),
      zip(labels[8:], map(bytes, images[8:]), strict=True),
    )

  @parameterized.parameters(
    ("mnits", "Unknown dataset 'mnits'.*Did you mean 'mnist'.*'digits'"),
    ("digit", "Did you mean 'digits'"),
    ("no_such_thing_at_all", "'auto', 'digits', 'mnist', 'fashion_mnist'"),
    ("MNIST", "not the name of a dataset.*'mnist'"),
    ("", "not the name of a dataset"),
    ("mnist:1.0.0", "3.0.1"),
    ("emnist/nothing", "emnist/nothing.*balanced"),
    ("imdb_reviews", "image"),
  )
  def test_unknown_names_are_refused(self, name, message):
    with (
      mock.patch.object(requests, "get") as get,
      mock.patch.object(requests, "head") as head,
      self.assertRaisesRegex(ValueError, f"(?s){message}"),
    ):
      data.load(name)
    get.assert_not_called()
    head.assert_not_called()
    self.assertFalse(self.data_dir.exists())

  def test_others_need_tensorflow_to_be_prepared(self):
    with (
      mock.patch.object(importlib.util, "find_spec", return_value=None),
      self.assertRaisesRegex(
        data.UnavailableError, "(?s)pip install tensorflow.*cifar10/3.0.2"
      ),
    ):
      data.load("cifar10")

  @absltest.skipIf(
    importlib.util.find_spec("tensorflow"), "TensorFlow is installed."
  )
  def test_some_need_tensorflow_even_to_be_described(self):
    with self.assertRaisesRegex(
      data.UnavailableError, "pip install tensorflow"
    ):
      data.load("coco")

  def test_others_are_prepared_by_tfds_with_tensorflow(self):
    cifar10 = tfds.builder_cls("cifar10")
    with (
      mock.patch.object(importlib.util, "find_spec"),
      mock.patch.object(requests, "head") as head,
      mock.patch.object(cifar10, "download_and_prepare") as prepare,
    ):
      head.side_effect = requests.ConnectionError("unplugged")
      with self.assertRaisesRegex(data.UnavailableError, "unplugged"):
        data.load("cifar10")
      prepare.assert_not_called()
      head.side_effect = None
      prepare.side_effect = OSError("full")
      with self.assertRaisesRegex(data.UnavailableError, "full"):
        data.load("cifar10")
      prepare.assert_called_once_with(file_format="array_record")

  def test_the_default_config_is_found(self):
    features = {
      "image": tfds.features.Image(shape=(28, 28, 1)),
      "label": tfds.features.ClassLabel(num_classes=62),
    }
    example = {
      "image": fake_data.encoded(np.zeros((28, 28), np.uint8)),
      "label": 61,
    }
    splits = {"train": [example], "test": [example]}
    folder = fake_data.prepare(
      self.data_dir, features, splits, "emnist", "3.1.0"
    )
    byclass = self.data_dir / "emnist" / "byclass" / "3.1.0"
    byclass.parent.mkdir()
    folder.rename(byclass)
    for name in ("emnist", "emnist/byclass"):
      dataset = data.load(name)
      self.assertEqual((dataset.name, dataset.num_classes), (name, 62))
      self.assertEqual(dataset.train.labels, [61])


class SplitTest(parameterized.TestCase):
  @hypothesis.settings(deadline=None)
  @hypothesis.given(
    count=st.integers(2, 300),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**70),
  )
  def test_is_disjoint_complete_and_deterministic(self, count, fraction, seed):
    hypothesis.assume(0 < round(count * fraction) < count)
    labels = np.arange(count, dtype=np.int32)
    images = np.arange(count, dtype=np.uint16)[:, None, None, None]
    split = data.Split(images, labels)
    parts = data.train_validation_split(
      split, train_fraction=fraction, seed=seed
    )
    again = data.train_validation_split(
      split, train_fraction=fraction, seed=seed
    )
    self.assertLen(parts[0].labels, round(count * fraction))
    self.assertCountEqual(np.concatenate([p.labels for p in parts]), labels)
    for part, same in zip(parts, again, strict=True):
      np.testing.assert_array_equal(part.images.ravel(), part.labels)
      np.testing.assert_array_equal(part.labels, same.labels)

  def test_the_order_never_changes(self):
    labels = np.arange(10, dtype=np.int32)
    split = data.Split(labels[:, None, None, None], labels)
    train, validation = data.train_validation_split(
      split, train_fraction=0.8, seed=0
    )
    # Written down once: results reported with a seed stay reproducible.
    self.assertEqual(train.labels.tolist(), [3, 2, 1, 8, 6, 0, 7, 4])
    self.assertEqual(validation.labels.tolist(), [5, 9])
    other, _ = data.train_validation_split(split, train_fraction=0.8, seed=1)
    self.assertNotEqual(other.labels.tolist(), train.labels.tolist())

  @parameterized.parameters(
    (0.0, 10, "between 0 and 1, got 0.0"),
    (1.0, 10, "between 0 and 1"),
    (-0.5, 10, "between 0 and 1"),
    (float("nan"), 10, "between 0 and 1, got nan"),
    (0.01, 10, "leaves 0 for training and 10 for validation"),
    (0.99, 10, "leaves 10 for training and 0 for validation"),
    (0.5, 0, "0 examples"),
  )
  def test_refuses(self, fraction, count, message):
    labels = np.zeros(count, np.int32)
    split = data.Split(labels[:, None, None, None], labels)
    with self.assertRaisesRegex(ValueError, message):
      data.train_validation_split(split, train_fraction=fraction, seed=0)


@absltest.skipIf(_REAL is None, "MNIST is not prepared on this machine.")
class RealMnistTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.enterClassContext(mock.patch.dict(os.environ, NORMJAX_CACHE_DIR=folder))
    cls.mnist = data.load("mnist", _REAL)

  def test_is_the_mnist_that_everybody_knows(self):
    train, test = self.mnist.train, self.mnist.test
    self.assertEqual(train.images.shape, (60_000, 28, 28, 1))
    self.assertEqual(test.images.shape, (10_000, 28, 28, 1))
    self.assertEqual(
      np.bincount(train.labels).tolist(),
      [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    )
    self.assertEqual(
      np.bincount(test.labels).tolist(),
      [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    )
    self.assertEqual(train.images.sum(dtype=np.int64), 1_567_298_545)
    self.assertEqual(test.images.sum(dtype=np.int64), 264_923_200)
    # The mean and deviation by which everybody standardizes it.
    share = np.bincount(train.images.ravel(), minlength=256) / train.images.size
    values = np.arange(256) / 255
    mean = np.sum(share * values)
    self.assertAlmostEqual(mean, 0.1307, delta=5e-5)
    deviation = np.sqrt(np.sum(share * (values - mean) ** 2))
    self.assertAlmostEqual(deviation, 0.3081, delta=5e-5)

  def test_equals_what_tfds_decodes(self):
    sources = tfds.data_source("mnist", data_dir=_REAL, download=False)
    for name, split in (
      ("train", self.mnist.train),
      ("test", self.mnist.test),
    ):
      self.assertLen(sources[name], len(split.labels))
      indices = [*range(0, len(split.labels), 97), len(split.labels) - 1]
      for index, example in zip(
        indices, sources[name].__getitems__(indices), strict=True
      ):
        np.testing.assert_array_equal(split.images[index], example["image"])
        self.assertEqual(split.labels[index], example["label"])

  def test_cache_equals_fresh(self):
    with mock.patch.object(tfds_folder, "decode") as decode:
      _assert_equal(data.load("auto", _REAL), self.mnist)
      decode.assert_not_called()
    self.assertLen([*cache.directory().iterdir()], 1)


if __name__ == "__main__":
  absltest.main()
