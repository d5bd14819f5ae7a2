"""Tests of the metrics file and of TensorBoard's event files."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap

import numpy as np
from absl.testing import absltest

from experiments.lab.runs.metrics import MetricsLog

NAN = math.nan


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
    with MetricsLog(self.workdir) as log:
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

  def test_a_stopped_seed_counts_with_its_last_number(self):
    with MetricsLog(self.workdir) as log:
      for epoch, losses in enumerate([[3.0, 1.0], [2.0, NAN], [NAN, NAN]]):
        log.append({"norm": "ln", "epoch": epoch, "val_loss": losses})
    self.assertEqual(
      [value for _, _, value in self.scalars("ln")], [2.0, 1.5, 1.5]
    )

  def test_resume_drops_what_the_checkpoint_does_not_know(self):
    records = [
      {"norm": "ln", "epoch": epoch, "val_loss": 1 / epoch}
      for epoch in (1, 2, 4)
    ]
    with MetricsLog(self.workdir) as log:
      for record in records:
        log.append(record)
    with open(os.path.join(self.workdir, "metrics.jsonl"), "a") as file:
      file.write('{"norm": "ln", "epo')  # Killed in the middle of a line.
    events = os.path.join(self.workdir, "tensorboard", "ln")
    (name,) = os.listdir(events)
    older = "events.out.tfevents.1.host"  # Names hold the time in seconds.
    os.rename(os.path.join(events, name), os.path.join(events, older))
    with MetricsLog(self.workdir, records[:2]) as log:
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
      from experiments.lab.runs import metrics
      log = metrics.MetricsLog({self.workdir!r})
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
      from experiments.lab.runs import metrics
      assert "tensorboardX" not in sys.modules
      assert "scipy" not in sys.modules
      with metrics.MetricsLog({self.workdir!r}) as log:
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
