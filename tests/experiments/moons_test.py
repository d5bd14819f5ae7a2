"""The study of half moons: its points, and claims whose effect is absent."""

import contextlib
import dataclasses
import io
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest

from experiments import moons
from experiments.lab import study

SEEDS = 20


def verdicts(same, tuned):
  with tempfile.TemporaryDirectory() as folder:
    settings = dataclasses.asdict(moons.Config())
    run = study.Run(pathlib.Path(folder), settings=settings)
    with contextlib.redirect_stdout(io.StringIO()):
      moons.judge(same, tuned, run)
    return {finding.claim: finding.verdict for finding in run.findings()}


class ClaimsTest(absltest.TestCase):
  def arms(self, factor, points):
    """Returns made-up arms; factor of bn's losses, points of its accuracy."""
    rng = np.random.default_rng(0)
    loss = np.exp(rng.normal(-1, 0.05, (2, SEEDS, 50)))
    accuracy = rng.normal(90, 0.1, (2, SEEDS))
    return {
      "none": {"loss": loss[0], "accuracy": accuracy[0]},
      "bn": {"loss": factor * loss[1], "accuracy": accuracy[1] + points},
    }

  def test_effects_that_are_there(self):
    arms = self.arms(0.4, 2)
    found = verdicts(arms, arms)
    names = [claim.name for claim in moons.CLAIMS]
    self.assertEqual(found, dict.fromkeys(names, "CONFIRMED"))

  def test_effects_that_are_the_opposite(self):
    arms = self.arms(2.0, -2)
    names = [claim.name for claim in moons.CLAIMS]
    found = verdicts(arms, arms)
    self.assertEqual(found, dict.fromkeys(names, "REFUTED"))

  def test_the_norm_removed(self):
    """Trained alike, no claim holds; the seeds are those of other points."""
    config = moons.Config(seeds=5, epochs=4, points=128, hidden=(8,))
    with jax.numpy_dtype_promotion("standard"):  # Of optax.
      found = moons.train("none", config, [0.01], range(10))
    halves = (slice(5), slice(5, 10))
    arms = {
      norm: {name: found[name][0][half] for name in ("loss", "accuracy")}
      for norm, half in zip(("none", "bn"), halves, strict=True)
    }
    self.assertNotIn("CONFIRMED", verdicts(arms, arms).values())
    self.assertLess(found["loss"][0][:, -1].mean(), found["loss"][0, 0, 0])
    self.assertEqual(found["boundary"].shape, (1, moons.GRID**2))


class PointsTest(absltest.TestCase):
  def test_every_seed_has_its_own_points(self):
    for dataset in ("moons", "spirals"):
      config = moons.Config(dataset=dataset, points=32)
      images = moons.split(config, [3, 4], 2)
      sets = images.train, images.validation, images.test
      self.assertEqual([s.num_examples for s in sets], [32, 32, 64])
      # A seed has the same points at every rate, and whatever the other seeds.
      np.testing.assert_array_equal(
        sets[0].lane(1).inputs, sets[0].lane(3).inputs
      )
      alone = moons.split(config, [4], 1)
      np.testing.assert_array_equal(
        sets[2].lane(1).inputs, alone.test.lane(0).inputs
      )
      # All points are different ones.
      points = np.concatenate(
        [s.lane(lane).inputs for s in sets for lane in (0, 1)]
      )
      self.assertLen(np.unique(points, axis=0), 256)
      for lane in (0, 1):
        share = float(np.mean(sets[0].lane(lane).targets))
        self.assertBetween(share, 0.2, 0.8)


if __name__ == "__main__":
  absltest.main()
