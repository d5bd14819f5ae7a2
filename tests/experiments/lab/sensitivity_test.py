"""Variations of a study: measured, resumed, shown."""

import contextlib
import dataclasses
import io
import pathlib
import subprocess
import sys
import tempfile

import jax
from absl.testing import absltest, parameterized

from experiments.lab import options, results, sensitivity, study
from experiments.lab.errors import RefusedError
from experiments.lab.runs import workdir
from tests.experiments import programs
from tests.experiments.lab import small_study
from tests.experiments.lab.small_study import STUDY, Config, measure

NAMES = ["default", "steps=1", "steps=4", "gain=0.1"]


def changes_of(summary):
  return [found["change"] for found in summary["variations"]]


class SensitivityTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder, "w")

  def run_(self, measured=measure, fields=None, **where):
    """Runs the variations; returns their summary and what is printed."""
    varied = dataclasses.replace(STUDY, measure=measured)
    preset = options.with_sensitivity(STUDY.confirm)
    config = Config(dataset="digits", **preset)
    where = study.Files(str(self.folder), **where)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), small_study.committed:
      summary = study.run(
        "small_study_sensitivity",
        sensitivity.measure(varied, fields),
        config,
        where,
        command="command",
        show=sensitivity.show,
      )
    return summary, output.getvalue()

  def test_measures_one_change_at_a_time(self):
    summary, output = self.run_()
    self.assertEqual(
      changes_of(summary), [{}, {"steps": 1}, {"steps": 4}, {"gain": 0.1}]
    )
    for found, steps in zip(summary["variations"], (2, 1, 4, 2), strict=True):
      lower, equal = found["findings"]  # All, for Holm's correction.
      self.assertStartsWith(lower["sentence"], f"after {steps} steps")
      self.assertEqual(equal["claim"], "equal")
    verdicts = [
      found["findings"][0]["verdict"] for found in summary["variations"]
    ]
    # The gain divides the effect of one nat by ten; half a nat is claimed.
    self.assertEqual(verdicts, [*["CONFIRMED"] * 3, "SMALLER THAN CLAIMED"])
    self.assertEqual(summary["data"], "digits")
    self.assertEmpty(summary["findings"])

    table = sensitivity.shown(summary["variations"])
    self.assertIn(table, output)
    header, _, *rows = table.splitlines()
    self.assertEqual(header.split(), ["|", "setting", "|", "lower", "|"])
    self.assertEqual([row.split()[1] for row in rows], NAMES)
    self.assertIn("SMALLER THAN CLAIMED, -0.12 [", rows[-1])
    for name, found in zip(NAMES, summary["variations"], strict=True):
      self.assertTrue((self.folder / name / "parts/losses.npz").exists())
      self.assertEqual(workdir.summary(self.folder / name), found)
      self.assertEqual(found["config"]["dataset"], "digits")
      self.assertEqual(found["machine"], summary["machine"])

  def test_can_be_judged_again(self):
    summary, _ = self.run_()
    for found in summary["variations"]:
      record = results.of_summary("small", found, STUDY)
      again = results.judged_anew(record, STUDY)
      self.assertEmpty(results.differences(record, again))

  def test_releases_compiled_programs_between_settings(self):
    traced = []

    @jax.jit
    def compiled(x):
      traced.append(x)
      return x

    def compiling(config, run):
      compiled(1.0)
      return measure(config, run)

    self.run_(compiling)
    self.assertLen(traced, len(NAMES))

  @parameterized.parameters(
    (["default"], NAMES[:1]),
    (["steps"], NAMES[1:3]),
    (["gain", "default"], [NAMES[0], NAMES[3]]),
  )
  def test_measures_some_settings(self, fields, names):
    summary, output = self.run_(fields=fields)
    found = [*map(sensitivity.label, changes_of(summary))]
    self.assertEqual(found, names)
    self.assertIn(f"\n{names[0]} (1 of {len(names)})\n", output)

  def test_refuses_settings_that_it_does_not_try(self):
    with self.assertRaisesRegex(
      RefusedError, "--vary=width: this study tries default, steps, gain."
    ):
      self.run_(fields=["gain", "width"])
    self.assertFalse(self.folder.exists())

  def test_continues_where_it_was_killed(self):
    measured = []

    def killed(config, run):
      measured.append(run.folder.name)
      if len(measured) == 3:
        raise KeyboardInterrupt
      return measure(config, run)

    with self.assertRaises(KeyboardInterrupt):
      self.run_(killed)
    kept = {path: path.stat().st_mtime_ns for path in self.parts()}
    self.assertLen(kept, 2)
    (self.folder / "steps=4/parts").mkdir(parents=True)
    (self.folder / "steps=4/parts/.incomplete.x").touch()
    resumed, _ = self.run_(self.counted(measured), resume=True)
    # The first two settings are finished.
    self.assertEqual(measured[3:], NAMES[2:])
    self.assertLen(self.parts(), 4)
    self.assertEmpty([*self.folder.rglob("*.incomplete.*")])
    for path, time in kept.items():
      self.assertEqual(path.stat().st_mtime_ns, time, path)

    self.folder = self.folder.with_name("whole")
    whole, _ = self.run_()
    findings, expected = (
      [found["findings"] for found in summary["variations"]]
      for summary in (resumed, whole)
    )
    self.assertEqual(findings, expected)
    self.assertEqual(resumed["data"], "digits")

  def counted(self, measured):
    def measure_it(config, run):
      measured.append(run.folder.name)
      return measure(config, run)

    return measure_it

  def parts(self):
    return [*self.folder.glob("*/parts/*.npz")]

  def test_shows_a_finished_run(self):
    summary, _ = self.run_()
    _, output = self.run_(self.fail, resume=True)
    self.assertIn(sensitivity.shown(summary["variations"]), output)

  def test_refuses_the_folder_of_a_run_of_the_study(self):
    with contextlib.redirect_stdout(io.StringIO()):
      study.run(
        "small_study",
        lambda config, run: run.part("x", dict) and self.fail(),
        Config(),
        study.Files(str(self.folder)),
        command="python -m small_study",
      )
    with self.assertRaisesRegex(
      workdir.WorkdirError,
      "is one of small_study, not of small_study_sensitivity. Choose another"
      " folder, or continue it with its own command:\npython -m small_study$",
    ):
      self.run_(resume=True)


class ProgramTest(absltest.TestCase):
  def program(self, *flags):
    return subprocess.run(
      [sys.executable, "-m", "tests.experiments.lab.small_study", *flags],
      cwd=programs.ROOT,
      capture_output=True,
      text=True,
    )

  def test_help_shows_the_flag(self):
    shown = " ".join(self.program("--help").stdout.split())
    self.assertIn(
      "--[no]sensitivity: Measure instead how much the headline claims depend"
      " on the settings: steps, gain, one at a time.",
      shown,
    )

  def test_needs_sensitivity_to_vary_settings(self):
    done = self.program("--vary=gain")
    self.assertNotEqual(done.returncode, 0)
    self.assertIn("--vary goes with --sensitivity; add it.", done.stderr)

  def test_the_flags_measure_the_variations(self):
    folder = self.enter_context(tempfile.TemporaryDirectory())
    done = self.program(
      *("--sensitivity", "--vary=default,steps", "--dataset=digits"),
      f"--workdir={folder}/w",
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    summary = workdir.summary(pathlib.Path(folder, "w"))
    self.assertEqual(summary["study"], "small_study_sensitivity")
    names = [*map(sensitivity.label, changes_of(summary))]
    self.assertEqual(names, NAMES[:3])
    self.assertEqual(summary["variations"][0]["findings"][0]["seeds"], 20)
    self.assertIn("--sensitivity", summary["command"])


if __name__ == "__main__":
  absltest.main()
