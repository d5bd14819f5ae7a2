"""What studies share: flags, folder, parts, summary."""

import contextlib
import dataclasses
import errno
import io
import pathlib
import re
import subprocess
import sys
import tempfile
from unittest import mock

import jax
import numpy as np
from absl import flags
from absl.testing import absltest, parameterized

from experiments.lab import figures, options, parsers, study
from experiments.lab.claims import Below, Check, Claim, Ratio
from experiments.lab.errors import RefusedError
from experiments.lab.runs import files, versions
from experiments.lab.runs.ending import StoppedError
from experiments.lab.runs.workdir import Files, WorkdirError
from tests.experiments import programs

CLAIM = Claim(
  "works",
  "after {steps} steps, it is below {margin} times",
  source="Someone 2015",
  quantity="loss",
  samples=("with", "without"),
  analysis=Ratio(),
  criterion=Below(0.9),
  why="a tenth is a difference",
)
CHECK = Check("exact", "it is exact", "ours", "error", Below(1e-6))


@dataclasses.dataclass(frozen=True)
class Config(options.ImageConfig):
  norm: tuple[str, ...] = options.option(
    ("none", "bn"), "Norms.", parsers.NORMS
  )
  steps: int = options.option(100, "Steps.", parsers.COUNT)


def parse(*argv):
  values = flags.FlagValues()
  read = options.define(
    Config(),
    {"steps": 5, "seeds": 2},
    {"steps": 1000},
    {"seed": 100, "seeds": 20},
    {"steps": (50,)},
    values,
  )
  values(["study", *argv])
  return read()


def run(measure, config=Config(), **where):
  output = io.StringIO()
  with contextlib.redirect_stdout(output):
    summary = study.run(
      "name", measure, config, Files(**where), command="command"
    )
  return summary, output.getvalue()


class FlagsTest(absltest.TestCase):
  def test_scales_are_defaults(self):
    self.assertEqual(parse(), (Config(), Files()))
    self.assertEqual(parse("--scale=full")[0], Config(steps=1000))
    self.assertEqual(parse("--quick")[0], Config(steps=5, seeds=2))
    self.assertEqual(parse("--confirm")[0], Config(seed=100, seeds=20))
    self.assertEqual(parse("--sensitivity")[0], Config(seed=100, seeds=20))
    config, where = parse(
      "--quick", "--steps=7", "--norm=ln,gn", "--workdir=w", "--resume"
    )
    self.assertEqual(config, Config(steps=7, seeds=2, norm=("ln", "gn")))
    self.assertEqual(where, Files("w", True))

  def test_refuses_what_makes_no_sense(self):
    for argument in ("--steps=0", "--norm=xy", "--scale=huge", "--seeds=0"):
      with self.subTest(argument), self.assertRaises(flags.Error):
        parse(argument)


class AdviceTest(parameterized.TestCase):
  @parameterized.parameters(
    (5, -0.03, True),
    (5, 1.0, False),  # Resolved.
    (10, -0.03, False),  # As many as with --confirm.
  )
  def test_says_that_more_seeds_are_needed(self, seeds, effect, expected):
    folder = self.enter_context(tempfile.TemporaryDirectory())
    done = subprocess.run(
      [
        *(sys.executable, "-m", "tests.experiments.lab.small_study"),
        *("--dataset=digits", f"--workdir={folder}/w"),
        *(f"--seeds={seeds}", f"--effect={effect}"),
      ],
      cwd=programs.ROOT,
      capture_output=True,
      text=True,
      check=True,
    )
    self.assertEqual("So few seeds resolve little" in done.stdout, expected)
    self.assertEqual(
      bool(re.search(r"\n  lower: 0\.\d+ nats with 5 seeds\n", done.stdout)),
      expected,
    )


class CommandLineTest(absltest.TestCase):
  def test_leaves_out_where_results_go(self):
    given = ["x", "--norm=ln", "--workdir", "/a b/c", "--resume", "--seeds=2"]
    for argv in (
      given,
      [*given, "--data_dir=/x y", "--noresume"],
      ["x", "-workdir=/w", *given[1:]],
    ):
      with mock.patch.object(sys, "argv", argv):
        self.assertEqual(
          study.command_line("mnist"),
          "python -m experiments.mnist --norm=ln --seeds=2",
        )


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )
    self.measured = []

  def measure(self, config, run, *, stop=False):
    def part():
      self.measured.append(config.steps)
      return {"loss": np.array([1.0, np.nan, 2.0], np.float32)}

    loss = run.part("arm", part)["loss"]
    np.testing.assert_array_equal(loss, np.array([1, np.nan, 2], np.float32))
    if stop:
      raise KeyboardInterrupt
    with figures.drawing(run, "curves", title="Title") as axes:
      figures.curve(axes[0], [1, 2, 3], [[1, 2, 3], [2, 3, 5]], "ln")
      figures.label(axes[0], "Loss", "Step", "Loss (nats)", log_y=True)
    run.judge(CLAIM, [1.0, 1.1, 0.9], [2.0, 2.3, 1.8])
    run.check(CHECK, 1e-8)

  def test_leaves_a_summary_and_is_not_overwritten(self):
    workdir = str(self.folder / "w")
    summary, output = run(self.measure, workdir=workdir)
    verdict = (
      "CONFIRMED: after 100 steps, it is below 0.9 times\n"
      "  loss, with / without: 0.49 ["
    )
    self.assertIn(verdict, output)
    self.assertIn("HOLDS: it is exact (error below 1e-06: 1e-08)", output)
    path = self.folder / "w" / "summary.json"
    stored = files.read_record(path)
    self.assertEqual(stored["findings"], summary["findings"])
    (finding,) = stored["findings"]
    self.assertStartsWith(finding["number"], "0.49 [")
    self.assertEqual(
      finding["values"], {"with": [1.0, 1.1, 0.9], "without": [2.0, 2.3, 1.8]}
    )
    self.assertEqual([check["holds"] for check in stored["checks"]], [True])
    self.assertEqual(stored["rates"], {})
    self.assertContainsSubset(["commit", "cores", "date"], stored["machine"])
    self.assertEqual(stored["figures"], ["curves.png"])
    self.assertTrue((self.folder / "w" / "curves.png").exists())
    self.assertEqual(stored["config"]["norm"], ["none", "bn"])
    self.assertEqual(stored["command"], "command")
    self.assertIn("jax", stored["versions"])

    with self.assertRaisesRegex(WorkdirError, "already holds"):
      run(self.measure, workdir=workdir)
    again, output = run(self.measure, workdir=workdir, resume=True)
    self.assertEqual(again, stored)
    self.assertIn(verdict, output)
    self.assertIn("HOLDS: it is exact", output)
    self.assertLen(self.measured, 1)
    with self.assertRaisesRegex(WorkdirError, "--steps: 100 in"):
      run(self.measure, Config(steps=3), workdir=workdir, resume=True)

  def test_a_refused_run_leaves_nothing(self):
    def refuse(config, run):
      raise RefusedError("No.")

    with self.assertRaises(RefusedError):
      run(refuse, workdir=str(self.folder / "w"))
    self.assertEmpty(list(self.folder.iterdir()))

  def test_loads_a_pool(self):
    def measure(config, run):
      pool = run.load_pool("digits", train=100)
      run.part("part", lambda: {"x": pool.split([0]).train.chosen})
      self.assertIsInstance(pool.examples.inputs, jax.Array)
      return {}

    summary, output = run(measure, workdir=str(self.folder / "w"))
    self.assertEqual(summary["data"], "digits")
    self.assertIn("every seed draws 100 images for training", output)

  def test_keeps_to_the_data_that_it_began_with(self):
    workdir = str(self.folder / "w")

    def begin(config, run, stop=True):
      run.use_data("digits", [np.zeros(3)])
      run.part(config.dataset, lambda: {"x": 1.0})
      if stop:
        raise KeyboardInterrupt

    with self.assertRaises(KeyboardInterrupt):
      run(begin, workdir=workdir)
    recorded = files.read_record(self.folder / "w" / "config.json")
    self.assertEqual(recorded["config"]["dataset"], "digits")
    summary, _ = run(
      lambda *args: begin(*args, stop=False), workdir=workdir, resume=True
    )
    self.assertEqual(summary["data"], "digits")
    self.assertTrue((self.folder / "w" / "parts" / "digits.npz").exists())

  def test_shows_a_finished_run(self):
    workdir = str(self.folder / "w")
    run(lambda *_: {"models": [3, 4]}, workdir=workdir)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
      study.run(
        "name",
        self.measure,
        Config(),
        Files(workdir, True),
        show=lambda config, run, summary: print(summary["models"]),
      )
    self.assertIn("[3, 4]", output.getvalue())
    self.assertEmpty(self.measured)

  def test_keeps_the_parts_of_an_interrupted_run(self):
    self.interrupt("w")
    self.assertFalse((self.folder / "w" / "summary.json").exists())
    run(self.measure, workdir=str(self.folder / "w"), resume=True)
    self.assertLen(self.measured, 1)

  def interrupt(self, name):
    """Leaves a run with one part."""
    with self.assertRaises(KeyboardInterrupt):
      run(
        lambda *args: self.measure(*args, stop=True),
        workdir=str(self.folder / name),
      )

  def test_measures_a_damaged_part_again(self):
    self.interrupt("w")
    part = self.folder / "w" / "parts" / "arm.npz"
    part.write_bytes(part.read_bytes().replace(b"loss", b"lost"))
    with self.assertLogs(logger="absl", level="WARNING") as logs:
      run(self.measure, workdir=str(self.folder / "w"), resume=True)
    self.assertRegex(logs.output[0], "arm.npz is damaged.*measured again")
    self.assertLen(self.measured, 2)

  def test_makes_a_damaged_summary_again(self):
    workdir = str(self.folder / "w")
    first, _ = run(self.measure, workdir=workdir)
    path = self.folder / "w" / "summary.json"
    path.write_text(path.read_text().replace("0.49 [", "0.40 ["))
    with self.assertLogs(logger="absl", level="WARNING") as logs:
      again, _ = run(self.measure, workdir=workdir, resume=True)
    self.assertRegex(logs.output[0], "damaged.*made again")
    self.assertEqual(again["findings"], first["findings"])
    self.assertLen(self.measured, 1)

  def test_a_changed_figure_is_noticed(self):
    workdir = str(self.folder / "w")
    run(self.measure, workdir=workdir)
    (self.folder / "w" / "curves.png").write_text("another")
    with self.assertLogs(logger="absl", level="WARNING") as logs:
      run(self.measure, workdir=workdir, resume=True)
    self.assertRegex(logs.output[0], "curves.png is not as the run wrote it")

  def test_refuses_damaged_or_other_settings(self):
    self.interrupt("w")
    path = self.folder / "w" / "config.json"
    intact = path.read_bytes()
    for damage in (b"", b"garbage", b"[1]", intact.replace(b"100", b"200")):
      path.write_bytes(damage)
      with self.assertRaisesRegex(
        WorkdirError, "config.json is damaged(?s:.*)another folder:\ncommand"
      ):
        run(self.measure, workdir=str(self.folder / "w"), resume=True)
    path.write_bytes(intact)
    with self.assertRaisesRegex(WorkdirError, "is one of name, not of other"):
      study.run(
        "other", self.measure, Config(), Files(str(self.folder / "w"), True)
      )

  def test_says_that_versions_have_changed(self):
    with mock.patch.object(versions, "current", return_value={"jax": "0.1"}):
      self.interrupt("w")
    _, output = run(self.measure, workdir=str(self.folder / "w"), resume=True)
    self.assertRegex(output, r"The run began with .*jax 0.1 \(now \d")

  def test_a_full_disk_is_told_with_the_command_that_continues(self):
    def measure(config, run):
      run.part("arm", lambda: {"x": 1.0})
      raise OSError(errno.ENOSPC, "No space left on device", "parts/b.npz")

    with self.assertRaises(StoppedError) as caught:
      run(measure, workdir=str(self.folder / "w"))
    self.assertEqual(
      str(caught.exception),
      "Stopped: No space left on device (parts/b.npz).\n"
      "Saved: 1 measurement. Continue with:\n"
      f"command --resume --workdir={self.folder / 'w'}",
    )

  def test_other_errors_of_the_system_are_shown_whole(self):
    def measure(config, run):
      (self.folder / "absent").read_text()

    with self.assertRaises(FileNotFoundError):
      run(measure, workdir=str(self.folder / "w"))


if __name__ == "__main__":
  absltest.main()
