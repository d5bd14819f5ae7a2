"""Every claim of the study of two scanners fails without its effect."""

import contextlib
import io
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab import study
from experiments.lab.data import arrays
from experiments.lab.data.scanners import Scanner, rescanned
from experiments.lab.errors import RefusedError
from experiments.transfer import __main__ as transfer
from experiments.transfer.training import (
  MODES,
  SIZES,
  Config,
  Pools,
  fine_tune,
  pretrain,
)

SEEDS = 20


def numbers(error):
  noise = np.random.default_rng(round(100 * error)).normal(size=SEEDS)
  return error + 0.1 * noise


def whole():
  """Returns results in which every claimed effect is there."""
  first = {
    "first": numbers(2.0),
    "first again": numbers(2.1),
    "second": numbers(20.0),
    "second again": numbers(8.0),
  }
  errors = {"frozen": (9.0, 9.5, 9.0), "re-estimated": (5.0, 4.5, 5.5),
            "updated": (12.0, 7.0, 5.4)}  # fmt: skip
  arms = {
    (mode, size): {
      "error": numbers(error),
      "change": np.full(SEEDS, float(mode == "updated")),
    }
    for mode in MODES
    for size, error in zip(SIZES, errors[mode], strict=True)
  }
  return first, arms


class Runs(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.run_ = study.Run(pathlib.Path(folder))
    self.enter_context(contextlib.redirect_stdout(io.StringIO()))
    # Optax's Adam mixes integers and floats.
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  def verdicts(self, first, arms):
    transfer.judge(first, arms, self.run_)
    return {entry.claim: entry.verdict for entry in self.run_.findings()}


class ControlTest(Runs):
  def test_all_hold_where_the_effects_are(self):
    verdicts = self.verdicts(*whole())
    self.assertEqual({*verdicts}, {claim.name for claim in transfer.CLAIMS})
    self.assertEqual({*verdicts.values()}, {"CONFIRMED"})

  @parameterized.parameters(
    ("won_back", "second again", "second"),
    ("no_shift_no_effect", "first again", "second"),
  )
  def test_fails_without_labels(self, claim, replaced, by):
    first, arms = whole()
    first[replaced] = first[by]
    self.assertNotEqual(self.verdicts(first, arms)[claim], "CONFIRMED")

  @parameterized.parameters(
    ("updated_worse_at_2", ("updated", 2), ("re-estimated", 2)),
    ("updated_alike_at_64", ("updated", 64), ("frozen", 64)),
    ("frozen_worse_at_2", ("frozen", 2), ("re-estimated", 2)),
    ("frozen_worse_at_64", ("frozen", 64), ("re-estimated", 64)),
  )
  def test_fails_if_one_arm_is_another(self, claim, replaced, by):
    first, arms = whole()
    arms[replaced] = arms[by]
    self.assertNotEqual(self.verdicts(first, arms)[claim], "CONFIRMED")

  def test_nothing_lost_is_nothing_won_back(self):
    first, arms = whole()
    first |= {"second": first["first"], "second again": first["first"] - 1}
    self.assertEqual(self.verdicts(first, arms)["won_back"], "REFUTED")

  def test_statistics_that_are_not_kept(self):
    first, arms = whole()
    arms["frozen", 8]["change"][3] = 1e-6
    with mock.patch.object(self.run_, "check", wraps=self.run_.check) as check:
      transfer.judge(first, arms, self.run_)
    check.assert_called_once_with(transfer.KEPT, 1e-6)


class TrainingTest(Runs):
  """Trains small nets on the digits."""

  CONFIG = Config(hidden=(16,), examples=3_200, epochs=1, train=1_000)

  def pools(self, scanner):
    pool = arrays.load_pool("digits", train=1_000, validation=50, test=200)
    return Pools(pool, rescanned(pool, scanner))

  def test_only_updated_statistics_change(self):
    pools = self.pools(transfer.SECOND)
    first = pretrain(self.CONFIG, pools, [0.01], [0, 1])
    self.assertEqual(first["first"].shape, (1, 2))
    # It has learned, and the second scanner costs.
    self.assertLess(first["first"].max(), 40)
    self.assertGreater((first["second"] - first["first"]).min(), 5)
    start = lambda seeds: {name: values[0] for name, values in first.items()}
    for mode in MODES:
      found = fine_tune(mode, 64, start, self.CONFIG, pools, [0.01], [0, 1])
      self.assertEqual(found["error"].shape, (1, 2))
      if mode == "updated":
        self.assertGreater(found["change"].min(), 1e-3)
      else:
        np.testing.assert_array_equal(found["change"], 0)

  def test_the_same_scanner_costs_nothing(self):
    first = pretrain(self.CONFIG, self.pools(Scanner()), [0.01], [0, 1])
    np.testing.assert_allclose(first["second"], first["first"], atol=0.51)
    np.testing.assert_allclose(
      first["second again"], first["first again"], atol=0.51
    )

  def test_too_few_images_are_refused(self):
    config = Config(images=990, train=1_000)
    with self.assertRaisesRegex(RefusedError, "choose others, or more with"):
      self.pools(transfer.SECOND).split(config, [0])


if __name__ == "__main__":
  absltest.main()
