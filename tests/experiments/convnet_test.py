"""The study of steps that a ConvNet needs: claims whose effect is absent."""

import contextlib
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments import convnet
from experiments.lab import study
from experiments.lab.data import arrays

SEEDS, EVALUATIONS = 20, 30


def verdicts(found):
  steps = {
    optimizer: convnet.counted(arms) for optimizer, arms in found.items()
  }
  with tempfile.TemporaryDirectory() as folder:
    run = study.Run(pathlib.Path(folder))
    with contextlib.redirect_stdout(io.StringIO()):
      convnet.judge(found, steps, run)
    return {finding.claim: finding.verdict for finding in run.findings()}


def arm(faster, error, seed=0):
  """Returns a made-up arm whose accuracy rises `faster` times as fast."""
  rng = np.random.default_rng(seed)
  speed = faster * rng.uniform(0.95, 1.05, (SEEDS, 1))
  at = speed * np.arange(1, EVALUATIONS + 1) / EVALUATIONS
  rises = 100 * np.minimum(at, 1.0)
  return {"accuracy": rises, "error": rng.normal(error, 0.1, SEEDS)}


def made_up(bn, equal=None, again=1.0, error=2.0):
  found = {
    optimizer: {"none": arm(1.0, 3.0), "bn": arm(bn, error, seed=1)}
    for optimizer in ("sgd", "adam")
  }
  found["sgd"]["bn, equal rate"] = arm(equal or bn, error, seed=2)
  found["sgd"]["none, again"] = arm(again, 3.0, seed=3)
  return found


class StepsTest(absltest.TestCase):
  def test_the_first_evaluation_that_reaches_it(self):
    accuracy = np.array([[10.0, 50, 40, 60], [1, 2, np.nan, 3], [90, 0, 0, 0]])
    steps = convnet.steps_to(accuracy, np.array([50.0, 4, 50]))
    np.testing.assert_array_equal(steps, [40, 100, 20])

  def test_the_target_is_the_highest_accuracy_without_a_norm(self):
    arms = {
      "none": {"accuracy": np.array([[1.0, 7, 5]])},
      "bn": {"accuracy": np.array([[6.0, 6.5, 7]])},
    }
    steps = convnet.counted(arms)
    self.assertEqual(
      {name: [*s] for name, s in steps.items()}, {"none": [40], "bn": [60]}
    )


class ClaimsTest(parameterized.TestCase):
  def test_an_effect_that_is_there(self):
    names = [claim.name for claim in convnet.CLAIMS]
    found = verdicts(made_up(bn=6.0))
    self.assertEqual(found, dict.fromkeys(names, "CONFIRMED"))

  @parameterized.parameters(
    ("fewer_steps_sgd", {"bn": 2.0}, "SMALLER THAN CLAIMED"),
    ("fewer_steps_adam", {"bn": 0.5}, "REFUTED"),
    (
      "fewer_steps_equal_rate",
      {"bn": 6.0, "equal": 1.5},
      "SMALLER THAN CLAIMED",
    ),
    ("control", {"bn": 6.0, "again": 3.0}, "REFUTED"),
    ("lower_error_sgd", {"bn": 6.0, "error": 3.0}, "UNRESOLVED"),
    ("lower_error_adam", {"bn": 6.0, "error": 4.0}, "REFUTED"),
  )
  def test_an_effect_that_is_not(self, claim, settings, expected):
    self.assertEqual(verdicts(made_up(**settings))[claim], expected)

  def test_the_norm_removed(self):
    """Without a norm in any arm, nothing trains in fewer steps."""
    config = convnet.Config(steps=60, hidden=(2, 4))
    pool = arrays.load_pool("digits")
    pool = pool._replace(examples=jax.tree.map(jnp.asarray, pool.examples))
    with jax.numpy_dtype_promotion("standard"):  # Of optax.
      none, again = (
        convnet.train(("none", "sgd"), config, pool, [0.1], [0, 1, 2], again)
        for again in (False, True)
      )
    self.assertEqual(none["accuracy"].shape, (1, 3, 3))
    self.assertEqual(none["error"].shape, (1, 3))
    self.assertGreater(np.abs(none["accuracy"] - again["accuracy"]).max(), 0)
    first, second = ({k: v[0] for k, v in p.items()} for p in (none, again))
    found = {
      optimizer: {"none": first, "bn": second} for optimizer in ("sgd", "adam")
    }
    found["sgd"] |= {"bn, equal rate": second, "none, again": second}
    for claim, verdict in verdicts(found).items():
      if claim != "control":
        self.assertNotEqual(verdict, "CONFIRMED")


if __name__ == "__main__":
  absltest.main()
