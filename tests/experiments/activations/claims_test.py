"""The study of activations: claims whose effect is absent."""

import contextlib
import io
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from experiments.activations import __main__ as activations
from experiments.activations import claims
from experiments.activations.training import Arm
from experiments.lab import study
from experiments.lab.errors import RefusedError

SEEDS, LAYERS = 20, 5
EFFECTS = [claim.name for claim in claims.CLAIMS]
IDENTITIES = [check.name for check in claims.CHECKS]


def near(number, seed):
  """Returns a number per seed, within 2%."""
  rng = np.random.default_rng(seed)
  return number * rng.uniform(0.98, 1.02, SEEDS)


def judged(present):
  """Judges made-up arms in which some of the effects are present.

  Args:
    present: Names of the claims and checks that are to hold.

  Returns:
    The verdicts by claim, and whether the checks hold.
  """
  found = {}
  for seed, arm in enumerate(activations.arms()):
    none = arm.norm == "none"
    larger = none and arm.scale == 255 and f"scale_{arm.activation}" in present
    error = 12.0 if larger else 8.0
    shares = "dead_units" if arm.activation == "relu" else "saturated_units"
    flat = none and shares in present
    small = none and "larger_gradient" in present
    beyond = arm.affine and "beyond_two" in present
    worse = not arm.affine and "gain_and_bias_help" in present
    drift = {
      "none": 1.0,
      "ln": 0.3 if "drift_ln" in present else 1.2,
      "bn": 1e-6 if "unmoved_by_rescaling" in present else 0.5,
    }
    scales = f"gradient_{arm.norm}" not in present
    factor = arm.scale if scales else 1 + 1e-4 * (arm.scale == 255)
    stale = "stale_statistics" in present
    found[arm] = {
      "reestimated": near(error + 3 * worse, seed),
      "changed": near(30.0 if stale else 8.0, seed),
      "changed_reestimated": near(8.0, seed + 1000),
      "flat": near(0.7 if flat else 0.01, seed)[:, None].repeat(LAYERS, 1),
      "beyond": near(0.2 if beyond else 0.1, seed)[:, None].repeat(LAYERS, 1),
      "drift": near(drift[arm.norm], seed),
      "gradient": factor * (0.01 if small else 1) * np.ones((SEEDS, LAYERS)),
    }
  with tempfile.TemporaryDirectory() as folder:
    run = study.Run(pathlib.Path(folder))
    with contextlib.redirect_stdout(io.StringIO()):
      activations.judge(found, run)
    verdicts = {finding.claim: finding.verdict for finding in run.findings()}
  return verdicts, {outcome.check: outcome.holds for outcome in run._checks}


class ClaimsTest(parameterized.TestCase):
  def test_effects_that_are_there(self):
    verdicts, holds = judged([*EFFECTS, *IDENTITIES])
    self.assertEqual(verdicts, dict.fromkeys(EFFECTS, "CONFIRMED"))
    self.assertEqual(holds, dict.fromkeys(IDENTITIES, True))

  @parameterized.parameters(*EFFECTS)
  def test_an_effect_that_is_not(self, absent):
    verdicts, _ = judged({*EFFECTS, *IDENTITIES} - {absent})
    self.assertIn(verdicts[absent], ("REFUTED", "UNRESOLVED"))

  @parameterized.parameters(*IDENTITIES)
  def test_an_identity_that_fails(self, absent):
    _, holds = judged({*EFFECTS, *IDENTITIES} - {absent})
    self.assertEqual([name for name in holds if not holds[name]], [absent])


class ConfigTest(absltest.TestCase):
  def test_layers_behind_the_changed_ones_are_needed(self):
    config = activations.Config(hidden=(8, 8))
    with tempfile.TemporaryDirectory() as folder:
      run = study.Run(pathlib.Path(folder))
      with self.assertRaisesRegex(RefusedError, "--hidden must have more than"):
        activations.measure(config, run)

  def test_names_of_parts(self):
    names = [str(arm) for arm in activations.arms()]
    self.assertLen({*names}, len(names))
    self.assertEqual(str(Arm("tanh", "ln", 255.0)), "tanh_ln_255")


if __name__ == "__main__":
  absltest.main()
