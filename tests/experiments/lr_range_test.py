"""Learning rates that train: the search, and claims whose effect is absent."""

import contextlib
import io
import math
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments import lr_range
from experiments.lab import study
from experiments.lab.data import arrays
from experiments.lab.errors import RefusedError

SEEDS = 20


def digits():
  pool = arrays.load_pool("digits")
  return pool._replace(examples=jax.tree.map(jnp.asarray, pool.examples))


class SearchTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("between", [True, True, False], (2.0, 3.0)),
    ("with_a_gap", [False, True, False], (2.0, 3.0)),
    ("none_trains", [False, False, False], (1.0, 1.0)),
    ("all_train", [True, True, True], (3.0, 3.0)),
  )
  def test_bracket(self, trains, expected):
    found = lr_range.bracket(np.array([trains]).T, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(found, np.reshape(expected, (2, 1)))

  def test_bisection_is_within_a_factor_and_leaves_bounds(self):
    edges = np.array([1.01, 1.7, 3.1, 2.0])
    low, high = np.ones(4), np.array([*[math.sqrt(10)] * 3, 1.0])
    found = lr_range.bisected(low, high, lambda rates: rates < edges)
    self.assertEqual(found[3], 1.0)
    np.testing.assert_array_less(found[:3], edges[:3])
    np.testing.assert_array_less(edges[:3], 1.1 * found[:3])


class TrainerTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    # Optax mixes integers and floats, and the hyperparameters with both.
    self.enter_context(jax.numpy_dtype_promotion("standard"))
    self.config = lr_range.Config(seeds=2, steps=20, hidden=(8,))

  def trainer(self, cells):
    return lr_range.Trainer(
      ("sgd", "none"), self.config, digits(), (0, 1), cells
    )

  def test_every_seed_has_its_own_rate_and_scale(self):
    trainer = self.trainer(cells=2)
    _, alike = trainer(np.array([[0.1], [1.0]]))
    _, own = self.trainer(cells=1)(np.array([[0.1, 1.0]]))
    np.testing.assert_allclose(own[0], np.diag(alike), rtol=1e-5)
    self.assertGreater(abs(alike[0, 1] - alike[1, 1]), 0.1)
    _, scaled = trainer(np.full((2, 1), 0.1), np.array([[1.0], [10.0]]))
    np.testing.assert_allclose(scaled[0], alike[0], rtol=1e-5)
    self.assertGreater(np.abs(scaled[1] - alike[0]).min(), 0.1)

  def test_no_rate_trains_on_shuffled_labels(self):
    pool = digits()
    rng = np.random.default_rng(0)
    targets = jnp.asarray(rng.permutation(np.asarray(pool.examples.targets)))
    pool = pool._replace(examples=pool.examples._replace(targets=targets))
    found = lr_range.search(("sgd", "bn"), self.config, pool)
    np.testing.assert_array_equal(found["largest"], lr_range.RATES["sgd"][0])
    np.testing.assert_array_equal(found["bound"], -1)

  def test_group_norm_gets_advice_that_fits(self):
    config = lr_range.Config(seeds=1, steps=20, hidden=(12,))
    with self.assertRaisesRegex(
      RefusedError, "does not divide the 12 channels; make .* multiple of 8.$"
    ):
      lr_range.train(("sgd", "gn"), config, digits(), [0.1], [0])


class ClaimsTest(absltest.TestCase):
  def verdicts(self, bn, none, plain):
    """Judges one kind of net as "bn", another as "none"."""
    nets = {"bn": bn, "none": none}
    arms = {
      (optimizer, norm): nets[norm]
      for optimizer in lr_range.OPTIMIZERS
      for norm in nets
    }
    with tempfile.TemporaryDirectory() as folder:
      run = study.Run(pathlib.Path(folder))
      with contextlib.redirect_stdout(io.StringIO()):
        lr_range.judge(
          arms,
          arms,
          dict.fromkeys(lr_range.OPTIMIZERS, plain),
          {norm: net["starts"] for norm, net in nets.items()},
          run,
        )
      return {finding.claim: finding.verdict for finding in run.findings()}

  def setUp(self):
    super().setUp()
    scatter = np.exp(np.random.default_rng(0).normal(0, 0.1, (2, SEEDS)))
    flat, peaked = np.full(9, 0.2), np.full(9, np.nan)
    peaked[:5] = 2.3, 2.3, 2.3, 0.8, 0.3
    self.robust = {
      "largest": 4 * scatter[0],
      "bound": np.zeros(SEEDS),
      "test": 0.2 * scatter[0],
      "error": 5 * scatter[0],
      "starts": flat[:, None] * scatter[0],
    }
    self.fragile = {
      "largest": 0.4 * scatter[1],
      "bound": np.zeros(SEEDS),
      "test": 0.4 * scatter[1],
      "error": 5.2 * scatter[1],
      "starts": peaked[:, None] * scatter[1],
    }

  def test_effects_that_are_there(self):
    found = self.verdicts(self.robust, self.fragile, self.robust["error"])
    self.assertEqual(
      found, dict.fromkeys((c.name for c in lr_range.CLAIMS), "CONFIRMED")
    )

  def test_swapped_nets_with_a_gain_at_the_plain_rate(self):
    gain = self.robust["error"] - 3
    found = self.verdicts(self.fragile, self.robust, gain)
    self.assertEqual({*found}, {claim.name for claim in lr_range.CLAIMS})
    self.assertEqual({*found.values()}, {"REFUTED"})

  def test_norm_removed(self):
    found = self.verdicts(self.fragile, self.fragile, self.fragile["error"])
    for name in (
      *("higher_rate_sgd", "higher_rate_adam", "more_scales"),
      *("lower_when_tuned_sgd", "lower_when_tuned_adam", "kernel_scale_bn"),
    ):
      self.assertNotEqual(found[name], "CONFIRMED")

  def test_bounds_show_no_more_than_they_know(self):
    """Batch norm that trains nowhere, or a net without one everywhere."""
    nowhere = self.robust | {"bound": np.full(SEEDS, -1)}
    everywhere = self.fragile | {"bound": np.full(SEEDS, 1)}
    for bn, none in (
      (nowhere, self.fragile),
      (self.robust, everywhere),
      (nowhere, nowhere),
    ):
      found = self.verdicts(bn, none, bn["error"])
      self.assertEqual(found["higher_rate_sgd"], "UNRESOLVED")

  def test_bounds_on_the_other_side_do_show_it(self):
    everywhere = self.robust | {"bound": np.full(SEEDS, 1)}
    nowhere = self.fragile | {"bound": np.full(SEEDS, -1)}
    found = self.verdicts(everywhere, nowhere, self.robust["error"])
    self.assertEqual(found["higher_rate_sgd"], "CONFIRMED")

  def test_a_few_seeds_that_fail_change_no_verdict(self):
    failed = self.fragile["error"].copy()
    failed[:2] = 90.0
    found = self.verdicts(
      self.robust, self.fragile | {"error": failed}, self.robust["error"]
    )
    self.assertEqual(found["gain_at_plain_rate_sgd"], "CONFIRMED")


if __name__ == "__main__":
  absltest.main()
