import gzip
import json
import pathlib
import sys
import tempfile
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized
from PIL import Image

from experiments.lab.data import download, idx_builder
from tests.experiments.lab.data import fake_data, http_files

_FILES = fake_data.idx_files()
_REAL = fake_data.real_data_dir()


class PrepareTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    temporary = self.enter_context(tempfile.TemporaryDirectory())
    self.data_dir = pathlib.Path(temporary) / "new"
    self.server = self.enter_context(http_files.serve(_FILES))

  def prepare(self, name="mnist"):
    return idx_builder.prepare(name, self.data_dir, self.server.sources)

  def assert_prepared(self, name="mnist"):
    """Asserts that TFDS finds the examples in the prepared data set."""
    sources = tfds.data_source(name, data_dir=self.data_dir, download=False)
    for split, count in (("train", 50), ("test", 20)):
      images, labels = fake_data.images_and_labels(count, count)
      found = sorted(
        (int(example["label"]), example["image"].tobytes())
        for example in sources[split]
      )
      expected = sorted(
        (int(label), image.tobytes())
        for image, label in zip(images, labels, strict=True)
      )
      self.assertEqual(found, expected)

  @parameterized.parameters(*idx_builder.NAMES)
  def test_tfds_reads_it_as_its_own(self, name):
    folder = self.prepare(name)
    self.assertEqual(folder, self.data_dir / name / "3.0.1")
    self.assert_prepared(name)
    builder = tfds.builder(name, data_dir=self.data_dir)
    self.assertTrue(builder.is_prepared())
    self.assertEqual(builder.info.splits["train"].num_examples, 50)
    elsewhere = self.data_dir / "elsewhere"
    elsewhere.mkdir()
    own = tfds.builder_cls(name)(data_dir=elsewhere)
    own.info.write_to_directory(elsewhere)
    expected = {path.name: path.read_text() for path in elsewhere.iterdir()}
    actual = {
      path.name: path.read_text()
      for path in folder.iterdir()
      if "array_record" not in path.name
    }
    actual_info = json.loads(actual.pop("dataset_info.json"))
    expected_info = json.loads(expected.pop("dataset_info.json"))
    self.assertEqual(actual_info.pop("fileFormat"), "array_record")
    self.assertEqual(expected_info.pop("fileFormat"), "tfrecord")
    del actual_info["splits"]  # Not known before preparing.
    self.assertEqual(actual_info, expected_info)
    self.assertEqual(actual, expected)
    self.assertNotIn("tensorflow", sys.modules)

  def test_is_downloaded_once(self):
    self.prepare()
    self.assertCountEqual(self.server.served, _FILES)
    self.prepare()
    self.assertLen(self.server.served, 4)

  @parameterized.product(
    name=["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"],
    fault=["truncated", "corrupted", "missing", "stalled"],
  )
  def test_a_failed_download_prepares_nothing(self, name, fault):
    self.server.faults[name] = fault
    with (
      mock.patch.object(download, "_SILENCE_SECONDS", 0.2),
      self.assertRaisesRegex(download.DownloadError, name),
    ):
      self.prepare()
    self.assertFalse((self.data_dir / "mnist").exists())
    self.server.faults.clear()
    self.prepare()
    self.assert_prepared()

  def test_a_crash_prepares_nothing(self):
    with (
      mock.patch.object(Image, "fromarray", side_effect=KeyboardInterrupt),
      self.assertRaises(KeyboardInterrupt),
    ):
      self.prepare()
    self.assertEqual([*(self.data_dir / "mnist").iterdir()], [])
    self.prepare()
    self.assert_prepared()

  def test_another_process_is_faster(self):
    encode = Image.fromarray

    def prepare_first(image):
      with mock.patch.object(Image, "fromarray", encode):
        self.prepare()
      return encode(image)

    with mock.patch.object(Image, "fromarray", prepare_first):
      self.prepare()
    self.assert_prepared()
    self.assertEqual(
      [path.name for path in (self.data_dir / "mnist").iterdir()], ["3.0.1"]
    )

  def test_two_processes_at_once(self):
    fake_data.put_downloads(self.data_dir, "mnist", _FILES)
    code = (
      "import pathlib; from experiments.lab.data import download, idx_builder\n"
      "from experiments.lab.data.download import Source\n"
      f"idx_builder.prepare('mnist', pathlib.Path({str(self.data_dir)!r}), "
      f"{self.server.sources})"
    )
    for process in [fake_data.run(code), fake_data.run(code)]:
      _, errors = process.communicate()
      self.assertEqual(process.returncode, 0, errors)
    self.assert_prepared()

  def test_images_without_labels_are_refused(self):
    files = _FILES | {
      "train-labels-idx1-ubyte.gz": fake_data.idx(np.zeros(49, np.uint8))
    }
    with (
      http_files.serve(files) as server,
      self.assertRaisesRegex(ValueError, "50 images but 49 labels for train"),
    ):
      idx_builder.prepare("mnist", self.data_dir, server.sources)
    self.assertFalse((self.data_dir / "mnist").exists())

  @parameterized.parameters(*idx_builder.NAMES)
  def test_sources_are_those_of_tfds(self, name):
    sources = idx_builder.tfds_sources(name)
    self.assertCountEqual(sources, _FILES)
    for filename, source in sources.items():
      self.assertEqual(source.filename, filename)
      self.assertRegex(source.sha256, "^[0-9a-f]{64}$")
      self.assertGreater(source.size, 4000)


class ReadIdxTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    temporary = self.enter_context(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(temporary) / "file.gz"

  @parameterized.parameters((0,), (7,), (3, 28, 28))
  def test_reads(self, *shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    self.path.write_bytes(fake_data.idx(array))
    np.testing.assert_array_equal(
      idx_builder.read_idx(self.path, ndim=len(shape)), array, strict=True
    )

  @parameterized.parameters(
    (b"", 1, "begins with b''"),
    (b"\0\0\x08\x01\0\0", 1, "begins with"),  # The length is cut off.
    (b"\0\0\x0d\x01\0\0\0\x04abcd", 1, "begins with"),  # Floats.
    (b"\0\0\x08\x01\0\0\0\x04abcd", 3, "3 axes"),
    (b"\0\0\x08\x01\0\0\0\x04abc", 1, "holds 3"),
    (b"\0\0\x08\x01\0\0\0\x04abcde", 1, "holds 5"),
  )
  def test_refuses(self, content, ndim, message):
    self.path.write_bytes(gzip.compress(content))
    with self.assertRaisesRegex(ValueError, message):
      idx_builder.read_idx(self.path, ndim=ndim)


@absltest.skipIf(_REAL is None, "MNIST is not prepared on this machine.")
class RealMnistTest(absltest.TestCase):
  def test_writes_the_same_information_as_for_the_real_one(self):
    real = _REAL / "mnist" / "3.0.1"
    with (
      tempfile.TemporaryDirectory() as folder,
      http_files.serve(_FILES) as server,
    ):
      ours = idx_builder.prepare("mnist", pathlib.Path(folder), server.sources)
      for file in ("features.json", "dataset_info.json"):
        expected = json.loads((real / file).read_text())
        actual = json.loads((ours / file).read_text())
        for content in (expected, actual):
          for split in content.get("splits", ()):
            del split["numBytes"], split["shardLengths"]
        self.assertEqual(actual, expected)


if __name__ == "__main__":
  absltest.main()
