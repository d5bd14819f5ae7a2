"""Times in fresh processes: what is fresh, what is kept, what is judged."""

import contextlib
import functools
import io
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab import latency
from experiments.lab.run import Run
from tests.experiments import programs

changed = False  # By a test, in its own process only.

PARENT = """
import sys
from experiments.lab import latency
from tests.experiments.lab import latency_test
latency.in_fresh_process(latency_test.stay, sys.argv[1])
"""


def process():
  return os.getpid(), changed


def stay(path):
  """Writes the number of the process, and does not end."""
  temporary = pathlib.Path(path).with_suffix(".incomplete")
  temporary.write_text(str(os.getpid()))
  temporary.rename(path)
  time.sleep(600)


def lives(number):
  with contextlib.suppress(ProcessLookupError):
    os.kill(number, 0)
    state = pathlib.Path(f"/proc/{number}/stat").read_text().split()[2]
    return state != "Z"
  return False


class FreshProcessTest(absltest.TestCase):
  def test_is_new(self):
    with mock.patch.object(sys.modules[__name__], "changed", True):
      number, seen = latency.in_fresh_process(process)
    self.assertNotEqual(number, os.getpid())
    self.assertFalse(seen)

  def test_raises_the_errors(self):
    with self.assertRaisesRegex(TypeError, "positional argument"):
      latency.in_fresh_process(process, 1)

  def test_ends_with_its_parent(self):
    folder = self.enter_context(tempfile.TemporaryDirectory())
    path = pathlib.Path(folder, "number")
    parent = subprocess.Popen(
      [sys.executable, "-c", PARENT, str(path)],
      env={**os.environ, "PYTHONPATH": str(programs.ROOT)},
      stdout=subprocess.PIPE,
      text=True,
    )
    programs.kill(parent, path.exists)
    number = int(path.read_text())
    deadline = time.monotonic() + 60
    try:
      while lives(number) and time.monotonic() < deadline:
        time.sleep(0.05)
      self.assertFalse(lives(number))
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)


class MeasuredTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.enter_context(tempfile.TemporaryDirectory())
    self.fresh = self.enter_context(
      mock.patch.object(latency, "in_fresh_process")
    )

  def measured(self, count=3, load=0.1):
    with contextlib.redirect_stdout(io.StringIO()):
      return latency.measured(
        Run(pathlib.Path(self.folder)),
        mock.Mock(),
        dict.fromkeys(range(count), ()),
        load=load,
        rounds=3,
      )

  def test_takes_the_median_of_each_process(self):
    samples = np.random.default_rng(0).uniform(1, 2, (3, 2, 5))
    self.fresh.side_effect = [
      {"case/one": one, "case/two": two} for one, two in samples
    ]
    found = self.measured()
    for arm, of_arm in (("one", samples[:, 0]), ("two", samples[:, 1])):
      middle = np.sort(of_arm, axis=-1)[:, 2]
      np.testing.assert_array_equal(found.seconds["case"][arm], middle)

  def test_finished_processes_are_kept(self):
    samples = [{"case/one": [number]} for number in range(3)]
    self.fresh.side_effect = [samples[0], samples[1], KeyboardInterrupt]
    with self.assertRaises(KeyboardInterrupt):
      self.measured(load=0.1)
    self.fresh.side_effect = [samples[2]]
    found = self.measured(load=0.2)
    np.testing.assert_array_equal(found.seconds["case"]["one"], [0, 1, 2])
    np.testing.assert_array_equal(found.loads, [0.1, 0.1, 0.2])

  @mock.patch.object(latency, "SAMPLE_SECONDS", 0.0)
  def test_takes_turns(self):
    """Within a process; every call is waited for."""
    log = []

    def programs():
      return {"case": {arm: functools.partial(log.append, arm) for arm in "ab"}}

    wait = self.enter_context(
      mock.patch.object(latency.jax, "block_until_ready")
    )
    found = latency._samples(programs, (), 4)
    self.assertEqual("".join(log[-8:]), "abbaabba")
    self.assertEqual(wait.call_count, len(log))
    self.assertEqual({*found}, {"case/a", "case/b"})
    self.assertLen(found["case/a"], 4)

  @parameterized.parameters(
    (10, 0.5, "^$"),
    (9, 0.5, "^claims need 10 processes, this run has 9$"),
    (10, 0.6, "^the load before the start was 0.6, more than 0.5: other prog"),
  )
  def test_doubt(self, count, load, expected):
    self.fresh.return_value = {"case/one": [1.0], "case/two": [1.0]}
    self.assertRegex(self.measured(count, load).doubt, expected)

  def test_one_busy_resumption_is_enough(self):
    loads = np.array([0.1] * 10 + [0.7])
    self.assertRegex(latency.Latencies({}, loads).doubt, "was 0.7")


if __name__ == "__main__":
  absltest.main()
