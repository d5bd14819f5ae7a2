import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from unittest import mock

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import given
from hypothesis import strategies as st

from experiments.lab import reporting
from experiments.lab.reporting import Interval, Verdict

NAN = math.nan
seeds = st.lists(
  st.floats(-1e6, 1e6).map(lambda value: round(value, 3)),
  min_size=2,
  max_size=9,
)


class IntervalTest(parameterized.TestCase):
  def test_hand_worked(self):
    # Mean 2, sample standard deviation 1, t(0.975, 2 degrees) = 4.30265.
    result = reporting.interval([1.0, 2.0, 3.0])
    self.assertEqual(result.mean, 2.0)
    self.assertAlmostEqual(result.half_width, 4.302653 / math.sqrt(3), 5)
    self.assertEqual(result.low, 2.0 - result.half_width)
    self.assertEqual(result.high, 2.0 + result.half_width)

  def test_confidence(self):
    # t(0.95, 2 degrees) = 2.919986.
    result = reporting.interval([1.0, 2.0, 3.0], confidence=0.9)
    self.assertAlmostEqual(result.half_width, 2.919986 / math.sqrt(3), 5)

  def test_coverage(self):
    rng = np.random.default_rng(0)
    held = [
      result.low < 3.0 < result.high
      for result in map(reporting.interval, rng.normal(3.0, 2.0, (2000, 5)))
    ]
    self.assertBetween(np.mean(held), 0.93, 0.97)

  def test_one_seed_has_no_width(self):
    mean, half_width = reporting.interval([0.5])
    self.assertEqual(mean, 0.5)
    self.assertTrue(math.isnan(half_width))

  def test_float32_arrays_and_jax(self):
    self.assertEqual(
      reporting.interval(jnp.ones(3, jnp.float32)), Interval(1.0, 0.0)
    )

  @parameterized.parameters(
    ([1.0, NAN, 3.0], r"finite, got \[nan\] at position \[1\] of 3"),
    ([1.0, math.inf], r"finite, got \[inf\] at position \[1\] of 2"),
    ([], r"one number per seed, got shape \(0,\)"),
    ([[1.0, 2.0]], r"one number per seed, got shape \(1, 2\)"),
    (1.0, r"one number per seed, got shape \(\)"),
  )
  def test_refuses(self, values, message):
    with self.assertRaisesRegex(ValueError, message):
      reporting.interval(values)

  @parameterized.parameters(0.0, 1.0, 95.0)
  def test_refuses_confidence(self, confidence):
    with self.assertRaisesRegex(ValueError, "between 0 and 1"):
      reporting.interval([1.0, 2.0], confidence)

  @parameterized.parameters(
    (97.6412, 0.1523, "", "97.64 ± 0.15"),
    (0.27701, 0.00512, "", "0.2770 ± 0.0051"),
    (87.21, 26.2, "", "87 ± 26"),
    (1234.0, 260.0, "", "1234 ± 260"),
    (0.5, 0.0, "", "0.5 ± 0"),
    (0.123456, NAN, "", "0.1235"),
    (3.2e-7, 1.1e-8, "", "3.20e-07 ± 1.10e-08"),
    (97.6412, 0.1523, ".2f", "97.64 ± 0.15"),
    (97.6412, 0.1523, ".0f", "98 ± 0"),
    (-0.03, 0.36, "+.2f", "-0.03 ± 0.36"),
    (0.03, 0.36, "+.2f", "+0.03 ± 0.36"),
    (0.03, NAN, ".2f", "0.03"),
  )
  def test_text(self, mean, half_width, spec, expected):
    self.assertEqual(format(Interval(mean, half_width), spec), expected)
    if not spec:
      self.assertEqual(str(Interval(mean, half_width)), expected)


class PairedTest(parameterized.TestCase):
  def test_difference_cancels_what_seeds_share(self):
    baseline = [97.0, 98.0, 99.0]
    result = reporting.paired_difference([97.5, 98.5, 99.5], baseline)
    self.assertEqual(result, Interval(0.5, 0.0))

  def test_ratio(self):
    result = reporting.paired_ratio([1.0, 2.0, 6.0], [1.0, 4.0, 4.0])
    self.assertEqual(result, reporting.interval([1.0, 0.5, 1.5]))

  @given(seeds)
  def test_difference_is_antisymmetric(self, values):
    baseline = values[::-1]
    ahead = reporting.paired_difference(values, baseline)
    behind = reporting.paired_difference(baseline, values)
    self.assertEqual(ahead.mean, -behind.mean)
    self.assertAlmostEqual(ahead.half_width, behind.half_width, 6)

  @parameterized.parameters(reporting.paired_difference, reporting.paired_ratio)
  def test_refuses_other_seeds(self, compare):
    with self.assertRaisesRegex(ValueError, "3 values and 2 baselines"):
      compare([1.0, 2.0, 3.0], [1.0, 2.0])

  @parameterized.parameters(reporting.paired_difference, reporting.paired_ratio)
  def test_refuses_nan_in_baseline(self, compare):
    with self.assertRaisesRegex(ValueError, "baseline must be finite"):
      compare([1.0, 2.0], [NAN, 2.0])

  @parameterized.parameters(0.0, -1.0)
  def test_ratio_refuses_baseline(self, value):
    with self.assertRaisesRegex(ValueError, "positive baselines"):
      reporting.paired_ratio([1.0, 1.0], [1.0, value])


class VerdictTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.79, 0.02, Verdict.CONFIRMED, Verdict.REFUTED),
    (0.95, 0.02, Verdict.REFUTED, Verdict.CONFIRMED),
    (0.89, 0.02, Verdict.UNRESOLVED, Verdict.UNRESOLVED),
    (0.91, 0.02, Verdict.UNRESOLVED, Verdict.UNRESOLVED),
    (0.5, NAN, Verdict.UNRESOLVED, Verdict.UNRESOLVED),
  )
  def test_one_side(self, mean, half_width, below, above):
    self.assertEqual(
      reporting.verdict_below(Interval(mean, half_width), 0.9), below
    )
    self.assertEqual(
      reporting.verdict_above(Interval(mean, half_width), 0.9), above
    )

  @parameterized.parameters(
    (-0.03, 0.36, Verdict.CONFIRMED),
    (0.3, 0.36, Verdict.UNRESOLVED),  # Contains zero, and shows nothing.
    (-0.3, 0.36, Verdict.UNRESOLVED),
    (0.0, 9.0, Verdict.UNRESOLVED),
    (1.0, 0.36, Verdict.REFUTED),
    (-1.0, 0.36, Verdict.REFUTED),
    (0.0, NAN, Verdict.UNRESOLVED),
  )
  def test_within(self, mean, half_width, expected):
    result = reporting.verdict_within(Interval(mean, half_width), 0.5)
    self.assertEqual(result, expected)

  @parameterized.parameters(0.0, -0.5, NAN)
  def test_within_refuses_margin(self, margin):
    with self.assertRaisesRegex(ValueError, "margin must be positive"):
      reporting.verdict_within(Interval(0.0, 0.1), margin)


class TableTest(absltest.TestCase):
  def test_aligns_numbers_right_and_text_left(self):
    text = reporting.table(
      [
        ["ln", Interval(97.64, 0.15), 0.27712345, "10.2 ± 0.10"],
        ["none", Interval(7.66, 0.24), 3, None],
      ],
      ["norm", "accuracy", "loss", "rate"],
    )
    expected = """\
      | norm   |     accuracy |   loss |        rate |
      |:-------|-------------:|-------:|------------:|
      | ln     | 97.64 ± 0.15 | 0.2771 | 10.2 ± 0.10 |
      | none   |  7.66 ± 0.24 |      3 |             |"""
    self.assertEqual(text, textwrap.dedent(expected))

  def test_keeps_text_that_looks_like_a_number(self):
    text = reporting.table([["1e3", "0010"], ["x", "-"]], ["a", "b"])
    self.assertIn("| 1e3 | 0010 |", text)

  def test_no_rows(self):
    self.assertIn("| norm", reporting.table([], ["norm", "loss"]))

  def test_refuses_ragged_rows(self):
    with self.assertRaisesRegex(ValueError, "2 headers, but a row"):
      reporting.table([["ln"]], ["norm", "loss"])


class ProgressTest(absltest.TestCase):
  def test_is_silent_without_a_terminal(self):
    with mock.patch.object(sys.stderr, "isatty", lambda: False):
      bar = reporting.progress(range(3))
    self.assertTrue(bar.disable)
    self.assertEqual(list(bar), [0, 1, 2])

  def test_leaves_nothing_on_a_terminal(self):
    with mock.patch.object(sys, "stderr") as stderr:
      stderr.isatty.return_value = True
      stderr.encoding = "utf-8"
      with reporting.progress(total=2, description="ln") as bar:
        bar.update()
    written = "".join(call.args[0] for call in stderr.write.call_args_list)
    self.assertIn("ln", written)
    self.assertEqual(written.rsplit("\r", 1)[-1].strip(), "")


class WriteTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.enterContext(tempfile.TemporaryDirectory()) + "/new"
    self.path = self.folder + "/summary.json"

  def read(self):
    def refuse(constant):
      raise AssertionError(f"{constant} is not JSON.")

    with open(self.path, encoding="utf-8") as file:
      return json.load(file, parse_constant=refuse)

  def test_json_round_trip(self):
    reporting.write_json(
      self.path,
      {
        "nan": [NAN, math.inf, -math.inf, np.float32(NAN), 0.5],
        "array": np.array([[1.0, NAN]], np.float32),
        "jax": jnp.arange(2),
        "scalars": (np.int64(3), jnp.float32(0.5), True, None),
        "interval": Interval(97.64, NAN),
        "verdict": Verdict.CONFIRMED,
        "text": "±",
      },
    )
    self.assertEqual(
      self.read(),
      {
        "nan": [None, None, None, None, 0.5],
        "array": [[1.0, None]],
        "jax": [0, 1],
        "scalars": [3, 0.5, True, None],
        "interval": {"mean": 97.64, "half_width": None},
        "verdict": "CONFIRMED",
        "text": "±",
      },
    )

  def test_failure_keeps_the_old_file(self):
    reporting.write_json(self.path, {"a": 1})
    with self.assertRaisesRegex(TypeError, "set"):
      reporting.write_json(self.path, {"a": {1}})
    with (
      mock.patch.object(os, "replace", side_effect=OSError("disk full")),
      self.assertRaisesRegex(OSError, "disk full"),
    ):
      reporting.write_json(self.path, {"a": 2})
    self.assertEqual(self.read(), {"a": 1})
    self.assertEqual(os.listdir(self.folder), ["summary.json"])

  def test_readers_see_old_or_new(self):
    # What a reader opened before the replacement stays whole.
    reporting.write_json(self.path, {"a": "old"})
    with open(self.path, encoding="utf-8") as file:
      reporting.write_json(self.path, {"a": "new"})
      self.assertEqual(json.load(file), {"a": "old"})
    self.assertEqual(self.read(), {"a": "new"})

  def test_permissions_follow_the_umask(self):
    reporting.write_json(self.path, {})
    plain = os.path.join(self.folder, "plain")
    open(plain, "w").close()
    self.assertEqual(os.stat(self.path).st_mode, os.stat(plain).st_mode)


class MetricsLogTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = self.enterContext(tempfile.TemporaryDirectory())

  def lines(self):
    path = os.path.join(self.workdir, "metrics.jsonl")
    with open(path, encoding="utf-8") as file:
      return [json.loads(line) for line in file]

  def scalars(self, run):
    """Returns (step, tag, value) of all events of a run."""
    folder = os.path.join(self.workdir, "tensorboard", run)
    found = []
    for name in sorted(os.listdir(folder)):
      for event in read_events(os.path.join(folder, name)):
        for value in event.summary.value:
          found.append((event.step, value.tag, round(value.simple_value, 6)))
    return found

  def test_appends_lines_and_scalars(self):
    with reporting.MetricsLog(self.workdir) as log:
      log.append(
        {
          "norm": "ln",
          "epoch": 1,
          "train_loss": np.array([0.25, NAN, 0.75]),
          "seconds": 1.5,
          "stopped": [True, False],
          "diverged": NAN,
        }
      )
      log.append({"norm": "rms", "seed": 0, "epoch": 1, "seconds": 2.0})
      log.append({"norm": "ln", "test_accuracy": 0.5})
      # Both are complete before the log is closed.
      self.assertEqual(
        self.lines(),
        [
          {
            "norm": "ln",
            "epoch": 1,
            "train_loss": [0.25, None, 0.75],
            "seconds": 1.5,
            "stopped": [True, False],
            "diverged": None,
          },
          {"norm": "rms", "seed": 0, "epoch": 1, "seconds": 2.0},
          {"norm": "ln", "test_accuracy": 0.5},
        ],
      )
      self.assertEqual(
        self.scalars("ln"), [(1, "train_loss", 0.5), (1, "seconds", 1.5)]
      )
      self.assertEqual(self.scalars("rms-seed0"), [(1, "seconds", 2.0)])

  def test_resume_drops_what_the_checkpoint_does_not_know(self):
    records = [
      {"norm": "ln", "epoch": epoch, "val_loss": 1 / epoch}
      for epoch in (1, 2, 4)
    ]
    with reporting.MetricsLog(self.workdir) as log:
      for record in records:
        log.append(record)
    with open(os.path.join(self.workdir, "metrics.jsonl"), "a") as file:
      file.write('{"norm": "ln", "epo')  # Killed in the middle of a line.
    events = os.path.join(self.workdir, "tensorboard", "ln")
    (name,) = os.listdir(events)
    older = "events.out.tfevents.1.host"  # Names hold the time in seconds.
    os.rename(os.path.join(events, name), os.path.join(events, older))
    with reporting.MetricsLog(self.workdir, records[:2]) as log:
      self.assertEqual(self.lines(), records[:2])
      log.append(records[2])
    self.assertEqual(self.lines(), records)
    self.assertEqual(
      self.scalars("ln"),
      [(1, "val_loss", 1.0), (2, "val_loss", 0.5), (4, "val_loss", 0.25)],
    )

  def test_survives_a_kill(self):
    code = textwrap.dedent(f"""
      import os, signal
      from experiments.lab import reporting
      log = reporting.MetricsLog({self.workdir!r})
      for epoch in (1, 2):
        log.append({{"norm": "ln", "epoch": epoch, "val_loss": 0.5}})
      os.kill(os.getpid(), signal.SIGKILL)
    """)
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    self.assertEqual(killed.returncode, -signal.SIGKILL)
    self.assertLen(self.lines(), 2)
    self.assertEqual(
      self.scalars("ln"), [(1, "val_loss", 0.5), (2, "val_loss", 0.5)]
    )

  def test_needs_no_tensorflow(self):
    code = textwrap.dedent(f"""
      import sys
      from experiments.lab import reporting
      assert "tensorboardX" not in sys.modules
      assert "scipy" not in sys.modules
      with reporting.MetricsLog({self.workdir!r}) as log:
        log.append({{"epoch": 1, "loss": 0.5}})
      assert "tensorflow" not in sys.modules
    """)
    subprocess.run([sys.executable, "-c", code], check=True)


def read_events(path):
  from tensorboardX.proto import event_pb2
  from tensorboardX.record_writer import masked_crc32c

  with open(path, "rb") as file:
    data = file.read()
  while data:
    # Length, its checksum, the event, its checksum.
    size = int.from_bytes(data[:8], "little")
    event, check = data[12 : 12 + size], data[12 + size : 16 + size]
    assert int.from_bytes(check, "little") == masked_crc32c(event)
    yield event_pb2.Event.FromString(event)
    data = data[16 + size :]


if __name__ == "__main__":
  absltest.main()
