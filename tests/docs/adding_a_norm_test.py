"""Does what docs/adding_a_norm.md says, word for word."""

import doctest
import os
import pathlib
import re
import subprocess
import sys
from unittest import mock

import pytest

from normjax.descriptions import registry

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding_a_norm.md"


def blocks(language):
  """Returns the code blocks of the page in a language."""
  return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path):
  """Returns a folder with the files that the page has its reader write."""
  *norms, study = blocks("python")
  (tmp_path / "my_norms.py").write_text("\n\n".join(norms))
  assert study.startswith("# study.py\n")
  (tmp_path / "study.py").write_text(study)
  return tmp_path


def test_examples_print_what_the_page_says(folder, monkeypatch):
  monkeypatch.syspath_prepend(folder)
  with mock.patch.dict(registry._DESCRIPTIONS), mock.patch.dict(sys.modules):
    failed, tried = doctest.testfile(
      str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE
    )
  assert tried > 10
  assert not failed


def test_the_study_trains_with_the_new_norm(folder):
  (command,) = blocks("sh")
  program, *arguments = command.split()
  assert program == "python"
  result = subprocess.run(
    # Quicker.
    [
      sys.executable,
      *arguments,
      "--epochs=1",
      "--hidden=8",
      "--dataset=digits",
    ],
    cwd=folder,
    env={
      **os.environ,
      "PYTHONPATH": str(ROOT),
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # Compiles sooner.
    },
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  assert re.search(r"^lin\b.*\d", result.stdout, re.MULTILINE), result.stdout
