"""What happens where the packages of the extra are not installed."""

import importlib.util
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import tomllib
from unittest import mock

from absl.testing import absltest, parameterized

import experiments
from experiments import catalog

ROOT = pathlib.Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
  "optional-dependencies"
]
STUDIES = [
  f"experiments.{name}"
  for name in (
    *("all", "registered", "results"),
    *{entry.module for entry in catalog.ENTRIES.values()},
  )
]
BENCHMARKS = [
  f"benchmarks.{path.stem}"
  for path in (ROOT / "benchmarks").glob("*.py")
  if "app.run(" in path.read_text()
]


def run(module, *options, **environment):
  return subprocess.run(
    [sys.executable, *options, "-m", module, "--quick"],
    cwd=ROOT,
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    timeout=120,
  )


class PackagesTest(parameterized.TestCase):
  def test_are_those_of_the_extra(self):
    names = [
      re.match(r"[\w-]+", requirement)[0]
      for requirement in EXTRAS["experiments"]
      if ";" not in requirement  # Not on every system.
    ]
    self.assertEqual(list(experiments.PACKAGES.values()), names)
    self.assertIn("normjax[experiments]", EXTRAS["benchmarks"])

  def test_are_installed(self):
    for module in experiments.PACKAGES:
      self.assertIsNotNone(importlib.util.find_spec(module), module)

  @parameterized.parameters(*STUDIES, *BENCHMARKS)
  def test_a_program_ends_with_one_sentence(self, module):
    # Without site-packages, there is nothing but Python.
    done = run(module, "-S", "-E")
    self.assertEqual(done.returncode, 1)
    self.assertEqual(done.stdout, "")
    extra = module.partition(".")[0]
    packages = ", ".join(experiments.PACKAGES.values())
    self.assertEqual(
      done.stderr,
      f"The {extra} need packages that are not installed ({packages}): run"
      f' `pip install -e ".[{extra}]"` in the clone of the repository.\n',
    )

  def test_an_import_raises_it(self):
    found = importlib.util.find_spec
    hidden = lambda name: None if name in ("optax", "PIL") else found(name)
    with (
      mock.patch.object(importlib.util, "find_spec", hidden),
      self.assertRaisesRegex(ImportError, r"installed \(optax, pillow\): run"),
    ):
      runpy.run_path(experiments.__file__)


class InterruptTest(parameterized.TestCase):
  @parameterized.parameters("experiments.mnist", "experiments.all")
  def test_while_modules_are_imported(self, module):
    with tempfile.TemporaryDirectory() as folder:
      pathlib.Path(folder, "absl.py").write_text(
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
      )
      done = run(module, PYTHONPATH=folder)
    self.assertEqual((done.stdout, done.stderr), ("", ""))
    self.assertEqual(done.returncode, -signal.SIGINT)


if __name__ == "__main__":
  absltest.main()
