"""Programs that are timed in turns."""

import numpy as np
from absl.testing import absltest

from experiments.lab import timing
from experiments.lab.timing import Spread


class Clock:
  """Time that passes only where a program says so."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


class TimingTest(absltest.TestCase):
  def run_of(self, clock, seconds, calls=None, name=""):
    def run(steps):
      clock.now += seconds * steps
      if calls is not None:
        calls.append((name, steps))

    return run

  def test_spread(self):
    self.assertEqual(Spread.of([1.0, 2.0, 3.0, 4.0, 50.0]), (2.0, 3.0, 4.0))

  def test_steps_fill_the_sample(self):
    clock = Clock()
    self.assertEqual(
      timing.steps_within(self.run_of(clock, 0.001), 0.1, clock), 100
    )
    self.assertEqual(
      timing.steps_within(self.run_of(clock, 5.0), 0.1, clock), 1
    )

  def test_seconds_per_step(self):
    clock = Clock()
    samples = timing.interleaved(
      {"a": self.run_of(clock, 0.5), "b": self.run_of(clock, 0.01)},
      seconds=1.0,
      rounds=4,
      clock=clock,
    )
    np.testing.assert_allclose(samples["a"], [0.5] * 4)
    np.testing.assert_allclose(samples["b"], [0.01] * 4)

  def test_compiling_is_not_timed(self):
    clock, compiled = Clock(), set()

    def run(steps):  # As a scan, compiled for each number of steps.
      clock.now += 0.01 * steps + 30.0 * (steps not in compiled)
      compiled.add(steps)

    samples = timing.interleaved(
      {"scan": run}, seconds=1.0, rounds=3, clock=clock
    )
    np.testing.assert_allclose(samples["scan"], [0.01] * 3)
    self.assertIn(100, compiled)

  def test_takes_turns(self):
    clock, calls = Clock(), []
    timing.interleaved(
      {name: self.run_of(clock, 1.0, calls, name) for name in "abc"},
      seconds=1.0,
      rounds=3,
      clock=clock,
    )
    self.assertEqual("".join(name for name, _ in calls[-9:]), "abcbcacab")


if __name__ == "__main__":
  absltest.main()
