"""What is released, and that all files which name versions name the same."""

import pathlib
import re
import tomllib

from absl.testing import absltest

import normjax

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


class VersionTest(absltest.TestCase):
  def test_is_one_that_can_be_released_and_ordered(self):
    self.assertRegex(normjax.__version__, r"^\d+\.\d+\.\d+(\.dev\d+|rc\d+)?$")

  def test_is_written_in_one_place(self):
    self.assertNotIn("version", PROJECT["project"])
    self.assertIn("version", PROJECT["project"]["dynamic"])
    path = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    # Not from importlib.metadata, which knows only what is installed.
    written = r'^__version__ = "(.*)"$'
    found = re.findall(written, path.read_text(), re.MULTILINE)
    self.assertEqual(found, [normjax.__version__])


if __name__ == "__main__":
  absltest.main()
