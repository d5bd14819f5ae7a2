"""The study of smoothness: its probes, and claims whose effect is absent."""

import contextlib
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments.lab import study
from experiments.lab.data import arrays
from experiments.lab.models.norms import norm_factory
from experiments.smoothness import __main__ as smoothness

SEEDS, PROBES = 20, 4


def verdicts(arms, probes):
  with tempfile.TemporaryDirectory() as folder:
    run = study.Run(pathlib.Path(folder))
    with contextlib.redirect_stdout(io.StringIO()):
      smoothness.judge(arms, probes, run)
    return {finding.claim: finding.verdict for finding in run.findings()}


class ClaimsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.rng = np.random.default_rng(0)

  def scattered(self, mean, *shape):
    return mean * np.exp(self.rng.normal(0, 0.1, shape))

  def probes(self, size, cosine):
    """Returns probes of a training whose quantities have this size."""
    shape = 2, SEEDS, PROBES
    return {
      **{name: self.scattered(size, *shape) for name in smoothness.QUANTITIES},
      "cosine": self.scattered(cosine, *shape),
      "sharpness": self.scattered(size, SEEDS, PROBES),
    }

  def arm(self, error):
    return {"error": self.scattered(error, SEEDS)}

  def test_effects_that_are_there(self):
    found = verdicts(
      {"none": self.arm(8), "bn": self.arm(5), "noisy": self.arm(5)},
      {"none": self.probes(20, 0.9), "bn": self.probes(1, 0.5)},
    )
    names = (claim.name for claim in smoothness.CLAIMS)
    self.assertEqual(found, dict.fromkeys(names, "CONFIRMED"))

  def test_swapped_nets_with_noise_that_harms(self):
    found = verdicts(
      {"none": self.arm(5), "bn": self.arm(5), "noisy": self.arm(8)},
      {"none": self.probes(1, 0.5), "bn": self.probes(20, 0.9)},
    )
    self.assertEqual({*found}, {claim.name for claim in smoothness.CLAIMS})
    self.assertEqual({*found.values()}, {"REFUTED"})

  def test_noise_that_takes_back_what_the_norm_gains(self):
    same = {"none": self.probes(1, 0.5), "bn": self.probes(1, 0.5)}
    found = verdicts(
      {"none": self.arm(8), "bn": self.arm(5), "noisy": self.arm(8)}, same
    )
    self.assertEqual(found["noisy_as_good_as_clean"], "REFUTED")
    self.assertNotEqual(found["noisy_better_than_none"], "CONFIRMED")


class TrainingTest(absltest.TestCase):
  def test_norm_removed(self):
    """The probes of two nets without a norm show no difference."""
    # Optax mixes integers and floats, and the hyperparameters with both.
    self.enter_context(jax.numpy_dtype_promotion("standard"))
    config = smoothness.Config(seeds=2, steps=100, hidden=(8, 8))
    pool = arrays.load_pool("digits")
    pool = pool._replace(examples=jax.tree.map(jnp.asarray, pool.examples))
    norm = norm_factory("none")
    probes = smoothness.probe(norm, config, pool, [0.1, 0.3])
    self.assertEqual(probes["range"].shape, (2, 2, 5))
    self.assertEqual(probes["sharpness"].shape, (2, 1))
    arm = smoothness.train(norm, config, pool, [0.1, 0.3], (0, 1))
    self.assertLess(arm["error"][1].max(), 70)  # Guessing: 90%.
    arm = {name: values[0] for name, values in arm.items()}
    found = verdicts(
      dict.fromkeys(("none", "bn", "noisy"), arm),
      dict.fromkeys(("none", "bn"), probes),
    )
    # Equal nets do confirm the claims that nothing differs.
    alike = {"shift", "noisy_as_good_as_clean"}
    for name in {*found} - alike:
      self.assertEqual(found[name], "UNRESOLVED")


if __name__ == "__main__":
  absltest.main()
