"""The claims about GANs, with arms whose effect is there or absent."""

import contextlib
import io
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from experiments.gan import claims
from experiments.lab import study

SEEDS, CHECKPOINTS = 20, 20


def arm(distance=10.0, entropy=2.2, moved=0.1, varies=0.1, gap=1.0, seed=0):
  """Returns a made-up arm: distance, entropy, movement, and their noise."""
  rng = np.random.default_rng(seed)
  level = np.log(distance) + rng.normal(0, 0.05, (SEEDS, 1))
  logs = level + varies * rng.normal(size=(SEEDS, CHECKPOINTS))
  distances = np.exp(logs)
  return {
    "distances": distances,
    "reestimated": distances[:, -1] / (gap * rng.uniform(0.98, 1.02, SEEDS)),
    "entropies": entropy + rng.normal(0, 0.05, (SEEDS, CHECKPOINTS)),
    "moved": moved * rng.uniform(0.8, 1.2, (SEEDS, CHECKPOINTS)),
  }


def made_up(**changes):
  settings = {
    "none": {"distance": 40.0, "entropy": 1.5},
    "generator": {"distance": 20.0},
    "both": {},
    "all": {"varies": 0.3},
    "last": {"distance": 200.0},
    claims.EQUAL: {"moved": 0.3},
    claims.AGAIN: {},
  }
  return {
    name: arm(**{**given, **changes.get(name, {})}, seed=number)
    for number, (name, given) in enumerate(settings.items())
  }


def verdicts(found):
  with tempfile.TemporaryDirectory() as folder:
    run = study.Run(pathlib.Path(folder))
    with contextlib.redirect_stdout(io.StringIO()):
      claims.judge(found, run)
    return {finding.claim: finding.verdict for finding in run.findings()}


class ClaimsTest(parameterized.TestCase):
  def test_an_effect_that_is_there(self):
    names = [claim.name for claim in claims.CLAIMS]
    self.assertEqual(verdicts(made_up()), dict.fromkeys(names, "CONFIRMED"))

  @parameterized.parameters(
    ("collapse", {"none": {"entropy": 2.1}}, "SMALLER THAN CLAIMED"),
    ("collapse", {"none": {"entropy": 2.3}}, "REFUTED"),
    ("closer", {"none": {"distance": 22.0}}, "SMALLER THAN CLAIMED"),
    ("closer", {"none": {"distance": 15.0}}, "REFUTED"),
    ("both_networks", {"generator": {"distance": 10.0}}, "UNRESOLVED"),
    ("all_oscillate", {claims.EQUAL: {"moved": 0.1}}, "UNRESOLVED"),
    ("all_unstable", {"all": {"varies": 0.05}}, "REFUTED"),
    ("last_layer", {"last": {"distance": 20.0}}, "SMALLER THAN CLAIMED"),
    ("running_statistics", {"both": {"gap": 1.3}}, "REFUTED"),
    ("control", {claims.AGAIN: {"distance": 20.0}}, "REFUTED"),
  )
  def test_an_effect_that_is_not(self, claim, changes, expected):
    self.assertEqual(verdicts(made_up(**changes))[claim], expected)

  def test_a_seed_that_diverged_is_not_left_out(self):
    found = made_up()
    found["generator"]["distances"][:12] = np.nan
    self.assertEqual(verdicts(found)["closer"], "UNRESOLVED")


if __name__ == "__main__":
  absltest.main()
