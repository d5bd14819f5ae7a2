"""Criteria of the studies can fail: controls in which the effect is absent."""

import contextlib
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from experiments import batch_size, moons
from experiments.lab import study
from experiments.lab.data import images as data
from experiments.lab.data import points
from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Batch


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

  def test_half_moons_with_the_norm_removed(self):
    config = moons.Config(seeds=2, epochs=2, points=128, hidden=(8,))
    data = points.draw("moons", 128, seed=0)
    arm = moons.train("none", config, data, data)
    moons._judge("bn", arm, arm, "moons", self.run_)
    verdicts = self.verdicts()
    self.assertEqual(verdicts["bn is faster on moons (equal rate)"], "REFUTED")
    self.assertNotIn("CONFIRMED", verdicts.values())


if __name__ == "__main__":
  absltest.main()
