"""The study of folded batch norms: claims and checks that can fail."""

import contextlib
import io
import json
import os
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from flax import traverse_util

from experiments.inference import __main__ as inference
from experiments.inference import nets
from experiments.lab import study
from experiments.lab.latency import Latencies
from experiments.lab.runs import machine
from experiments.lab.runs.workdir import Files

HIDDEN = (2, 3, 4, 5)
CLAIMS = [claim.name for claim in inference.CLAIMS]


def judged(ratio, processes=10, load=0.1):
  """Judges times; returns the verdicts and what was printed.

  Args:
    ratio: Of the unfolded over the folded net.
    processes, load: As in `Latencies`.
  """
  rng = np.random.default_rng(0)
  noise = lambda: rng.normal(1, 0.01, processes)
  seconds = {
    f"batch {size}": {"unfolded": ratio * noise(), "folded": noise()}
    for size in nets.SIZES
  }
  output = io.StringIO()
  with (
    tempfile.TemporaryDirectory() as folder,
    contextlib.redirect_stdout(output),
  ):
    run = study.Run(pathlib.Path(folder))
    inference.judge(Latencies(seconds, np.full(processes, load)), run)
    found = {finding.claim: finding.verdict for finding in run.findings()}
  return found, output.getvalue()


class ClaimsTest(parameterized.TestCase):
  @parameterized.parameters(
    (1.2, "CONFIRMED"),
    (1.03, "SMALLER THAN CLAIMED"),
    (1.0, "UNRESOLVED"),
    (0.9, "REFUTED"),
  )
  def test_follow_the_ratio(self, ratio, verdict):
    self.assertEqual(judged(ratio)[0], dict.fromkeys(CLAIMS, verdict))

  @parameterized.parameters(
    ({"processes": 9}, "claims need 10 processes, this run has 9"),
    ({"load": 0.6}, "the load before the start was 0.6"),
  )
  def test_are_not_judged(self, setting, reason):
    found, printed = judged(1.2, **setting)
    self.assertEmpty(found)
    self.assertIn(f"No verdict on times: {reason}", printed)


class NetsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.inputs = rng.uniform(size=(64, 8, 8, 1)).astype("f")
    self.model = nets.convnet(HIDDEN)
    key = jax.random.key(0)
    variables = self.model.init(key, self.inputs[:1], train=False)
    # Statistics and gains that do something.
    self.flat = {
      name: np.asarray(value) + rng.uniform(0.1, 0.5, value.shape).astype("f")
      for name, value in traverse_util.flatten_dict(variables, sep="/").items()
    }

  def answers(self, flat, norms_of):
    """Returns the logits of a net, and of one with other statistics, folded."""
    plain = nets.pair(self.model, flat, self.inputs[:1])["unfolded"]
    folded = nets.pair(self.model, norms_of, self.inputs[:1])["folded"]
    return {
      arm: np.asarray(nets.compiled(net)(own, self.inputs))
      for arm, (net, own) in (("unfolded", plain), ("folded", folded))
    }

  def test_the_check_of_logits_can_fail(self):
    labels = np.zeros(64, np.int32)
    same = nets.compared(self.answers(self.flat, self.flat), labels)
    self.assertTrue(inference.LOGITS.outcome(same["difference"]).holds)
    name = "batch_stats/BatchNorm_0/mean"
    other = {**self.flat, name: self.flat[name] + 0.01}
    changed = nets.compared(self.answers(self.flat, other), labels)
    self.assertFalse(inference.LOGITS.outcome(changed["difference"]).holds)

  def test_sizes(self):
    found = {
      arm: nets.sizes(net, own, self.inputs)
      for arm, (net, own) in nets.pair(
        self.model, self.flat, self.inputs[:1]
      ).items()
    }
    # Kernels and biases: 3x3 convolutions, then dense layers from one pixel.
    weights = 9 * (1 * 2 + 2 * 3 + 3 * 4) + 4 * 5 + 5 * 10
    biases = 2 + 3 + 4 + 5 + 10
    folded, unfolded = found["folded"], found["unfolded"]
    self.assertEqual(folded["numbers"], weights + biases)
    self.assertEqual(unfolded["numbers"], weights + biases + 4 * sum(HIDDEN))
    self.assertEqual(folded["bytes"], 4 * folded["numbers"])
    self.assertEqual((unfolded["arrays"], folded["arrays"]), (26, 10))
    for size in nets.SIZES:
      name = f"operations, batch {size}"
      self.assertLess(folded[name], unfolded[name])
    self.assertEqual(nets.surplus(found, HIDDEN), 0)
    self.assertGreater(nets.surplus(found, (2, 3, 4, 6)), 0)


class RunTest(absltest.TestCase):
  def test_times_in_a_process_of_its_own(self):
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.enter_context(mock.patch.object(machine, "load", return_value=0.7))
    # Of the new process.
    sooner = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": ""}
    self.enter_context(mock.patch.dict(os.environ, sooner))
    config = inference.Config(
      dataset="digits", seeds=1, steps=2, hidden=HIDDEN, rounds=1
    )
    output = io.StringIO()
    with (
      contextlib.redirect_stdout(output),
      jax.numpy_dtype_promotion("standard"),  # Of optax.
    ):
      summary = study.run(
        "inference", inference.measure, config, Files(folder), command="c"
      )
    printed = output.getvalue()
    self.assertIn("will not be judged: the load before the start", printed)
    self.assertRegex(printed, r"(?m)^process_0: ")
    self.assertEmpty(summary["findings"])
    self.assertLen(summary["checks"], 3)
    self.assertTrue(all(check["holds"] for check in summary["checks"]))
    self.assertEqual(summary["loads"], [0.7])
    self.assertEqual(summary["figures"], ["inference.png"])
    with np.load(pathlib.Path(folder, "parts/process_0.npz")) as part:
      for size in nets.SIZES:
        for arm in nets.ARMS:
          self.assertGreater(part[f"batch {size}/{arm}"][0], 0)
    written = json.loads(pathlib.Path(folder, "summary.json").read_text())
    self.assertEqual(written["sizes"]["folded"]["arrays"], 10)


if __name__ == "__main__":
  absltest.main()
