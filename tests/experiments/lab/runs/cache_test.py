import errno
import multiprocessing
import os
import pathlib
import tempfile
from unittest import mock

import hypothesis
import hypothesis.strategies as st
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab.runs import cache

ARRAYS = [
  np.array(10),
  np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
  np.arange(5, dtype=np.int32),
  np.empty((0, 3), np.float32),
]


def _save_often(number):
  """Saves arrays full of `number`; returns what it read back meanwhile."""
  seen = set()
  for _ in range(30):
    cache.save("name", "same", [np.full(50_000, number)])
    (array,) = cache.load("name", "same")
    seen.add((int(array.min()), int(array.max())))
  return seen


class CacheTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = (
      pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "new"
    )
    self.enter_context(
      mock.patch.dict(os.environ, NORMJAX_CACHE_DIR=str(self.folder))
    )

  def save(self):
    cache.save("name", "fingerprint", ARRAYS)
    (path,) = self.folder.iterdir()
    return path

  def assert_loads(self):
    loaded = cache.load("name", "fingerprint")
    self.assertLen(loaded, len(ARRAYS))
    for actual, expected in zip(loaded, ARRAYS, strict=True):
      self.assertEqual(actual.dtype, expected.dtype)
      np.testing.assert_array_equal(actual, expected, strict=True)

  def test_loads_what_was_saved(self):
    self.assertIsNone(cache.load("name", "fingerprint"))
    self.save()
    self.assert_loads()
    self.assertIsNone(cache.load("other", "fingerprint"))

  def test_another_fingerprint_is_another_content(self):
    self.save()
    self.assertIsNone(cache.load("name", "changed"))
    cache.save("name", "changed", ARRAYS[:1])
    self.assertIsNone(cache.load("name", "fingerprint"))
    self.assertLen(cache.load("name", "changed"), 1)

  @hypothesis.settings(deadline=None, max_examples=60)
  @hypothesis.given(st.data())
  def test_a_damaged_file_is_never_used(self, data):
    path = self.save()
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
      del content[place:]
    else:
      content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with self.assertLogs("absl", "WARNING") as logs:
      self.assertIsNone(cache.load("name", "fingerprint"))
    self.assertIn(f"{path} is damaged", logs.output[0])
    self.save()
    self.assert_loads()

  @parameterized.parameters(errno.ENOSPC, errno.EROFS)
  def test_a_full_disk_stops_nothing(self, code):
    path = self.save()
    with (
      self.assertLogs("absl", "WARNING") as logs,
      mock.patch.object(np, "save", side_effect=OSError(code, "no way")),
    ):
      cache.save("name", "changed", ARRAYS)
    self.assertIn("NORMJAX_CACHE_DIR", logs.output[0])
    self.assertEqual([*self.folder.iterdir()], [path])
    self.assert_loads()

  def test_an_unusable_folder_stops_nothing(self):
    self.folder.write_text("A file where the folder should be.")
    with self.assertLogs("absl", "WARNING") as logs:
      self.assertIsNone(cache.load("name", "fingerprint"))
      cache.save("name", "fingerprint", ARRAYS)
    self.assertLen(logs.output, 2)

  def test_two_processes_at_once(self):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
      seen = pool.map(_save_often, [1, 2], chunksize=1)
    self.assertContainsSubset(set.union(*seen), {(1, 1), (2, 2)})
    self.assertLen([*self.folder.iterdir()], 1)

  @parameterized.parameters(
    ({"NORMJAX_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
    ({"NORMJAX_CACHE_DIR": "~/a"}, "/home/me/a"),
    ({"XDG_CACHE_HOME": "/b"}, "/b/normjax"),
    ({"XDG_CACHE_HOME": ""}, "/home/me/.cache/normjax"),
    ({}, "/home/me/.cache/normjax"),
  )
  def test_directory(self, variables, expected):
    with mock.patch.dict(
      os.environ, {"HOME": "/home/me"} | variables, clear=True
    ):
      self.assertEqual(cache.directory(), pathlib.Path(expected))


if __name__ == "__main__":
  absltest.main()
