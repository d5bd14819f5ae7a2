import json
import os
import pathlib
import sys
import tempfile

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized

from experiments.lab.data import tfds_folder
from tests.experiments.lab.data import fake_data

_LABEL = tfds.features.ClassLabel(num_classes=10)


class NameTest(parameterized.TestCase):
  @parameterized.parameters(
    ("mnist", ("mnist", "", "")),
    ("emnist/balanced", ("emnist", "balanced", "")),
    ("mnist:3.0.1", ("mnist", "", "3.0.1")),
    ("cifar10_corrupted/fog_1:1.0.0", ("cifar10_corrupted", "fog_1", "1.0.0")),
  )
  def test_parse(self, text, expected):
    self.assertEqual(tfds_folder.Name.parse(text), expected)

  @parameterized.parameters(
    "", "..", "../mnist", "/mnist", "mnist/", "mnist:3", "a b", "mnist\n", "é"
  )
  def test_refuses(self, text):
    with self.assertRaisesRegex(ValueError, "not the name of a dataset"):
      tfds_folder.Name.parse(text)


class FolderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.data_dir = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )

  def prepare(self, shape=(6, 5, 1), image_format="PNG", **features):
    """Prepares splits that go by label; returns the folder and the images."""
    splits, expected = {}, {}
    for split, count in (("train", 2100), ("test", 10)):
      pixels, _ = fake_data.images_and_labels(count, count, shape)
      labels = np.arange(count) % 10
      splits[split] = [
        {
          "image": fake_data.encoded(np.squeeze(image), image_format),
          "label": int(label),
        }
        for image, label in zip(pixels, labels, strict=True)
      ]
      expected[split] = sorted(
        (int(label), image.tobytes())
        for image, label in zip(pixels, labels, strict=True)
      )
    all_features = {
      "image": tfds.features.Image(shape=shape),
      "label": _LABEL,
    } | features
    return fake_data.prepare(self.data_dir, all_features, splits), expected

  def assert_decodes(self, folder, expected, shape=(6, 5, 1)):
    classes, *arrays = tfds_folder.decode(folder)
    self.assertEqual(classes, 10)
    for split, images, labels in (
      ("train", *arrays[:2]),
      ("test", *arrays[2:]),
    ):
      self.assertEqual(images.shape, (len(expected[split]), *shape))
      self.assertEqual((images.dtype, labels.dtype), (np.uint8, np.int32))
      actual = sorted(
        (int(label), image.tobytes())
        for image, label in zip(images, labels, strict=True)
      )
      self.assertTrue(actual == expected[split])  # Too long to be shown.

  def test_finds_the_newest_version(self):
    name = tfds_folder.Name.parse
    self.assertIsNone(tfds_folder.find(name("fake"), self.data_dir))
    for version in ("1.9.0", "1.10.0", "2.0.0.incomplete", "fog/1.0.0"):
      folder = self.data_dir / "fake" / version
      folder.mkdir(parents=True)
      (folder / "dataset_info.json").touch()
    (self.data_dir / "fake" / "3.0.0").mkdir()  # Without information.
    for text, version in (
      ("fake", "1.10.0"),
      ("fake:1.9.0", "1.9.0"),
      ("fake/fog", "fog/1.0.0"),
    ):
      self.assertEqual(
        tfds_folder.find(name(text), self.data_dir),
        self.data_dir / "fake" / version,
      )
    self.assertIsNone(tfds_folder.find(name("fake:1.0.0"), self.data_dir))

  def test_the_fingerprint_changes_with_the_files(self):
    folder = self.data_dir
    info, record = folder / "dataset_info.json", folder / "records"
    info.write_text("{}")
    record.write_text("1")
    seen = [tfds_folder.fingerprint(folder)]
    self.assertEqual(seen, [tfds_folder.fingerprint(folder)])
    os.utime(record, ns=(0, 0))
    seen.append(tfds_folder.fingerprint(folder))
    record.write_text("12")
    os.utime(record, ns=(0, 0))
    seen.append(tfds_folder.fingerprint(folder))
    times = info.stat().st_mtime_ns
    info.write_text("[]")
    os.utime(info, ns=(times, times))
    seen.append(tfds_folder.fingerprint(folder))
    (folder / "new").touch()
    seen.append(tfds_folder.fingerprint(folder))
    self.assertLen(set(seen), 5)

  @parameterized.parameters((6, 5, 1), (6, 5, 3), (6, 5, 4))
  def test_decodes(self, *shape):
    folder, expected = self.prepare(shape)
    self.assert_decodes(folder, expected, shape)
    self.assertNotIn("tensorflow", sys.modules)

  def test_decodes_tfrecords_without_tensorflow(self):
    folder, expected = self.prepare()
    fake_data.to_tfrecord(folder)
    self.assertLen([*folder.glob("*tfrecord*")], 2)
    self.assert_decodes(folder, expected)
    self.assertNotIn("tensorflow", sys.modules)

  @parameterized.product(tfrecord=[True, False], damage=["cut", "flip", "gone"])
  def test_damage_is_reported(self, tfrecord, damage):
    folder, _ = self.prepare()
    if tfrecord:
      fake_data.to_tfrecord(folder)
    (path,) = folder.glob("*train*record*")
    content = bytearray(path.read_bytes())
    if damage == "cut":
      del content[len(content) // 2 :]
    else:
      start = len(content) // 2
      content[start : start + 99] = b"\xff" * 99
    path.write_bytes(content)
    if damage == "gone":
      path.unlink()
    what = ".*cut off" if tfrecord and damage == "cut" else ""
    with self.assertRaisesRegex(
      ValueError, f"is damaged{what}.*Delete the folder"
    ):
      tfds_folder.decode(folder)

  def test_a_missing_record_is_reported(self):
    folder, _ = self.prepare()
    fake_data.to_tfrecord(folder)
    (path,) = folder.glob("*test*record*")

    path.write_bytes(b"")
    with self.assertRaisesRegex(ValueError, "0 of 10 examples of test"):
      tfds_folder.decode(folder)

  def test_labels_beyond_the_classes_are_reported(self):
    folder, _ = self.prepare()
    path = folder / "features.json"
    features = json.loads(path.read_text())
    label = features["featuresDict"]["features"]["label"]["classLabel"]
    label["numClasses"] = "9"
    path.write_text(json.dumps(features))
    with self.assertRaisesRegex(ValueError, "from 0 to 9, with 9 classes"):
      tfds_folder.decode(folder)

  @parameterized.parameters(
    ({"image": tfds.features.Image(shape=(None, None, 3)), "label": _LABEL},
     r"shape \(None, None, 3\).*one size"),
    ({"image": tfds.features.Image(shape=(2, 2, 2)), "label": _LABEL},
     r"shape \(2, 2, 2\).*\[1, 3, 4\] channels"),
    ({"image": tfds.features.Image(shape=(2, 2, 1), dtype=np.uint16),
          "label": _LABEL}, "uint16"),
    ({"image": tfds.features.Image(shape=(2, 2, 1))}, "feature `label`"),
    ({"image": tfds.features.Text(), "label": _LABEL}, "feature `image`"),
    ({"image": tfds.features.Image(shape=(2, 2, 1)),
          "label": tfds.features.Scalar(np.int64)}, "feature `label`"),
  )  # fmt: skip
  def test_other_features_are_refused(self, features, message):
    with self.assertRaisesRegex(ValueError, f"fake .*{message}"):
      tfds_folder.check_features(tfds.features.FeaturesDict(features), "fake")

  def test_both_splits_are_needed(self):
    image = fake_data.encoded(np.zeros((2, 2), np.uint8))
    folder = fake_data.prepare(
      self.data_dir,
      {"image": tfds.features.Image(shape=(2, 2, 1)), "label": _LABEL},
      {"train": [{"image": image, "label": 0}]},
    )
    with self.assertRaisesRegex(ValueError, "fake has no split test, only tra"):
      tfds_folder.decode(folder)


if __name__ == "__main__":
  absltest.main()
