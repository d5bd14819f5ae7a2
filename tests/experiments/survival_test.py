"""Runs that are disturbed: what they say, and that nothing is lost."""

import contextlib
import io
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import tempfile

import jax
import numpy as np
from absl import logging
from absl.testing import absltest, parameterized

from experiments.lab import options, study
from experiments.lab.errors import RefusedError
from experiments.lab.runs.workdir import Files
from experiments.lab.training.fit import Schedule
from experiments.lab.training.session import Column, Style
from tests.experiments import programs
from tests.experiments.lab.training import problems

MNIST = (
  *("--dataset=digits", "--norm=none,bn", "--seeds=2"),
  *("--epochs=6", "--hidden=256,256"),
)
EPOCH = 5


def setUpModule():
  jax.config.update("jax_disable_most_optimizations", True)


def tearDownModule():
  jax.config.update("jax_disable_most_optimizations", False)


def setUpCache(case):  # noqa: N802
  folder = case.enterClassContext(tempfile.TemporaryDirectory())
  os.environ["NORMJAX_CACHE_DIR"] = folder
  case.addClassCleanup(os.environ.pop, "NORMJAX_CACHE_DIR")


class ProgramTest(parameterized.TestCase):
  """One program that is disturbed, and a whole run to compare it with."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    setUpCache(cls)
    root = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.whole = pathlib.Path(root, "whole")
    programs.output(cls.start(cls.whole))

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.folder = self.root / "w"

  @staticmethod
  def start(folder, *arguments):
    return programs.start(
      "mnist", *MNIST, f"--workdir={folder}", "--resume", *arguments
    )

  def assert_goes_on(self):
    """Resumes, and compares with the run that was not disturbed."""
    output = programs.output(self.start(self.folder))
    self.assertEqual(
      programs.numbers(self.folder), programs.numbers(self.whole)
    )
    return output

  def assert_advises(self, output, cause):
    """The last three lines are cause, state and command."""
    first, second, third = output.splitlines()[-3:]
    self.assertRegex(first, cause)
    # What was printed was saved.
    epochs = programs.evaluations(self.folder)
    self.assertRegex(second, rf"^Saved: none up to epoch {epochs}\b")
    self.assertRegex(
      third,
      "^python -m experiments.mnist .*--seeds=2 .*--resume"
      f" --workdir={self.folder}$",
    )
    self.assertNotIn("Traceback", output)

  @parameterized.parameters(
    (signal.SIGINT, "^Interrupted.$", 130),
    (signal.SIGTERM, "^Terminated by another program", 143),
  )
  def test_signals(self, number, cause, status):
    process = self.start(self.folder)
    programs.wait(process, lambda: programs.evaluations(self.folder) >= 2)
    process.send_signal(number)
    self.assert_advises(programs.output(process, status), cause)
    self.assertIn("Resuming after epoch", self.assert_goes_on())

  def test_a_full_disk_and_one_that_cannot_be_written(self):
    mount = self.root / "mount"
    mount.mkdir()
    # Folders of a mount, because root may write everywhere else.
    if _mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", mount):
      self.skipTest("Only root can mount a small file system.")
    self.addCleanup(subprocess.run, ["umount", mount], check=True)
    self.folder = mount / "w"
    filler = mount / "filler"
    filler.write_bytes(bytes(3 * 2**20))
    output = programs.output(self.start(self.folder), 1)
    self.assert_advises(output, r"^Stopped: No space left on device \(")
    self.assertEmpty([*self.folder.rglob(".incomplete*")])
    filler.unlink()
    _mount("-o", "remount,ro", mount)
    output = programs.output(self.start(self.folder), 1)
    self.assertEqual(
      output,
      f"Nothing can be written to {self.folder}: Read-only file system"
      f" ({self.folder}/.lock). Choose another folder with --workdir.\n",
    )
    _mount("-o", "remount,rw,size=40m", mount)
    self.assertIn("Resuming after epoch", self.assert_goes_on())
    # What is finished can be read.
    _mount("-o", "remount,ro", mount)
    self.assertIn("is finished", programs.output(self.start(self.folder)))

  def test_a_second_process_is_refused(self):
    process = self.start(self.folder)
    lock = self.folder / ".lock"
    programs.wait(process, lambda: lock.exists() and lock.read_text())
    output = programs.output(self.start(self.folder), 1)
    self.assertRegex(
      output,
      rf"^{self.folder} is in use by process {process.pid} on"
      rf" {platform.node()} since .*\. Wait until it ends",
    )
    self.assertEqual(output.count("\n"), 1)
    programs.output(process)
    self.assert_goes_on()

  def test_a_damaged_checkpoint(self):
    programs.kill(
      self.start(self.folder),
      lambda: len([*self.folder.glob("checkpoints/none/[0-9]*")]) == 2,
    )
    newest = max(
      self.folder.glob("checkpoints/none/*.npz"),
      key=lambda path: int(path.stem),
    )
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1  # In the middle of an array.
    newest.write_bytes(damaged)
    self.assertRegex(
      self.assert_goes_on(), f"{newest} is damaged.*continues from before"
    )

  def test_all_studies_end_together(self):
    arguments = "--quick", "--studies=mnist,moons", f"--workdir={self.folder}"
    process = programs.start("all", *arguments)
    lock = self.folder / "mnist" / ".lock"
    programs.wait(process, lambda: lock.exists() and lock.read_text())
    child = int(lock.read_text().split()[1])
    process.terminate()
    output = programs.output(process, 143)
    self.assertRegex(
      output,
      r"SIGTERM\)\.\nSaved: 0 of 2 studies, and parts of others. Continue with:"
      rf"\npython -m experiments.all .*--resume --workdir={self.folder}\n$",
    )
    with self.assertRaises(ProcessLookupError):
      os.kill(child, 0)
    self.assertFalse((self.folder / "moons").exists())


def _mount(*arguments):
  """Returns an exit status other than 0 if that is not permitted."""
  return subprocess.run(
    ["mount", *arguments], check=False, stderr=subprocess.DEVNULL
  ).returncode


def measure(config, run, stop=False):
  """A study with parts and a training."""
  total = run.part("sum", lambda: {"values": np.arange(9.0) ** config.seed})
  made = problems.engine("bn")
  with run.trainings(["bn"]) as trainings:
    progress = trainings.fit(
      "bn",
      made,
      seeds=config.seed_numbers,
      validation=problems.examples(13, seed=1),
      schedule=Schedule(EPOCH, EPOCH * (3 if stop else 4)),
      style=Style([Column("loss", "val_loss")], "epoch", EPOCH),
    )
  if stop:
    raise KeyboardInterrupt
  run.figure("curve", _Figure())
  return {
    "sum": total["values"],
    "loss": made.evaluate(
      progress.state.variables, problems.examples(13, seed=2)
    )["loss"],
  }


class _Figure:
  def savefig(self, file, **options):
    file.write(b"picture")


class FlippedBitsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    setUpCache(type(self))
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def run_(self, name, stop=False):
    with contextlib.redirect_stdout(io.StringIO()):
      return study.run(
        "name",
        lambda config, run: measure(config, run, stop),
        options.Config(seeds=2),
        Files(str(self.root / name), resume=True),
        command="command",
      )

  def test_are_noticed_or_harmless(self):
    whole = self.root / "whole"
    self.run_("whole")
    with self.assertRaises(KeyboardInterrupt):
      self.run_("interrupted", stop=True)
    rng = np.random.default_rng(0)
    noticed = 0
    for number in range(200):
      # Whether it was finished or interrupted.
      source = whole if number % 4 == 0 else self.root / "interrupted"
      name = f"flipped{number}"
      shutil.copytree(source, self.root / name)
      flipped = _flip(self.root / name, rng)
      with self.subTest(str(flipped)):
        with self.assertLogs(logger="absl", level="WARNING") as logs:
          logging.warning("One at least.")
          try:
            self.run_(name)
          except RefusedError as error:
            self.assertRegex(str(error), "config.json is damaged")
            noticed += 1
            continue
        if len(logs.output) > 1:
          noticed += 1
          if source == whole:
            continue
        self.assertEqual(
          programs.results(self.root / name), programs.results(whole)
        )
      shutil.rmtree(self.root / name)
    self.assertGreater(noticed, 50)


def _flip(folder, rng):
  """Flips a bit of a file, both at random; returns the file's path."""
  paths = sorted(path for path in folder.rglob("*") if path.is_file())
  path = paths[rng.integers(len(paths))]
  content = bytearray(path.read_bytes())
  if content:
    position = rng.integers(8 * len(content))
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)
  return path.relative_to(folder)


if __name__ == "__main__":
  absltest.main()
