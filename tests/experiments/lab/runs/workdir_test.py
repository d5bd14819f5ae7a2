"""Tests of the folder of a run."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile

from absl.testing import absltest, parameterized

from experiments.lab.runs import workdir
from experiments.lab.runs.workdir import WorkdirError


@dataclasses.dataclass(frozen=True)
class Config:
  norm: tuple[str, ...]
  epochs: int
  dataset: str


class WorkdirTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.enter_context(contextlib.chdir(self.root))

  def check(self, folder, resume):
    workdir.check(folder, study="mnist", resume=resume)

  def test_a_new_one_has_a_name_of_its_own(self):
    folders = [workdir.new("mnist") for _ in range(3)]
    self.assertLen(set(folders), 3)
    for folder in folders:
      self.assertTrue(folder.is_dir())
      self.assertEqual(folder.parent, pathlib.Path("runs/mnist"))

  @parameterized.product(resume=[True, False], exists=[True, False])
  def test_accepts_an_empty_one(self, resume, exists):
    if exists:
      (self.root / "w").mkdir()
      (self.root / "w" / ".config.json.123.tmp").touch()
    self.check("w", resume)
    self.assertEqual((self.root / "w").exists(), exists)

  def test_does_not_overwrite(self):
    (self.root / "w").mkdir()
    (self.root / "w" / "config.json").write_text("{}")
    with self.assertRaisesRegex(WorkdirError, "config.json. Add --resume"):
      self.check("w", resume=False)
    self.check("w", resume=True)

  def test_does_not_resume_what_is_no_run(self):
    (self.root / "w").mkdir()
    (self.root / "w" / "thesis.tex").touch()
    with self.assertRaisesRegex(WorkdirError, "thesis.tex, but no config.json"):
      self.check("w", resume=True)

  def test_does_not_take_a_file(self):
    (self.root / "w").touch()
    with self.assertRaisesRegex(WorkdirError, "not a folder"):
      self.check("w", resume=False)

  def test_names_the_newest_unfinished_run(self):
    with self.assertRaisesRegex(WorkdirError, "No unfinished run"):
      self.check(None, resume=True)
    runs = {
      "newest": ["config.json"],
      "older": ["config.json"],
      "newer_but_finished": ["config.json", "summary.json"],
    }
    for name, files in runs.items():
      folder = self.root / "runs" / "mnist" / name
      folder.mkdir(parents=True)
      for file in files:
        (folder / file).touch()
    os.utime(self.root / "runs" / "mnist" / "older" / "config.json", (0, 0))
    with self.assertRaisesRegex(
      WorkdirError, "needs --workdir.*--workdir=runs/mnist/newest$"
    ):
      self.check(None, resume=True)

  def test_tells_how_configurations_differ(self):
    recorded = {"norm": ["ln"], "epochs": 3, "dataset": "digits"}
    same = Config(norm=("ln",), epochs=3, dataset="digits")
    self.assertEqual(workdir.same_config(recorded, same), same)
    with self.assertRaises(WorkdirError) as caught:
      workdir.same_config(
        {**recorded, "gone": 1}, Config(("ln", "bn"), 3, "mnist")
      )
    message = str(caught.exception)
    self.assertIn("--norm: ['ln'] in the run, ['ln', 'bn'] now", message)
    self.assertIn("--dataset: digits in the run, mnist now", message)
    self.assertIn("--gone: 1 in the run, None now", message)
    self.assertNotIn("epochs", message)

  def test_auto_stays_what_it_stood_for(self):
    recorded = {"norm": ["ln"], "epochs": 3, "dataset": "digits"}
    config = workdir.same_config(recorded, Config(("ln",), 3, "auto"))
    self.assertEqual(config.dataset, "digits")

  @parameterized.parameters(True, False)
  def test_removes_what_was_never_used(self, measured):
    folder, made = workdir.prepare(None, "mnist")
    (folder / "config.json").touch()
    if measured:
      (folder / "parts").mkdir()
    workdir.remove_unused(folder, made)
    self.assertEqual((self.root / "runs").exists(), measured)

  def test_leaves_folders_of_the_user(self):
    (self.root / "mine").mkdir()
    folder, made = workdir.prepare("mine/a/b", "mnist")
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    workdir.remove_unused(folder, made)
    self.assertEqual([*(self.root / "mine").iterdir()], [])
    folder, made = workdir.prepare("mine", "mnist")
    (folder / "config.json").touch()
    workdir.remove_unused(folder, made)
    self.assertEqual([*(self.root / "mine").iterdir()], [])


if __name__ == "__main__":
  absltest.main()
