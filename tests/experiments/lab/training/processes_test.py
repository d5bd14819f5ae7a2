"""Two processes on one machine: the numbers of one, whatever is killed."""

import contextlib
import io
import json
import os
import pathlib
import tempfile
from unittest import mock

import chex
import jax
import numpy as np
from absl.testing import absltest
from jax.experimental import multihost_utils

from experiments.lab import study
from experiments.lab.runs import workdir
from experiments.lab.runs.workdir import Files
from experiments.lab.training import devices, processes
from experiments.transformer import __main__ as transformer
from experiments.transformer.options import Config
from tests.experiments import programs

SETTINGS = {
  "layers": 1,
  "width": 8,
  "heads": 2,
  "context": 8,
  "batch_size": 4,
  "eval_every": 2,
  "steps": 10,
}


class SameTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(mock.patch("jax.process_count", return_value=3))
    self.gather = self.enter_context(
      mock.patch.object(multihost_utils, "process_allgather")
    )

  def test_all_refuse_the_data_of_which_one_has_others(self):
    def different(mine):
      return np.stack([mine, mine, mine ^ 1])

    self.gather.side_effect = different
    message = "0 and 2 have different data; process 0 has digits. Start all"
    with self.assertRaisesRegex(devices.DevicesError, message):
      processes.check_same_data("digits", [np.zeros(3)])

  def test_names_and_every_value_count(self):
    self.gather.side_effect = lambda mine: np.stack([mine] * 3)
    data = np.arange(6.0).reshape(2, 3)
    given = (
      ("a", [data]),
      ("b", [data]),
      ("a", [data, data]),
      ("a", [data + np.eye(2, 3)]),
      ("a", [data.T]),
    )
    for name, tree in given:
      processes.check_same_data(name, tree)
    digests = {call.args[0].tobytes() for call in self.gather.mock_calls}
    self.assertLen(digests, len(given))


class ProcessesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )
    self.enter_context(contextlib.chdir(self.folder))
    # An even number is for training, of which each process has one half.
    letters = np.random.default_rng(0).integers(97, 105, 1000, np.uint8)
    (self.folder / "letters").write_bytes(bytes(letters))

  def start_pair(self, workdir):
    pair = programs.start_together(
      2,
      "transformer",
      *("--norm=bn", "--dataset=letters"),
      *(f"--{name}={value}" for name, value in SETTINGS.items()),
      *(f"--workdir={workdir}", "--resume"),
      NORMJAX_CACHE_DIR="cache",
    )
    for process in pair:
      self.addCleanup(process.stdout.close)
      self.addCleanup(process.wait)
      self.addCleanup(process.kill)
    return pair

  def records(self, workdir):
    """Returns the numbers but those of speed."""
    lines = (self.folder / workdir / "metrics.jsonl").read_text().splitlines()
    return [
      {
        name: value
        for name, value in json.loads(line).items()
        if "second" not in name and name != "model"
      }
      for line in lines
    ]

  def test_a_pair_is_as_one_and_survives_a_kill(self):
    with (
      contextlib.redirect_stdout(io.StringIO()),
      jax.numpy_dtype_promotion("standard"),  # Optax's Adam mixes them.
    ):
      config = Config(norm=("bn",), dataset="letters", **SETTINGS)
      study.run(
        "transformer",
        transformer.measure,
        config,
        Files(str(self.folder / "one")),
      )

    processes = self.start_pair("pair")
    pair = self.folder / "pair"
    programs.wait(processes[1], lambda: programs.evaluations(pair) >= 2)
    processes[1].kill()
    output = programs.output(processes[0], 1)
    self.assertRegex(output, "Process 0 stops.*another one has ended")
    self.assertLess(len(self.records("pair")), 5)

    first, second = map(programs.output, self.start_pair("pair"))
    self.assertIn("2 devices", first)
    self.assertIn("Resuming after step", first)
    self.assertNotIn("validation", second)  # It prints nothing of its own.
    one, pair = self.records("one"), self.records("pair")
    self.assertLen(pair, 5)
    # Two processes add up a sum in another order than one does.
    chex.assert_trees_all_close(pair, one, rtol=2e-6)

  def test_a_folder_in_use_is_refused_to_all(self):
    with workdir.opened("transformer", Config(), Files("pair"), ""):
      outputs = [
        programs.output(process, 1) for process in self.start_pair("pair")
      ]
    for output in outputs:
      self.assertRegex(output, f"pair is in use by process {os.getpid()} on")
      self.assertNotIn("Traceback", output)


if __name__ == "__main__":
  absltest.main()
