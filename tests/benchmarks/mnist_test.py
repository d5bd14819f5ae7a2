import contextlib
import importlib.util
import io
import json
import os
import sys
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest

from benchmarks import mnist
from experiments.lab.data import images as data

HAS_TORCH = importlib.util.find_spec("torch") is not None


class DataTest(absltest.TestCase):
  def test_synthetic_has_the_shape_of_mnist(self):
    train = mnist.synthetic(1000)
    self.assertEqual(train.images.shape, (1000, 28, 28, 1))
    self.assertEqual(train.images.dtype, np.uint8)
    self.assertEqual(train.labels.dtype, np.int32)
    self.assertEqual(np.unique(train.labels).tolist(), list(range(10)))

  def test_says_that_mnist_is_absent(self):
    absent = data.UnavailableError("not prepared")
    with (
      mock.patch.object(data, "load", side_effect=absent),
      mock.patch.object(mnist, "EXAMPLES", 64),
    ):
      train, what = mnist.load(None)
    self.assertLen(train.labels, 64)
    self.assertRegex(what, "^synthetic.*not prepared")

  def test_takes_four_fifths_of_mnist_for_training(self):
    whole = mnist.synthetic(100)
    dataset = data.Dataset("mnist", whole, whole, 10, 255)
    with mock.patch.object(data, "load", return_value=dataset):
      train, what = mnist.load(None)
    self.assertLen(train.labels, 80)
    self.assertEqual(what, "MNIST")


class EpochTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    # Optax's Adam raises floats to integer powers.
    self.enterContext(jax.numpy_dtype_promotion("standard"))

  def losses(self, make):
    epoch = make(mnist.synthetic(1280))
    return [epoch() for _ in range(5)]

  def test_normjax_learns(self):
    losses = self.losses(mnist.normjax_epoch)
    # Chance is log(10) = 2.3. A fifth of the labels is guessed: with the best
    # prediction of those the loss is 0.87.
    self.assertLess(losses[-1], 1.0)
    self.assertLess(losses[-1], losses[0])

  @absltest.skipUnless(HAS_TORCH, "PyTorch is not installed.")
  def test_torch_learns_alike(self):
    ours = self.losses(mnist.normjax_epoch)
    theirs = self.losses(mnist.torch_epoch)
    np.testing.assert_allclose(theirs[-1], ours[-1], rtol=0.15)

  @absltest.skipUnless(HAS_TORCH, "PyTorch is not installed.")
  def test_chooses_a_variant_of_torch(self):
    train = mnist.synthetic(640)
    name, epoch = mnist.fastest_torch(train)
    self.assertIn(name, mnist.torch_variants(train))
    self.assertLess(epoch(), 3.0)


class MeasureTest(absltest.TestCase):
  def test_takes_turns_after_one_untimed_epoch(self):
    calls = []

    def epoch(name):
      def call():
        calls.append(name)
        return float(len(calls))

      return call

    seconds, losses = mnist.measure({"a": epoch("a"), "b": epoch("b")}, 2)
    self.assertEqual("".join(calls), "ababab")
    self.assertEqual(
      {name: len(s) for name, s in seconds.items()}, {"a": 2, "b": 2}
    )
    self.assertEqual(losses, {"a": 5.0, "b": 6.0})

  def test_report_by_hand(self):
    text = mnist.report(
      {"ours": [0.2, 0.3, 0.7], "theirs": [0.8, 1.0, 1.4]},
      {"ours": 0.1, "theirs": 0.2},
    )
    self.assertIn("0.300 |     0.200 |     0.700 |", text)
    self.assertEndsWith(
      text,
      "Ratio of medians 0.30, of single repeats 0.25 to 0.50."
      " At most 0.5: yes.",
    )

  def test_report_of_a_missed_target(self):
    text = mnist.report(
      {"ours": [0.6], "theirs": [1.0]}, {"ours": 0.1, "theirs": 0.2}
    )
    self.assertEndsWith(text, "At most 0.5: NO.")


class RunTest(absltest.TestCase):
  def test_without_torch(self):
    path = os.path.join(
      self.enterContext(tempfile.TemporaryDirectory()), "out.json"
    )
    with (
      mock.patch.dict(sys.modules, torch=None),
      mock.patch.dict(os.environ),
      jax.numpy_dtype_promotion("standard"),  # As in EpochTest.
      contextlib.redirect_stdout(io.StringIO()) as stdout,
    ):
      mnist.run(mnist.synthetic(128), "synthetic", 2, path)
    self.assertIn("128 examples of synthetic", stdout.getvalue())
    self.assertIn("PyTorch is not installed", stdout.getvalue())
    self.assertNotIn("Ratio", stdout.getvalue())
    with open(path, encoding="utf-8") as file:
      result = json.load(file)
    self.assertEqual([len(s) for s in result["seconds"].values()], [2])


if __name__ == "__main__":
  absltest.main()
