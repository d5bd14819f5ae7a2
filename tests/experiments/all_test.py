"""The table of all studies, made of what they left."""

import pathlib
import re
import tempfile
from unittest import mock

from absl import flags
from absl.testing import absltest, flagsaver

from experiments import all as suite

ROOT = pathlib.Path(__file__).parents[2]

FINDING = {
  "claim": "batch norm | is faster",
  "source": "Someone 2015",
  "criterion": "ratio below 0.8",
  "number": "0.65 ± 0.05",
  "verdict": "CONFIRMED",
}


def summary(name, data):
  return {
    "study": name,
    "command": f"python -m experiments.{name}",
    "minutes": 1.25,
    "data": data,
    "findings": [FINDING, {**FINDING, "claim": "it ends lower"}],
    "figures": ["curves.png"],
  }


class SuiteTest(absltest.TestCase):
  def test_every_study_is_a_module_that_the_suite_runs(self):
    folder = ROOT / "experiments"
    modules = {path.stem for path in folder.glob("[!_]*.py")}
    modules |= {path.parent.name for path in folder.glob("*/__main__.py")}
    run = {entry.module for entry in suite.STUDIES.values()}
    self.assertEqual(run, modules - {"all"})

  def test_resumes_with_the_data_it_began_with(self):
    root = self.enter_context(tempfile.TemporaryDirectory()) + "/w"
    flags.FLAGS.mark_as_parsed()
    self.enter_context(mock.patch.object(suite.ending, "on_signals"))
    run = self.enter_context(mock.patch.object(suite, "run"))
    for given in ({"dataset": "digits"}, {"resume": True}):
      with flagsaver.flagsaver(workdir=root, **given):
        suite.main(["all"])
    self.assertEqual(run.call_args.args[0].dataset, "digits")

  def test_flags_of_a_study(self):
    def flags(name, dataset="auto", quick=False):
      return suite.arguments(name, dataset=dataset, quick=quick)

    self.assertEqual(flags("moons", "digits"), [])
    self.assertEqual(
      flags("position", "digits", quick=True), ["--quick", "--dataset=digits"]
    )
    self.assertIn("--seeds=5", flags("mnist"))
    self.assertEqual(flags("mnist", quick=True), ["--quick"])
    self.assertEqual(flags("transformer_depth"), ["--study=depth"])

  def test_replaces_the_table_of_its_data(self):
    docs = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    (docs / "studies.md").write_text("# Title\n")
    root = docs / "run"
    (root / "moons").mkdir(parents=True)
    (root / "position").mkdir()
    for name in ("moons", "position"):
      (root / name / "curves.png").write_bytes(name.encode())
    first = [summary("moons", None), summary("position", "digits")]
    first.append({**summary("transformer_depth", "pydoc"), "figures": []})
    suite.write_docs(first, root, docs)
    suite.write_docs([summary("position", "mnist")], root, docs)
    before = (docs / "studies.md").read_text()
    suite.write_docs(first, root, docs)
    self.assertEqual((docs / "studies.md").read_text(), before)

    self.assertStartsWith(before, "# Title\n\n## Results on digits and pydoc\n")
    self.assertIn("## Results on mnist", before)
    self.assertIn(r"batch norm \| is faster [Someone 2015]", before)
    for link in re.findall(r"\]\((studies/.*?)\)", before):
      self.assertTrue((docs / link).exists(), link)
    self.assertEqual(before.count("`python -m experiments.position`"), 2)
    self.assertEqual(before.count('<a id="digits-pydoc-position"></a>'), 1)
    self.assertIn("6 CONFIRMED, 0 REFUTED, 0 UNRESOLVED", before)


if __name__ == "__main__":
  absltest.main()
