"""The committed register is what the studies declare."""

import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest

from experiments import catalog, registered
from tests.experiments.lab.small_study import STUDY


class RegisteredTest(absltest.TestCase):
  def test_is_what_the_studies_declare(self):
    self.assertEqual(
      registered.PAGE.read_text(),
      registered.text(),
      "run `python -m experiments.registered`",
    )

  def test_writes_the_page(self):
    folder = self.enter_context(tempfile.TemporaryDirectory())
    page = pathlib.Path(folder, "REGISTERED.md")
    entries = {"small": catalog.Entry("small", ("--study=x",))}
    with (
      mock.patch.object(registered, "PAGE", page),
      mock.patch.object(catalog, "ENTRIES", entries),
      mock.patch.object(catalog, "declared", return_value=STUDY),
    ):
      registered.main(["registered"])
      self.assertEqual(page.read_text(), registered.text())
    self.assertIn(
      "`python -m experiments.small --study=x --confirm`, seeds 100 to 109",
      page.read_text(),
    )

  def test_takes_no_names(self):
    with self.assertRaisesRegex(SystemExit, "Not a flag: moons. See --help."):
      registered.main(["registered", "moons"])


if __name__ == "__main__":
  absltest.main()
