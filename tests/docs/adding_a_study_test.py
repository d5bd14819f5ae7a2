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
    "1. each at its best learning rate, bn has a mean loss in the first epoch"
    " below 0.9 times that of no norm. [Ioffe & Szegedy 2015, section 4.1, of"
    " sigmoids] mean loss of the first epoch, with the norm / without: below"
    " 0.9." in words
  )


def test_the_study_ends_with_a_verdict(program):
  printed = output(program, "--quick", "--workdir=run")
  # What the page shows, but for the verdict and the numbers.
  (shown,) = re.findall(
    r"^CONFIRMED(: .*?): [\d.]+ \[", PAGE.read_text(), re.MULTILINE | re.DOTALL
  )
  (verdict,) = re.findall(
    rf"^([A-Z ]+){re.escape(shown)}: [\d.]+ \[", printed, re.MULTILINE
  )
  summary = json.loads((program.parent / "run/summary.json").read_text())
  (finding,) = summary["findings"]
  assert verdict == finding["verdict"]
  assert summary["data"] == "digits"
  assert summary["figures"] == ["loss.png"]
  assert (program.parent / "run/loss.png").exists()
