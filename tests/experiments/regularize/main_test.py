"""Every claim of the study of regularization fails without its effect."""

import contextlib
import io
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab import study, tuning
from experiments.lab.data import arrays
from experiments.lab.models.norms import norm_factory
from experiments.regularize import __main__ as regularize
from experiments.regularize.__main__ import CLAIMS, Config

SEEDS = 20


def part(error, tuning=1.0, shift=1.0):
  """Returns results of an arm: numbers per seed around these."""
  noise = np.random.default_rng(round(100 * error)).normal(size=(2, SEEDS))
  return {
    "error": error + 0.1 * noise[0],
    "shift": shift + 0.01 * noise[1],
    "tuning": np.asarray(tuning),
  }


def whole():
  """Returns results in which every claimed effect is there."""
  found = {}
  for labels, error in (("clean", 5.0), ("noisy", 10.0)):
    for dropout, gain in ((0.0, 0.0), (0.2, 1.0), (0.5, 2.0)):
      found[labels, "none", dropout] = part(error - gain, 1.0 - gain)
      found[labels, "bn", dropout] = part(error - 2, shift=1 + dropout)
  found["noisy", "ghost 8", 0.0] = part(4.0)
  found["noisy", "ghost 32", 0.0] = part(6.0)
  return found


class Runs(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.run_ = study.Run(pathlib.Path(folder), settings={"noise": 0.2})
    self.enter_context(contextlib.redirect_stdout(io.StringIO()))
    # Optax's Adam mixes integers and floats.
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  def verdicts(self, found):
    regularize.judge(found, self.run_)
    return {entry.claim: entry.verdict for entry in self.run_.findings()}


class ControlTest(Runs):
  def test_all_hold_where_the_effects_are(self):
    verdicts = self.verdicts(whole())
    self.assertEqual({*verdicts}, {claim.name for claim in CLAIMS})
    self.assertEqual({*verdicts.values()}, {"CONFIRMED"})

  @parameterized.parameters(
    ("regularizes_clean", ("clean", "bn", 0.0), ("clean", "none", 0.0)),
    ("regularizes_noisy", ("noisy", "bn", 0.0), ("noisy", "none", 0.0)),
    ("replaces_dropout_clean", ("clean", "bn", 0.0), ("clean", "none", 0.0)),
    ("replaces_dropout_noisy", ("noisy", "bn", 0.0), ("noisy", "none", 0.0)),
    ("ghost_noise", ("noisy", "ghost 8", 0.0), ("noisy", "bn", 0.0)),
    ("variance_shift", ("clean", "bn", 0.5), ("clean", "bn", 0.0)),
  )
  def test_fails_if_one_arm_is_another(self, claim, replaced, by):
    found = whole()
    found[replaced] = found[by]
    self.assertNotEqual(self.verdicts(found)[claim], "CONFIRMED")

  def test_fails_with_the_norm_replaced_by_none(self):
    config = Config(train=128, epochs=10, hidden=(16, 16))
    pool = arrays.load_pool("digits", train=128, validation=50, test=50)
    none = norm_factory("none")
    trained = regularize.train(none, "clean", 0.0, config, pool, [0.03], [0, 1])
    self.assertLess(trained["error"].max(), 50)
    found = whole()
    for norm in ("none", "bn"):
      found["clean", norm, 0.0] = {
        **found["clean", norm, 0.0],
        "error": np.tile(trained["error"][0], SEEDS // 2),
      }
    self.assertNotEqual(self.verdicts(found)["regularizes_clean"], "CONFIRMED")


class TrainTest(Runs):
  def test_stops_where_the_validation_loss_is_lowest(self):
    """With random labels the validation loss rises at once."""
    pool = arrays.load_pool("digits", train=128, validation=50, test=200)

    def train(epochs):
      config = Config(noise=0.99, epochs=epochs, hidden=(64, 64))
      bn = norm_factory("bn")
      return regularize.train(bn, "noisy", 0.0, config, pool, [0.03], [0])

    found = train(6)
    epoch = int(found["epoch"].item())
    self.assertLess(epoch, 6)
    self.assertNotEqual(found["error"], found["last"])
    until = train(epoch)
    for name in ("validation", "error"):
      np.testing.assert_allclose(found[name], until[name], rtol=1e-4)
    np.testing.assert_allclose(found["error"], until["last"], rtol=1e-4)
    self.assertGreater(found["error"], 50)

  def test_the_best_dropout_is_chosen_by_other_seeds(self):
    config = Config(seeds=2)
    found = {}
    for dropout in regularize.DROPOUTS:

      def train(rates, seeds, dropout=dropout):
        # The judged seeds would choose no dropout.
        better = dropout == (0.0 if 0 in seeds else 0.2)
        loss = np.abs(np.log10(rates) + 2) + (0.0 if better else 1.0)
        return {"validation": np.tile(loss[:, None], len(seeds))}

      name = f"none_{dropout}"
      arm = tuning.tuned(self.run_, name, train, regularize.RATES, config)
      found["clean", "none", dropout] = arm
    self.assertEqual(regularize.best(found, "clean"), 0.2)


if __name__ == "__main__":
  absltest.main()
