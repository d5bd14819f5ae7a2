"""Criteria of the studies can fail: controls in which the effect is absent."""

import contextlib
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments import batch_size, lr_range
from experiments.lab import study
from experiments.lab.data import images as data
from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Batch
from experiments.lab.errors import RefusedError


def setUpModule():
  jax.config.update("jax_disable_most_optimizations", True)


def tearDownModule():
  jax.config.update("jax_disable_most_optimizations", False)


def digits(labels=lambda labels: labels):
  loaded = data.load("digits")
  splits = (
    Batch(jnp.asarray(split.images), jnp.asarray(labels(split.labels)))
    for split in (loaded.train, loaded.test)
  )
  return Images("digits", *splits, 10, lambda x: x.astype(jnp.float32) / 16)


class ControlTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.run_ = study.Run(pathlib.Path(folder))
    self.enter_context(contextlib.redirect_stdout(io.StringIO()))
    # Optax mixes integers and floats, and the hyperparameters with both.
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  def verdicts(self):
    return {finding.claim: finding.verdict for finding in self.run_._findings}

  def test_small_batches_with_the_norm_removed(self):
    """Trained alike, "bn" is no worse than "gn": the claim must not hold."""
    config = batch_size.Config(seeds=2, examples=128, hidden=(16,))

    def arms(bn):
      return {
        ("bn", 2): batch_size.best(batch_size.train(bn, 2, config, digits())),
        ("gn", 2): batch_size.best(batch_size.train("gn", 2, config, digits())),
      }

    batch_size.judge(arms("gn"), self.run_)
    self.assertEqual(set(self.verdicts().values()), {"REFUTED"})

  def test_learning_rates_with_labels_shuffled(self):
    """Nothing can be learned, so that no rate trains any arm."""
    config = lr_range.Config(seeds=2, steps=20, hidden=(8,))
    rng = np.random.default_rng(0)
    images = digits(lambda labels: rng.integers(0, 10, len(labels), np.int32))
    rates = lr_range.RATES["sgd"][:3:2]
    for norm in ("none", "bn"):
      loss = lr_range.train(
        norm, "sgd", rates, np.ones(len(rates)), config, images
      )["loss"]
      np.testing.assert_allclose(
        lr_range.largest_rate(loss, rates), rates[0] / np.sqrt(10)
      )

  def test_group_norm_gets_advice_that_fits(self):
    config = lr_range.Config(seeds=1, steps=20, hidden=(12,))
    with self.assertRaisesRegex(
      RefusedError, "does not divide the 12 channels; make .* multiple of 8.$"
    ):
      lr_range.train("gn", "sgd", [0.1], [1.0], config, digits())

  @parameterized.parameters(
    ([[0.1, 3.0], [0.2, 0.4], [2.0, 2.0]], [1.0, 1.0]),
    ([[3.0, 3.0], [3.0, 0.4], [2.0, 2.0]], [0.1 / np.sqrt(10), 1.0]),
  )
  def test_largest_rate_that_trains(self, loss, expected):
    found = lr_range.largest_rate(np.array(loss), np.array([0.1, 1.0, 10.0]))
    np.testing.assert_allclose(found, expected)


if __name__ == "__main__":
  absltest.main()
