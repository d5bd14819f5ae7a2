"""Results of the repository: judged again, added, compared, written."""

import contextlib
import dataclasses
import io
import pathlib
import re
import subprocess
import tempfile
from unittest import mock

from absl.testing import absltest

from experiments import catalog, results
from experiments.lab import options, pages, replications
from experiments.lab import results as recorded
from experiments.lab.claims import Effect
from experiments.lab.errors import RefusedError
from experiments.lab.runs import files
from tests.experiments.lab import small_study
from tests.experiments.lab.small_study import EQUAL, LOWER, STUDY


def git(*arguments):
  return subprocess.run(
    ["git", *arguments], cwd=results.ROOT, capture_output=True, text=True
  )


class CommittedTest(absltest.TestCase):
  def test_are_what_the_studies_say_of_their_numbers(self):
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEmpty(results.judge_again())

  def test_hold_what_is_declared(self):
    """No claim that was registered is left out."""
    for name, records in recorded.read(catalog.ENTRIES).items():
      study = catalog.declared(name)
      for data, record in records.items():
        for declared, entry, key in (
          (study.claims, "findings", "claim"),
          (study.checks, "checks", "check"),
        ):
          self.assertCountEqual(
            [one.name for one in declared],
            [found[key] for found in record[entry]],
            f"{name} on {data}",
          )

  def test_were_registered_before(self):
    """The register in the commit of a run has its claims and analyses.

    Sentences may be put in better words later; what is measured, how it is
    analysed and its margin may not change. The commit is in the history.
    """
    missing = set()
    for name, records in recorded.read(catalog.ENTRIES).items():
      declared = {claim.name: claim for claim in catalog.declared(name).claims}
      repeated = replications.read(name)
      for data, record in (
        *records.items(),
        *(item for again in repeated.values() for item in again.items()),
      ):
        commit = record["machine"]["commit"]
        shown = git("show", f"{commit}:experiments/REGISTERED.md")
        ancestor = git("merge-base", "--is-ancestor", commit, "HEAD")
        if shown.returncode or ancestor.returncode:
          missing.add(commit)
          continue
        sections = shown.stdout.split("\n## ")
        (page,) = (text for text in sections if text.startswith(f"{name}\n"))
        for finding in record["findings"]:
          with self.subTest(f"{name}/{finding['claim']} on {data}"):
            entries = page.split("\n- **")
            (entry,) = (
              text
              for text in entries
              if text.startswith(f"{finding['claim']}**")
            )
            claim = declared[finding["claim"]]
            self.assertIn(
              f"  - Quantity: {claim.measured}; {claim.analysis}; to be"
              f" {finding['rule']}.\n",
              entry,
            )

    if missing:
      text = f"the commits {', '.join(missing)} are not in this history"
      whole = git("rev-parse", "--is-shallow-repository").stdout == "false\n"
      self.assertFalse(whole, text)
      self.skipTest(text)  # A shallow clone, or no clone.

  def test_are_on_the_pages(self):
    for page, text in results.written().items():
      self.assertEqual(
        page.read_text(), text, "run `python -m experiments.results --write`"
      )


class ProgramTest(absltest.TestCase):
  """On a copy of the repository with one small study."""

  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(folder, "clone")
    (self.root / "docs").mkdir(parents=True)
    for page in ("docs/studies.md", "README.md"):
      (self.root / page).write_text(f"# T\n{pages.START}{pages.END}")
    self.runs = pathlib.Path(folder, "runs")
    self.entries = {"small_study": catalog.Entry("small_study")}
    self.enter_context(mock.patch.object(catalog, "ENTRIES", self.entries))
    self.declare(STUDY)

  def declare(self, study):
    self.enter_context(
      mock.patch.object(catalog, "declared", return_value=study)
    )

  def declare_a_bolder_claim(self):
    """Declares a margin that the runs do not reach."""
    bolder = dataclasses.replace(LOWER, criterion=Effect(-1.5))
    self.declare(dataclasses.replace(STUDY, claims=(bolder, EQUAL)))

  def run_(self, name="run", **settings):
    """Runs the study; returns its folder."""
    small_study.summary(self.runs / name, **settings)
    return self.runs / name

  def judge_again(self):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
      changes = results.judge_again(self.root)
    return changes, output.getvalue()

  def test_adds_a_run_with_its_figures(self):
    folder = self.run_()
    path = results.add(folder, self.root)
    self.assertEqual(path, self.root / "results/small_study/digits.json")
    figure = self.root / "docs/studies/digits/small_study_losses.png"
    self.assertEqual(figure.read_bytes(), (folder / "losses.png").read_bytes())
    results.add(self.run_("other", dataset="mnist"), self.root)
    changes, output = self.judge_again()
    self.assertEmpty(changes)
    self.assertEqual(
      re.findall(r"^small_study, .*", output, re.MULTILINE),
      ["small_study, digits", "small_study, mnist"],
    )
    self.assertEqual(output.count("CONFIRMED: after 2 steps"), 2)
    self.assertEqual(output.count("HOLDS: the norm of nothing"), 2)

  def test_adds_nothing_of_other_runs(self):
    pilot = self.run_("pilot", seed=0)
    changed = self.run_("changed")
    (changed / "losses.png").write_bytes(b"another")
    for folder, message in (
      (pilot, "began at seed 0.* with --confirm"),
      (changed, "losses.png is not as the run drew it"),
      (self.runs / "none", "none holds no finished run. Give the folder"),
    ):
      with self.assertRaisesRegex(RefusedError, message):
        results.add(folder, self.root)
    self.assertFalse((self.root / "results").exists())
    del self.entries["small_study"]
    with self.assertRaisesRegex(
      RefusedError, "a run of small_study, which has"
    ):
      results.add(pilot, self.root)

  def test_the_choice_among_several_studies_is_part_of_the_name(self):
    folder = self.run_()
    summary = files.read_record(folder / "summary.json")
    summary["config"]["study"] = "depth"
    files.write_record(folder / "summary.json", summary)
    self.entries["small_study_depth"] = catalog.Entry("small_study")
    name, _ = results.finished(folder)
    self.assertEqual(name, "small_study_depth")

  def test_adds_and_judges_variations(self):
    folder = self.run_()
    results.add(folder, self.root)
    self.assertEqual(results.runs(folder), [folder])
    summary = files.read_record(folder / "summary.json")
    summary["study"] = "small_study_sensitivity"
    summary["config"] |= {"seeds": options.SENSITIVITY_SEEDS, "gain": 0.1}
    summary["change"] = {"gain": 0.1}
    # The whole is not finished yet.
    files.write_record(self.runs / "varied/gain=0.1/summary.json", summary)
    (self.runs / "varied/steps=1/parts").mkdir(parents=True)
    (finished,) = results.runs(self.runs / "varied")
    path = results.add(finished, self.root)
    self.assertEqual(
      path, self.root / "results/small_study/sensitivity/digits/gain=0.1.json"
    )
    changes, output = self.judge_again()
    self.assertEmpty(changes)
    self.assertIn("small_study sensitivity, digits\n| setting", output)
    results.write_pages(self.root)
    page = (self.root / "docs/studies.md").read_text()
    self.assertIn("Other settings", page)
    self.assertIn("\nNot measured yet: default, steps=1, steps=4.\n", page)
    self.declare_a_bolder_claim()
    changes, _ = self.judge_again()
    self.assertTrue(any("digits (gain=0.1)" in change for change in changes))

  def test_keeps_a_run_of_another_device_beside_the_committed_one(self):
    committed = results.add(self.run_(), self.root)
    before = committed.read_bytes()
    folder = self.run_("gpu", effect=-1.0)
    with self.assertRaisesRegex(RefusedError, "other settings"):
      results.replicate(folder, self.root)
    folder = self.run_("again")
    with self.assertRaisesRegex(RefusedError, "nothing new"):
      results.replicate(folder, self.root)
    summary = files.read_record(folder / "summary.json")
    summary["versions"] |= {"backend": "gpu", "jaxlib": "9.0"}
    files.write_record(folder / "summary.json", summary)
    path = results.replicate(folder, self.root)
    self.assertEqual(
      path,
      self.root / "results/small_study/replications/gpu-jaxlib-9.0/digits.json",
    )
    self.assertEqual(committed.read_bytes(), before)
    changes, output = self.judge_again()
    self.assertEmpty(changes)
    self.assertIn("\nsmall_study, digits, gpu-jaxlib-9.0\n", output)
    results.write_pages(self.root)
    page = (self.root / "docs/studies.md").read_text()
    self.assertIn("gpu-jaxlib-9.0: the verdict is the same for 2 of 2", page)
    self.declare_a_bolder_claim()
    changes, _ = self.judge_again()
    self.assertTrue(any("(gpu-jaxlib-9.0)" in change for change in changes))

  def test_a_changed_margin_is_an_error(self):
    results.add(self.run_(), self.root)
    self.declare_a_bolder_claim()
    changes, output = self.judge_again()
    self.assertIn("SMALLER THAN CLAIMED: after", output)
    self.assertIn("small_study/lower on digits: rule is below", changes[1])

  def test_what_a_change_makes_of_verdicts_can_be_written(self):
    path = results.add(self.run_(), self.root)
    self.declare_a_bolder_claim()
    with contextlib.redirect_stdout(io.StringIO()):
      changes = results.judge_again(self.root, write=True)
    self.assertNotEmpty(changes)
    self.assertIn("below -1.5 nats", path.read_text())
    changes, _ = self.judge_again()
    self.assertEmpty(changes)

  def test_compares_a_run_with_the_record(self):
    folder = self.run_()
    with self.assertRaisesRegex(RefusedError, "nothing of small_study on digi"):
      results.compare(folder, self.root)
    results.add(folder, self.root)
    shown = results.compare(self.run_("again", effect=-1.0), self.root)
    self.assertIn("CONFIRMED -> REFUTED, intervals apart", shown)

  def test_writes_pages_whose_figures_exist(self):
    results.add(self.run_(), self.root)
    results.add(self.run_("other", dataset="mnist"), self.root)
    results.write_pages(self.root)
    page = self.root / "docs/studies.md"
    links = re.findall(r"\]\((?!#)(.*?)\)", page.read_text())
    self.assertLen(links, 4)
    for link in links:
      self.assertTrue((page.parent / link).exists(), link)
    self.assertIn("CONFIRMED on 2 of 2", (self.root / "README.md").read_text())
    for path, text in results.written(self.root).items():
      self.assertEqual(path.read_text(), text)

  def test_names_demonstrations(self):
    self.declare(dataclasses.replace(STUDY, demonstration="no data"))
    results.add(self.run_(), self.root)
    results.write_pages(self.root)
    page = (self.root / "docs/studies.md").read_text()
    self.assertIn("0 claims, 0 verdicts", page)
    self.assertIn("does not count: no data.", page)


if __name__ == "__main__":
  absltest.main()
