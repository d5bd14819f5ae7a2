"""How a program ends early, whatever goes wrong while it does."""

import os
import pathlib
import re
import subprocess
import sys

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[4]


class SignalsTest(absltest.TestCase):
  def end(self, code):
    """Runs code that sends itself a signal; returns status and output."""
    ended = subprocess.run(
      [sys.executable, "-c", _PROGRAM.format(code)],
      env={**os.environ, "PYTHONPATH": str(ROOT)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      timeout=60,
      check=False,
    )
    return ended.returncode, ended.stdout

  def test_nothing_is_printed_after_the_advice(self):
    """The training goes on while the advice is made."""
    status, output = self.end(
      "saved = epoch; time.sleep(0.3); return f'Saved: {saved}'"
    )
    self.assertEqual(status, 143)
    found = re.fullmatch(
      r"((?:epoch\n)*)\nTerminated by .*\nSaved: (\d+)\n", output
    )
    self.assertIsNotNone(found, output)
    # One may just have been on its way.
    self.assertLessEqual(found[1].count("epoch"), int(found[2]) + 2)

  def test_ends_although_advice_fails(self):
    status, output = self.end("raise OSError('the disk is gone')")
    self.assertEqual(status, 143)
    self.assertEndsWith(
      output,
      "\nTerminated by another program (SIGTERM).\n"
      "What is saved cannot be told: the disk is gone.\n",
    )

  def test_removes_temporary_folders(self):
    status, output = self.end("return str(folder)")
    self.assertEqual(status, 143)
    folder = pathlib.Path(output.splitlines()[-1])
    self.assertTrue(folder.is_absolute())
    self.assertFalse(folder.exists())


_PROGRAM = """
import os, pathlib, signal, time
from experiments.lab.runs import ending

with ending.temporary_folder() as folder:
  def advice():
    {}
  ending.on_signals()
  with ending.advising(pathlib.Path(), advice):
    epoch = 0
    os.kill(os.getpid(), signal.SIGTERM)
    for epoch in range(5000):
      time.sleep(0.01)
      print("epoch", flush=True)
"""

if __name__ == "__main__":
  absltest.main()
