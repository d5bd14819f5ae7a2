"""Does what CONTRIBUTING.md says about adding a study, word for word."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "CONTRIBUTING.md"


@pytest.fixture
def program(tmp_path):
  """Returns the study that the page has its reader write."""
  (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
  path = tmp_path / "first_epoch.py"
  path.write_text(code)
  return path


def output(program, *flags, status=0):
  """Runs the study; returns what it prints."""
  result = subprocess.run(
    [sys.executable, program.name, *flags],
    cwd=program.parent,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert result.returncode == status, result.stdout + result.stderr
  return result.stdout


def test_help_shows_the_claim(program):
  # With --help, absl leaves with a status of 1.
  words = " ".join(output(program, "--help", status=1).split())
  assert (
    "1. NORM learns faster than no norm: ratio of mean losses of the first"
    " epoch below 1. [Ba et al. 2016] (Changed: " in words
  )


def test_the_study_ends_with_a_verdict(program):
  printed = output(program, "--quick", "--workdir=run")
  verdict = printed.splitlines()[-1]
  # What the page shows, but for the verdict and the numbers.
  (shown,) = re.findall("^(CONFIRMED: .*)$", PAGE.read_text(), re.MULTILINE)
  rule = re.escape(shown.removeprefix("CONFIRMED").rpartition(": ")[0])
  assert re.fullmatch(
    rf"(CONFIRMED|REFUTED|UNRESOLVED){rule}: [\d.]+ ± [\d.]+\)", verdict
  )
  summary = json.loads((program.parent / "run/summary.json").read_text())
  (finding,) = summary["findings"]
  assert verdict.startswith(finding["verdict"])
  assert summary["data"] == "digits"
  assert summary["figures"] == ["loss.png"]
  assert (program.parent / "run/loss.png").exists()
