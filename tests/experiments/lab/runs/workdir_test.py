"""Tests of the folder of a run."""

import contextlib
import dataclasses
import os
import pathlib
import platform
import tempfile

from absl.testing import absltest, parameterized

from experiments.lab.errors import RefusedError
from experiments.lab.runs import files, workdir
from experiments.lab.runs.workdir import Files, WorkdirError


@dataclasses.dataclass(frozen=True)
class Config:
  norm: tuple[str, ...]
  epochs: int
  dataset: str


CONFIG = Config(("ln",), 3, "digits")


class WorkdirTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.enter_context(contextlib.chdir(self.root))

  def opened(self, folder, resume=False):
    return workdir.opened("mnist", CONFIG, Files(folder, resume), "command")

  def open(self, folder, resume=False):
    """Opens the folder, reads the settings, closes and returns it."""
    with self.opened(folder, resume) as found:
      workdir.recorded(found, "mnist", CONFIG, "command")
      return found

  def test_a_new_one_has_a_name_of_its_own(self):
    folders = [self.open(None) for _ in range(3)]
    self.assertLen(set(folders), 3)
    for folder in folders:
      self.assertTrue((folder / "config.json").exists())
      self.assertEqual(folder.parent, pathlib.Path("runs/mnist"))

  @parameterized.product(resume=[True, False], exists=[True, False])
  def test_accepts_an_empty_one(self, resume, exists):
    if exists:
      (self.root / "w").mkdir()
      (self.root / "w" / ".incomplete.123.config.json").touch()
    self.open("w", resume)
    names = {path.name for path in (self.root / "w").iterdir()}
    self.assertEqual(names, {"config.json", ".lock"})

  def test_removes_what_a_killed_run_was_writing(self):
    folder = self.open("w")
    left = [
      folder / name / ".incomplete.1.5.npz"
      for name in (".", "parts", "checkpoints/ln")
    ]
    for path in left:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.touch()
    self.open("w", resume=True)
    self.assertEmpty([path for path in left if path.exists()])

  def test_does_not_overwrite(self):
    self.open("w")
    with self.assertRaisesRegex(WorkdirError, "config.json. Add --resume"):
      self.open("w")
    self.open("w", resume=True)

  def test_does_not_resume_what_is_no_run(self):
    (self.root / "w").mkdir()
    (self.root / "w" / "thesis.tex").touch()
    with self.assertRaisesRegex(WorkdirError, "thesis.tex, but no config.json"):
      self.open("w", resume=True)

  def test_does_not_take_a_file(self):
    (self.root / "w").touch()
    with self.assertRaisesRegex(WorkdirError, "not a folder"):
      self.open("w")

  def test_names_the_newest_unfinished_run(self):
    with self.assertRaisesRegex(WorkdirError, "No unfinished run"):
      self.open(None, resume=True)
    runs = {
      "newest": ["config.json"],
      "older": ["config.json"],
      "newer_but_finished": ["config.json", "summary.json"],
    }
    for name, written in runs.items():
      folder = self.root / "runs" / "mnist" / name
      folder.mkdir(parents=True)
      for file in written:
        (folder / file).touch()
    os.utime(self.root / "runs" / "mnist" / "older" / "config.json", (0, 0))
    with self.assertRaisesRegex(
      WorkdirError, "needs --workdir.*--workdir=runs/mnist/newest$"
    ):
      self.open(None, resume=True)

  def test_tells_how_configurations_differ(self):
    recorded = {"norm": ["ln"], "epochs": 3, "dataset": "digits"}
    same = Config(norm=("ln",), epochs=3, dataset="digits")
    self.assertEqual(workdir.same_config(recorded, same, "command"), same)
    with self.assertRaises(WorkdirError) as caught:
      workdir.same_config(
        {**recorded, "gone": 1}, Config(("ln", "bn"), 3, "mnist"), "command"
      )
    message = str(caught.exception)
    self.assertIn("--norm: ['ln'] in the run, ['ln', 'bn'] now", message)
    self.assertIn("--dataset: digits in the run, mnist now", message)
    self.assertIn("--gone: 1 in the run, None now", message)
    self.assertNotIn("epochs", message)
    self.assertEndsWith(message, "\ncommand")

  def test_auto_stays_what_it_stood_for(self):
    recorded = {"norm": ["ln"], "epochs": 3, "dataset": "digits"}
    config = workdir.same_config(
      recorded, Config(("ln",), 3, "auto"), "command"
    )
    self.assertEqual(config.dataset, "digits")

  def refuse(self, folder, measured=False):
    with self.assertRaises(RefusedError), self.opened(folder) as found:
      if measured:
        (found / "parts").mkdir()
      raise RefusedError("No.")

  @parameterized.parameters(True, False)
  def test_removes_what_was_never_used(self, measured):
    self.refuse(None, measured)
    self.assertEqual((self.root / "runs").exists(), measured)

  def test_leaves_the_run_that_it_refuses_to_resume(self):
    path = self.open("w") / "config.json"
    path.write_text("garbage")
    with self.assertRaisesRegex(WorkdirError, "is damaged"):
      self.open("w", resume=True)
    self.assertEqual(path.read_text(), "garbage")

  def test_leaves_folders_of_the_user(self):
    (self.root / "mine").mkdir()
    for folder in ("mine/a/b", "mine"):
      self.refuse(folder)
      self.assertEqual([*(self.root / "mine").iterdir()], [])

  def test_is_for_one_process_at_a_time(self):
    with (
      self.opened("w"),
      self.assertRaisesRegex(
        WorkdirError,
        rf"w is in use by process {os.getpid()} on {platform.node()} since 20",
      ),
    ):
      self.open("w", resume=True)
    self.open("w", resume=True)

  def test_the_lock_of_a_dead_process_does_not_count(self):
    (self.root / "w").mkdir()
    (self.root / "w" / ".lock").write_text("process 1 on elsewhere since 1999")
    self.open("w")

  def test_a_finished_run_is_not_locked(self):
    files.write_record(self.open("w") / "summary.json", {})
    with self.opened("w", resume=True):
      self.open("w", resume=True)

  def test_a_summary_is_kept_while_the_settings_are_unknown(self):
    folder = self.open("w")
    for name in ("config.json", "summary.json"):
      (folder / name).write_text("{}")
    with self.assertRaisesRegex(WorkdirError, "damaged, or of an earlier vers"):
      self.open("w", resume=True)
    self.assertTrue((folder / "summary.json").exists())

  def test_any_name_may_exist(self):
    (self.root / "runs" / "mnist" / "new").mkdir(parents=True)
    self.open(None)

  @parameterized.parameters("file/w", "/proc/w", 300 * "w")
  def test_says_why_it_cannot_be_written(self, folder):
    (self.root / "file").touch()
    with self.assertRaisesRegex(
      WorkdirError, rf"Nothing can be written to {folder}: .*\. Choose another"
    ):
      self.open(folder)


if __name__ == "__main__":
  absltest.main()
