"""Tests of files that readers see whole or not at all."""

import json
import math
import os
import pathlib
import tempfile
from unittest import mock

import chex
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab.claims import Verdict
from experiments.lab.runs import files
from experiments.lab.statistics import Interval

NAN = math.nan


class WriteTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.enterContext(tempfile.TemporaryDirectory()) + "/new"
    self.path = self.folder + "/summary.json"

  def read(self):
    def refuse(constant):
      raise AssertionError(f"{constant} is not JSON.")

    with open(self.path, encoding="utf-8") as file:
      return json.load(file, parse_constant=refuse)

  def test_json_round_trip(self):
    files.write_json(
      self.path,
      {
        "nan": [NAN, math.inf, -math.inf, np.float32(NAN), 0.5],
        "array": np.array([[1.0, NAN]], np.float32),
        "jax": jnp.arange(2),
        "scalars": (np.int64(3), jnp.float32(0.5), True, None),
        "interval": Interval(97.64, NAN),
        "verdict": Verdict.CONFIRMED,
        "text": "±",
      },
    )
    self.assertEqual(
      self.read(),
      {
        "nan": [None, None, None, None, 0.5],
        "array": [[1.0, None]],
        "jax": [0, 1],
        "scalars": [3, 0.5, True, None],
        "interval": {"mean": 97.64, "half_width": None},
        "verdict": "CONFIRMED",
        "text": "±",
      },
    )

  def test_failure_keeps_the_old_file(self):
    files.write_json(self.path, {"a": 1})
    with self.assertRaisesRegex(TypeError, "set"):
      files.write_json(self.path, {"a": {1}})
    with (
      mock.patch.object(os, "replace", side_effect=OSError("disk full")),
      self.assertRaisesRegex(OSError, "disk full"),
    ):
      files.write_json(self.path, {"a": 2})
    self.assertEqual(self.read(), {"a": 1})
    self.assertEqual(os.listdir(self.folder), ["summary.json"])

  def test_readers_see_old_or_new(self):
    # What a reader opened before the replacement stays whole.
    files.write_json(self.path, {"a": "old"})
    with open(self.path, encoding="utf-8") as file:
      files.write_json(self.path, {"a": "new"})
      self.assertEqual(json.load(file), {"a": "old"})
    self.assertEqual(self.read(), {"a": "new"})

  def test_permissions_follow_the_umask(self):
    files.write_json(self.path, {})
    plain = os.path.join(self.folder, "plain")
    open(plain, "w").close()
    self.assertEqual(os.stat(self.path).st_mode, os.stat(plain).st_mode)


class CheckedTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(folder) / "file"

  def flips(self, read, assert_same):
    """Flips bits; asserts that each is noticed, or changes nothing.

    Every third bit, which takes two or three of each byte.

    Returns the share of the bits that is noticed.
    """
    intact = self.path.read_bytes()
    noticed = 0
    positions = range(0, 8 * len(intact), 3)
    for position in positions:
      damaged = bytearray(intact)
      damaged[position // 8] ^= 1 << position % 8
      self.path.write_bytes(damaged)
      try:
        found = read(self.path)
      except files.DamagedError as error:
        noticed += 1
        self.assertStartsWith(str(error), str(self.path))
        continue
      assert_same(found)
    return noticed / len(positions)

  def test_no_flipped_bit_changes_arrays(self):
    arrays = {
      "[0].params['w']": np.arange(6, dtype=np.float32).reshape(2, 3),
      "records": np.asarray("text"),
      "seconds": np.asarray(1.5),
    }
    files.write_arrays(self.path, arrays)

    def assert_same(found):
      chex.assert_trees_all_equal(found, arrays)
      chex.assert_trees_all_equal_dtypes(found, arrays)

    # The rest are such as times of files.
    self.assertGreater(self.flips(files.read_arrays, assert_same), 0.7)

  def test_a_part_of_an_array_is_not_taken_for_all(self):
    # So long that NumPy would not see the end, where the zip's checksum is.
    files.write_arrays(self.path, {"w": np.zeros(3000)})
    damaged = self.path.read_bytes().replace(b"(3000,)", b"(1000,)")
    self.path.write_bytes(damaged)
    with self.assertRaises(files.DamagedError):
      files.read_arrays(self.path)

  def test_no_flipped_bit_changes_a_record(self):
    record = {"study": "x", "loss": [0.1, None], "config": {"norm": ["±"]}}
    files.write_record(self.path, record)
    self.assertEqual(files.read_record(self.path), record)

    def assert_same(found):
      self.assertEqual(found, record)

    self.assertGreater(self.flips(files.read_record, assert_same), 0.9)

  def test_shortened_files_are_damaged(self):
    for write, read in (
      (files.write_arrays, files.read_arrays),
      (files.write_record, files.read_record),
    ):
      write(self.path, {"a": 1.0})
      intact = self.path.read_bytes()
      for length in range(len(intact) - 1):  # A record ends in a newline.
        self.path.write_bytes(intact[:length])
        with self.assertRaises(files.DamagedError):
          read(self.path)

  def test_files_may_be_absent(self):
    self.assertIsNone(files.read_arrays(self.path))
    self.assertIsNone(files.read_record(self.path))


class ReplacingTest(absltest.TestCase):
  def test_a_failure_leaves_the_old_file(self):
    path = (
      pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
      / "new"
      / "file"
    )
    with files.replacing(path) as file:
      file.write(b"old")
    with self.assertRaises(KeyboardInterrupt), files.replacing(path) as file:
      file.write(b"new")
      raise KeyboardInterrupt
    self.assertEqual(path.read_bytes(), b"old")
    self.assertEqual([*path.parent.iterdir()], [path])

  def test_what_killed_processes_leave_is_removed(self):
    folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    path = folder / "arm.npz"
    with files.replacing(path):
      (left,) = folder.iterdir()
    left.touch()
    files.remove_incomplete(folder)
    self.assertEqual([*folder.iterdir()], [path])


if __name__ == "__main__":
  absltest.main()
