"""Versions of a run: recorded, and compared with those of another."""

import os
from unittest import mock

from absl.testing import absltest, parameterized

from experiments.lab.runs import versions


class VersionsTest(parameterized.TestCase):
  @parameterized.parameters(({}, ""), ({"XLA_FLAGS": "--xla_a=1"}, "--xla_a=1"))
  def test_hold_the_flags_of_xla(self, environment, flags):
    with mock.patch.dict(os.environ, environment):
      if not environment:
        os.environ.pop("XLA_FLAGS", None)
      self.assertEqual(versions.current()["XLA_FLAGS"], flags)

  @parameterized.parameters(
    ({"jax": "1", "XLA_FLAGS": "--a"}, ""),
    ({"jax": "0"}, "jax 0 (now 1)"),
    ({"jax": "1"}, ""),  # Older runs did not record flags.
    ({"jax": "1", "removed": "2"}, ""),
    ({"jax": "1", "XLA_FLAGS": ""}, "XLA_FLAGS unset (now --a)"),
  )
  def test_changes(self, recorded, expected):
    now = {"jax": "1", "XLA_FLAGS": "--a"}
    with mock.patch.object(versions, "current", return_value=now):
      self.assertEqual(versions.changes(recorded), expected)

  def test_changes_to_no_flags(self):
    with mock.patch.object(versions, "current", return_value={"XLA_FLAGS": ""}):
      self.assertEqual(
        versions.changes({"XLA_FLAGS": "--a"}), "XLA_FLAGS --a (now unset)"
      )

  def test_differing(self):
    found = {"a": "1", "b": "1"}, {"a": "1"}, {"b": "2", "c": "3"}
    self.assertEqual(versions.differing(*found), ["b"])
    self.assertEmpty(versions.differing(*found[:2]))


if __name__ == "__main__":
  absltest.main()
