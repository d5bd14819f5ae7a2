"""The study of the place of batch norm: claims whose effect is absent."""

import contextlib
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments import position
from experiments.lab import study
from experiments.lab.data import arrays

SEEDS = 20


def digits():
  pool = arrays.load_pool("digits")
  return pool._replace(examples=jax.tree.map(jnp.asarray, pool.examples))


def verdicts(errors):
  with tempfile.TemporaryDirectory() as folder:
    run = study.Run(pathlib.Path(folder))
    with contextlib.redirect_stdout(io.StringIO()):
      position.judge(errors, run)
    return {finding.claim: finding.verdict for finding in run.findings()}


class ClaimsTest(absltest.TestCase):
  def errors(self, relu, sigmoid):
    """Returns made-up errors; how much more "after" errs."""
    rng = np.random.default_rng(0)
    found = {}
    for activation, more in (("relu", relu), ("sigmoid", sigmoid)):
      found[activation, "before"] = rng.normal(5, 0.1, SEEDS)
      found[activation, "after"] = rng.normal(5 + more, 0.1, SEEDS)
    return found

  def test_an_effect_that_is_there(self):
    names = [claim.name for claim in position.CLAIMS]
    self.assertEqual(
      verdicts(self.errors(1, -1)), dict.fromkeys(names, "CONFIRMED")
    )

  def test_places_swapped(self):
    names = [claim.name for claim in position.CLAIMS]
    self.assertEqual(
      verdicts(self.errors(-1, 1)), dict.fromkeys(names, "REFUTED")
    )

  def test_a_place_that_is_better_with_both_activations(self):
    found = verdicts(self.errors(1, 1))
    self.assertEqual(found["relu_before"], "CONFIRMED")
    self.assertEqual(found["sigmoid_after"], "REFUTED")
    self.assertNotEqual(found["place_depends"], "CONFIRMED")

  def test_the_norm_removed(self):
    """Without a norm it has no place: both arms are the same training."""
    config = position.Config(examples=640, hidden=(16,))
    pool = digits()
    errors = {}
    with jax.numpy_dtype_promotion("standard"):  # Of optax.
      for activation in ("relu", "sigmoid"):
        arm = activation, "none"
        found = position.train(arm, config, pool, [3e-3, 3e-2], [0, 1, 2])
        self.assertEqual(found["validation"].shape, (2, 3))
        for place in ("before", "after"):
          errors[activation, place] = found["error"][1]
    self.assertNotIn("CONFIRMED", verdicts(errors).values())


if __name__ == "__main__":
  absltest.main()
