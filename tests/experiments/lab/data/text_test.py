"""Tests of texts: where they come from, how they are cut and tokenized."""

import pathlib
import tempfile
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import absltest

from experiments.lab.data import download, text
from experiments.lab.data.images import UnavailableError
from tests.experiments.lab.data import fake_data

VERSE = "Wär' ich ein Vöglein, 飛\n" * 20


class FileTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = self.folder / "verse.txt"
    self.path.write_text(VERSE, encoding="utf-8")

  def test_characters(self):
    words = text.load(str(self.path))
    self.assertEqual(words.name, str(self.path))
    parts = [words.train, words.validation, words.test]
    self.assertEqual("".join(map(words.decode, parts)), VERSE)
    self.assertEqual(words.characters, tuple(map(len, parts)))
    self.assertEqual(sum(words.characters), len(VERSE))
    self.assertAlmostEqual(len(words.train) / len(VERSE), 0.9, delta=0.02)
    self.assertAlmostEqual(len(words.test) / len(VERSE), 0.05, delta=0.02)
    characters = [entry.decode() for entry in words.vocabulary]
    self.assertEqual(characters, sorted(set(VERSE)))
    self.assertEqual(words.train.dtype, np.int32)

  def test_bytes(self):
    words = text.load(str(self.path), unit="bytes")
    parts = [words.train, words.validation, words.test]
    self.assertEqual("".join(map(words.decode, parts)), VERSE)
    self.assertLen(words.vocabulary, 256)
    self.assertEqual(sum(map(len, parts)), len(VERSE.encode()))
    # Of characters, since that is what bits are counted for.
    self.assertEqual(sum(words.characters), len(VERSE))
    self.assertEqual(
      words.decode(np.array([0xE9])), "\N{REPLACEMENT CHARACTER}"
    )

  def test_cuts_never_split_a_character(self):
    for length in range(40, 60):
      self.path.write_text("飛" * length, encoding="utf-8")
      self.assertEqual(sum(text.load(str(self.path)).characters), length)

  def test_what_is_not_utf8_is_bytes(self):
    self.path.write_bytes(bytes(range(256)) * 4)
    with self.assertRaisesRegex(ValueError, "not UTF-8.*--tokens=bytes"):
      text.load(str(self.path))
    words = text.load(str(self.path), unit="bytes")
    self.assertEqual(words.train[:256].tolist(), list(range(256)))

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, "no text 'hamlet'.*path of a file"):
      text.load("hamlet")
    with self.assertRaisesRegex(ValueError, "unit must be one of.*'words'"):
      text.load(str(self.path), unit="words")


class ShakespeareTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def test_prepared(self):
    parts = {"train": "To be", "validation": ", or", "test": " not"}
    fake_data.prepare(
      self.folder,
      {"text": tfds.features.Text()},
      {name: [{"text": part}] for name, part in parts.items()},
      name="tiny_shakespeare",
      version="1.0.0",
    )
    words = text.load(data_dir=self.folder)
    self.assertEqual(words.name, "tiny_shakespeare")
    self.assertEqual(words.decode(words.train), "To be")
    self.assertEqual(words.decode(words.validation), ", or")
    self.assertEqual(words.decode(words.test), " not")

  def test_downloaded(self):
    path = self.folder / "input.txt"
    path.write_text("x" * 100)
    with mock.patch.object(download, "fetch", return_value=[path]) as fetch:
      words = text.load("tiny_shakespeare", self.folder)
    (source,), folder = fetch.call_args.args
    self.assertEqual(source.size, 1_115_394)
    self.assertEqual(folder, self.folder / "downloads" / "tiny_shakespeare")
    self.assertEqual(words.characters, (90, 5, 5))

  def test_not_to_be_had(self):
    error = download.DownloadError("No network.")
    with mock.patch.object(download, "fetch", side_effect=error):
      with self.assertRaisesRegex(
        UnavailableError, "(?s)No network.*--dataset=pydoc"
      ):
        text.load("tiny_shakespeare", self.folder)
      with self.assertRaisesRegex(UnavailableError, r"no \(there is no such"):
        text.load("tiny_shakespeare", self.folder / "no")
      with self.assertLogs(level="WARNING") as logs:
        words = text.load("auto", self.folder)
    self.assertIn("INSTEAD OF tiny_shakespeare", logs.output[0])
    self.assertEqual(words.name, "pydoc")
    self.assertGreater(sum(words.characters), 400_000)
    self.assertIn('The "assert" statement', words.decode(words.train[:200]))

  @absltest.skipIf(
    fake_data.real_data_dir() is None, "The real data are not prepared."
  )
  def test_the_real_one_is_what_would_be_downloaded(self):
    folder = fake_data.real_data_dir()
    if not (folder / "tiny_shakespeare").is_dir():
      self.skipTest("It is not prepared.")
    prepared = text.load("tiny_shakespeare", folder)
    whole = self.folder / "input.txt"
    parts = [prepared.train, prepared.validation, prepared.test]
    whole.write_text("".join(map(prepared.decode, parts)))
    with mock.patch.object(download, "fetch", return_value=[whole]):
      downloaded = text.load("tiny_shakespeare", self.folder / "none")
    self.assertEqual(whole.stat().st_size, 1_115_394)
    for part in ("train", "validation", "test"):
      np.testing.assert_array_equal(
        getattr(prepared, part), getattr(downloaded, part)
      )
    self.assertLen(prepared.vocabulary, 65)


if __name__ == "__main__":
  absltest.main()
