"""Every claim of the study of deep sigmoids fails without its effect."""

import contextlib
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.deep_sigmoid import __main__ as deep_sigmoid
from experiments.deep_sigmoid.training import (
  BN,
  BN_GAIN,
  NONE,
  NONE_GAIN,
  Arm,
  Config,
  binarized,
  drift,
  train,
)
from experiments.lab import study
from experiments.lab.data import arrays
from experiments.lab.training.optimizers import OPTIMIZERS

SEEDS = 20


def part(error, loss, moved):
  """Returns results of an arm: numbers per seed around these."""
  rng = np.random.default_rng(round(100 * error))
  noise = rng.normal(size=(SEEDS, 1))
  times = np.arange(Config().probes)
  medians = moved * (1 + 0.01 * noise) * times
  inputs = np.stack([medians - 1, medians, medians + 1], axis=-1)
  return {
    "error": error + 0.1 * noise + 0 * times,
    "loss": loss * (1 + 0.01 * noise) + 0 * times,
    "inputs": inputs[..., None],
  }


def whole():
  """Returns results in which every claimed effect is there."""
  parts = {
    BN: part(4.0, 0.2, 0.1),
    NONE: part(89.0, 2.3, 0.4),
    BN_GAIN: part(5.0, 0.3, 0.1),
    NONE_GAIN: part(10.0, 0.5, 0.2),
  }
  return {
    Arm(kind, depth, optimizer): found
    for kind, found in parts.items()
    for depth in (3, 8)
    for optimizer in OPTIMIZERS
  }


class ControlTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    settings = {"depths": (3, 8)}
    self.run_ = study.Run(pathlib.Path(folder), settings=settings)
    self.enter_context(contextlib.redirect_stdout(io.StringIO()))
    # Optax mixes integers and floats, and the hyperparameters with both.
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  def verdicts(self, found, config=None):
    deep_sigmoid.judge(found, config or Config(), self.run_)
    return {entry.claim: entry.verdict for entry in self.run_.findings()}

  def test_all_hold_where_the_effects_are(self):
    verdicts = self.verdicts(whole())
    names = {claim.name for claim in deep_sigmoid.CLAIMS}
    self.assertEqual({*verdicts}, names)
    self.assertEqual({*verdicts.values()}, {"CONFIRMED"})

  @parameterized.parameters(
    ("trains_with_bn_{}", BN, NONE, 8),
    ("fails_without_norm_lecun_{}", NONE, NONE_GAIN, 8),
    ("trains_without_norm_gain4_{}", NONE_GAIN, NONE, 8),
    ("bn_better_than_gain4_{}", BN_GAIN, NONE_GAIN, 8),
    ("faster_at_3_{}", BN, NONE, 3),
    ("faster_than_gain4_at_3_{}", BN_GAIN, NONE_GAIN, 3),
    ("calmer", BN, NONE, 3),
  )
  def test_fails_if_one_arm_is_another(self, claim, replaced, by, depth):
    found = whole()
    for optimizer in OPTIMIZERS:
      arm = Arm(replaced, depth, optimizer)
      found[arm] = found[Arm(by, depth, optimizer)]
    verdicts = self.verdicts(found)
    for optimizer in OPTIMIZERS:
      self.assertNotEqual(verdicts[claim.format(optimizer)], "CONFIRMED")

  def test_fails_with_the_norm_replaced_by_none(self):
    config = Config(seeds=2, steps=8, probes=4)
    pool = arrays.load_pool("digits", train=120, validation=60, test=60)
    arm = Arm(NONE, 2, "sgd")
    trained = train(arm, config, binarized(pool), [0.1], [0, 1])
    one = {name: values[0] for name, values in trained.items()}
    verdicts = self.verdicts(dict.fromkeys(whole(), one), config)
    for optimizer in OPTIMIZERS:  # Eight steps train nothing.
      del verdicts[f"fails_without_norm_lecun_{optimizer}"]
    self.assertNotIn("CONFIRMED", verdicts.values())

  def test_the_gain_multiplies_the_initial_kernels(self):
    params = [
      kind.net((9, 9)).init(jax.random.key(0), jnp.ones((1, 8, 8)), train=False)
      for kind in (NONE, NONE_GAIN)
    ]
    small, large = jax.tree.map(np.asarray, params)
    for layer in range(3):
      kernels = (
        tree["params"][f"Dense_{layer}"]["kernel"] for tree in (small, large)
      )
      one, four = kernels
      np.testing.assert_allclose(four, 4 * one, rtol=1e-6)

  def test_drift_is_the_move_of_the_median_over_the_spread(self):
    # Two units: one moves by 1 and then by 3, with a spread of 4; one rests.
    medians = np.array([[0.0, 5], [1, 5], [4, 5]])
    inputs = np.stack([medians - 1, medians, medians + 3], axis=1)
    np.testing.assert_allclose(drift(inputs[None]), [0.5 * (2 / 4 + 0)])


if __name__ == "__main__":
  absltest.main()
