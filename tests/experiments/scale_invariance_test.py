"""The study of scale invariance: exact parts, and claims that can fail."""

import contextlib
import io
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments import scale_invariance
from experiments.lab import study
from experiments.lab.data import arrays
from experiments.lab.models.norms import norm_factory
from experiments.lab.probes import invariance
from experiments.lab.probes.rotation import CELLS, predicted

SEEDS, STEPS = 10, 30


def pool():
  found = arrays.load_pool("digits")
  return found._replace(examples=jax.tree.map(np.asarray, found.examples))


def batch():
  return pool().prepared(64)


class ScaleInvarianceTest(parameterized.TestCase):
  @parameterized.parameters(0.01, 100.0)
  def test_gradient_is_inverse(self, factor):
    for units in (False, True):
      errors = invariance.gradient_errors(
        invariance.model(), batch(), factor, units
      )
      self.assertLess(errors["error"], scale_invariance.EXACT)
      self.assertLess(errors["cosine"], scale_invariance.EXACT)

  @parameterized.parameters(
    ("bn", 1e-5, False),  # Epsilon shows when the weights are small.
    ("ln", 1e-12, True),  # Layer norm is invariant to the whole matrix only.
    ("none", 1e-12, False),
  )
  def test_gradient_is_not_inverse(self, norm, epsilon, units):
    net = (
      invariance.model().clone(norm=norm_factory("none"))
      if norm == "none"
      else invariance.model(norm, epsilon)
    )
    errors = invariance.gradient_errors(net, batch(), 0.01, units)
    self.assertGreater(errors["error"], 1e-2)

  def test_gradient_without_a_norm_is_not_orthogonal(self):
    net = invariance.model().clone(norm=norm_factory("none"))
    errors = invariance.gradient_errors(net, batch(), 0.1)
    self.assertGreater(errors["cosine"], 1e-2)

  def test_scaled_weights_train_alike_at_a_scaled_rate(self):
    images = pool().split([0], len(invariance.FACTORS))
    with jax.numpy_dtype_promotion("standard"):
      error = invariance.trajectory_error(images, 20)
    self.assertLess(error, scale_invariance.EXACT)


class RotationTest(parameterized.TestCase):
  def verdict(self, kind, factors):
    """Judges units that turn by these factors of what is predicted."""
    rng = np.random.default_rng(0)
    expected = np.array([predicted(kind, *cell) for cell in CELLS[kind]])
    noise = rng.normal(1, 0.01, (len(expected), SEEDS))
    angles = (expected * factors)[:, None] * noise
    turn = np.repeat(angles[:, :, None] ** 2, STEPS, axis=2)
    with (
      tempfile.TemporaryDirectory() as folder,
      contextlib.redirect_stdout(io.StringIO()),
    ):
      run = study.Run(pathlib.Path(folder))
      scale_invariance.judge(kind, {"turn": turn}, run)
      (finding,) = run.findings()
    self.assertEqual(finding.claim, f"{kind}_rotation")
    return finding.verdict

  @parameterized.parameters(*CELLS)
  def test_what_is_predicted(self, kind):
    self.assertEqual(self.verdict(kind, 1.0), "CONFIRMED")

  @parameterized.parameters(*CELLS)
  def test_one_setting_that_deviates(self, kind):
    factors = np.ones(len(CELLS[kind]))
    for factor in (0.8, 1.2):
      factors[-1] = factor
      self.assertEqual(self.verdict(kind, factors), "REFUTED")

  def test_formulas(self):
    # Kosson et al. 2024: m = 0.9, b1 = 0.9.
    self.assertAlmostEqual(predicted("sgd", 0.1, 0.02), 0.063246, places=6)
    self.assertAlmostEqual(predicted("momentum", 0.1, 0.02), 0.045883, places=6)
    self.assertAlmostEqual(predicted("adamw", 0.1, 0.02), 0.014510, places=6)

  def test_before_the_equilibrium(self):
    """A short training is not there yet: its lengths are still falling."""
    config = scale_invariance.Config(seeds=2, steps=60)
    with jax.numpy_dtype_promotion("standard"):
      part = scale_invariance.rotate("adamw", pool(), config)
    self.assertEqual(part["turn"].shape, (len(CELLS["adamw"]), 2, 60))
    with (
      tempfile.TemporaryDirectory() as folder,
      contextlib.redirect_stdout(io.StringIO()),
    ):
      run = study.Run(pathlib.Path(folder))
      scale_invariance.judge("adamw", part, run)
      (finding,) = run.findings()
    self.assertNotEqual(finding.verdict, "CONFIRMED")
    self.assertGreater(finding.estimate, 0.3)


if __name__ == "__main__":
  absltest.main()
