"""The suite: what it runs, and what it makes of what the studies left."""

import contextlib
import io
import pathlib
import re
import tempfile
from unittest import mock

from absl import flags
from absl.testing import absltest, flagsaver

from experiments import all as suite
from experiments import catalog
from experiments.lab.runs import files
from tests.experiments.lab import small_study


class SuiteTest(absltest.TestCase):
  def test_resumes_with_the_data_it_began_with(self):
    root = self.enter_context(tempfile.TemporaryDirectory()) + "/w"
    flags.FLAGS.mark_as_parsed()
    self.enter_context(mock.patch.object(suite.ending, "on_signals"))
    run = self.enter_context(mock.patch.object(suite, "run"))
    for given in ({"dataset": "digits", "text": "pydoc"}, {"resume": True}):
      with flagsaver.flagsaver(workdir=root, **given):
        suite.main(["all"])
    config = run.call_args.args[0]
    self.assertEqual((config.dataset, config.text), ("digits", "pydoc"))

  def test_applications_stand_for_all_of_them(self):
    root = self.enter_context(tempfile.TemporaryDirectory()) + "/w"
    flags.FLAGS.mark_as_parsed()
    names = self.enter_context(
      mock.patch.object(catalog, "APPLICATIONS", ("position", "mnist"))
    )
    self.enter_context(mock.patch.object(suite.ending, "on_signals"))
    run = self.enter_context(mock.patch.object(suite, "run"))
    with flagsaver.flagsaver(workdir=root, studies=["moons", "applications"]):
      suite.main(["all"])
    self.assertEqual(run.call_args.args[0].studies, ("moons", *names))

  def test_gives_each_study_its_data(self):
    execute = self.enter_context(
      mock.patch.object(suite, "execute", return_value="")
    )
    self.enter_context(mock.patch.object(suite, "collect"))
    names = ("moons", "position", "transformer_depth")
    config = suite.Config("digits", "pydoc", False, True, False, names)
    suite.run(config, pathlib.Path("w"))
    given = {call.args[0]: call.args[2] for call in execute.call_args_list}
    self.assertEqual(
      given,
      {
        "moons": ["--confirm"],
        "position": ["--confirm", "--dataset=digits"],
        "transformer_depth": ["--study=depth", "--confirm", "--dataset=pydoc"],
      },
    )


class CollectTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    entries = {"small_study": catalog.Entry("small_study")}
    self.enter_context(mock.patch.object(catalog, "ENTRIES", entries))
    self.enter_context(
      mock.patch.object(catalog, "declared", return_value=small_study.STUDY)
    )
    self.add = self.enter_context(
      mock.patch.object(suite.results, "add", return_value=self.root)
    )
    self.write = self.enter_context(
      mock.patch.object(suite.results, "write_pages")
    )

  def collect(self, quick=False, confirm=False):
    small_study.summary(self.root / "small_study")
    return self.collected(quick, confirm, False)

  def collected(self, *presets):
    config = suite.Config("digits", "auto", *presets, ("small_study",))
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
      suite.collect(config, self.root)
    return output.getvalue()

  def test_a_heading_for_applications(self):
    heading = "\nApplications; their models are in docs/applications.md\n"
    self.assertNotIn(heading, self.collect())
    with mock.patch.object(catalog, "APPLICATIONS", ("small_study",)):
      output = self.collected(False, False, False)
    self.assertIn(f"{heading}\nsmall_study\n", output)

  def test_prints_verdicts_and_writes_a_page(self):
    output = self.collect()
    self.assertIn("\nsmall_study\nCONFIRMED: after 2 steps", output)
    self.assertIn("1 of 1 studies finished, 0 minutes", output)
    page = (self.root / "studies.md").read_text()
    links = re.findall(r"\]\((.*?)\)", page)
    self.assertLen(links, 2)
    for link in links:
      self.assertTrue((self.root / link).exists(), link)
    self.add.assert_not_called()
    self.write.assert_not_called()

  def test_adds_what_was_registered(self):
    output = self.collect(confirm=True)
    self.add.assert_called_once_with(self.root / "small_study")
    self.write.assert_called_once_with()
    self.assertIn("Wrote docs/studies.md and the table in README.md", output)

  def test_one_that_is_refused_does_not_keep_the_others_out(self):
    self.add.side_effect = suite.RefusedError("at the edge")
    with self.assertRaisesRegex(suite.RefusedError, "at the edge"):
      self.collect(confirm=True)
    self.write.assert_called_once_with()

  def test_adds_variations(self):
    found = [{"change": {}, "rates": {}, "findings": []}]
    small_study.summary(self.root / "small_study", {"variations": found})
    for name in ("default", "gain=0.1"):
      files.write_record(self.root / "small_study" / name / "summary.json", {})
    output = self.collected(False, False, True)
    self.assertIn("| setting", output)
    self.assertEqual(
      [call.args[0].name for call in self.add.call_args_list],
      ["default", "gain=0.1"],
    )
    self.assertFalse((self.root / "studies.md").exists())

  def test_adds_nothing_of_a_quick_run(self):
    self.collect(quick=True, confirm=True)
    self.add.assert_not_called()
    self.write.assert_not_called()


if __name__ == "__main__":
  absltest.main()
