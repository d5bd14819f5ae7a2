"""Runs that are disturbed: what they say, and that nothing is lost."""

import contextlib
import io
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import tempfile
from unittest import mock

import jax
import numpy as np
from absl import logging
from absl.testing import absltest
from jax.experimental.compilation_cache import compilation_cache

from experiments.lab import options, study
from experiments.lab.errors import RefusedError
from experiments.lab.runs.workdir import Files
from experiments.lab.training.fit import Schedule
from experiments.lab.training.session import Column, Style
from tests.experiments import programs
from tests.experiments.lab.training import problems

# Small, but with all that has a state: two norms, one with batch statistics,
# two seeds and dropout.
MNIST = (
  *("--dataset=digits", "--norm=none,bn", "--seeds=2"),
  *("--epochs=6", "--hidden=256,256", "--dropout=0.2"),
)
EPOCH = 5


class ProgramTest(absltest.TestCase):
  """Programs that are disturbed, and that the next ones go on with."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    cache = {"NORMJAX_CACHE_DIR": str(self.root / "cache")}
    self.enter_context(mock.patch.dict(os.environ, cache))
    self.folder = self.root / "w"

  def start(self, folder=None):
    folder = folder or self.folder
    return programs.start("mnist", *MNIST, f"--workdir={folder}", "--resume")

  def checkpoints(self, norm):
    """Returns the checkpoints, the newest first."""
    found = self.folder.glob(f"checkpoints/{norm}/[0-9]*.npz")
    return sorted(found, key=lambda path: -int(path.stem))

  def assert_advises(self, output, cause):
    """The last three lines are cause, state and command."""
    first, second, third = output.splitlines()[-3:]
    self.assertRegex(first, cause)
    # What was printed was saved.
    lines = re.findall(r"(?m)^ +(\d+) .* % ", output.rpartition("seeds")[2])
    (saved,) = re.findall(r"^Saved: .*up to epoch (\d+)\. Continue", second)
    self.assertGreaterEqual(int(saved), max(map(int, lines), default=0))
    self.assertRegex(
      third,
      "^python -m experiments.mnist .*--seeds=2 .*--resume"
      f" --workdir={self.folder}$",
    )
    self.assertNotIn("Traceback", output)

  def test_a_run_survives_everything(self):
    programs.output(self.start(self.root / "whole"))

    programs.kill(self.start(), (self.folder / "config.json").exists)

    process = self.start()
    programs.wait(process, lambda: len(self.checkpoints("none")) == 2)
    other = programs.output(self.start(), 1)
    self.assertRegex(
      other,
      rf"(?m)^{self.folder} is in use by process {process.pid} on"
      rf" {platform.node()} since .*\. Wait until it ends.*\n$",
    )
    process.send_signal(signal.SIGINT)
    self.assert_advises(programs.output(process, 130), "^Interrupted.$")

    newest = self.checkpoints("none")[0]
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1  # In the middle of an array.
    newest.write_bytes(damaged)
    process = self.start()
    programs.wait(process, lambda: self.checkpoints("bn"))
    process.terminate()
    output = programs.output(process, 143)
    self.assertRegex(output, f"{newest} is damaged.*It is passed over")
    self.assertIn("Resuming after epoch", output)
    self.assert_advises(output, "^Terminated by another program")

    programs.output(self.start())
    numbers = programs.numbers(self.folder)
    self.assertLen([name for name in numbers if "checkpoints" in name], 4)
    self.assertEqual(numbers, programs.numbers(self.root / "whole"))

  def test_a_full_disk_and_one_that_cannot_be_written(self):
    mount = self.root / "mount"
    mount.mkdir()
    # A mount, because root may write to every folder.
    if _mount("-t", "tmpfs", "-o", "size=5m", "tmpfs", mount):
      self.skipTest("Only root can mount a small file system.")
    self.addCleanup(subprocess.run, ["umount", mount], check=True)
    self.folder = mount / "w"
    filler = mount / "filler"
    with contextlib.suppress(OSError):
      filler.write_bytes(bytes(2**23))
    self.assertEndsWith(
      programs.output(self.start(), 1),
      f"Nothing can be written to {self.folder}: No space left on device"
      f" ({self.folder}). Choose another folder with --workdir.\n",
    )
    self.assertFalse(self.folder.exists())
    filler.unlink()
    output = programs.output(self.start(), 1)
    self.assert_advises(output, r"^Stopped: No space left on device \(")
    self.assertEmpty([*self.folder.rglob(".incomplete*")])
    _mount("-o", "remount,ro", mount)
    self.assertEndsWith(
      programs.output(self.start(), 1),
      f"Nothing can be written to {self.folder}: Read-only file system"
      f" ({self.folder}/.lock). Choose another folder with --workdir.\n",
    )
    _mount("-o", "remount,rw,size=40m", mount)
    self.assertIn("Resuming after epoch", programs.output(self.start()))
    # What is finished can be read.
    _mount("-o", "remount,ro", mount)
    self.assertIn("is finished", programs.output(self.start()))

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
      r"SIGTERM\)\.\nFinished: 0 of 2 studies; what others .* Continue with:"
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
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    # Every run compiles the same functions.
    for name, value in (
      ("jax_compilation_cache_dir", str(self.root / "cache")),
      ("jax_persistent_cache_min_compile_time_secs", 0.0),
    ):
      self.addCleanup(jax.config.update, name, getattr(jax.config, name))
      jax.config.update(name, value)
    # JAX opens the cache once.
    compilation_cache.reset_cache()
    self.addCleanup(compilation_cache.reset_cache)

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
    for number in range(100):
      source = whole if number % 2 else self.root / "interrupted"
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
        noticed += len(logs.output) > 1
        if source == whole and flipped.name == "metrics.jsonl":
          self.assertLen(logs.output, 2)
          continue
        self.assertEqual(
          programs.results(self.root / name), programs.results(whole)
        )
      shutil.rmtree(self.root / name)
    self.assertGreater(noticed, 25)


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
