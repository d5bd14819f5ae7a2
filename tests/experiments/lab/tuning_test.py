"""The choice of learning rates: from which seeds, and from which grid."""

import dataclasses
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab import tuning
from experiments.lab.errors import RefusedError
from experiments.lab.options import TunedConfig
from experiments.lab.run import Run

RATES = (0.01, 0.1, 1.0, 10.0, 100.0)
CONFIG = TunedConfig(seeds=2, seed=7)


class TuningTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )
    self.run = Run(self.folder)
    self.trained = []

  def train(self, best, diverges=()):
    """Returns a function that trains an arm whose best rate is `best`."""

    def train(rates, seeds):
      self.trained.append(([*rates], [*seeds]))
      rates, seeds = np.array(rates)[:, None], np.array(seeds)
      loss = np.log10(rates / best) ** 2 + seeds / 1e5
      for low, high, seed in diverges:
        loss[(rates > low) & (rates < high) & (seeds == seed)] = np.nan
      return {"validation": loss, "test": rates + seeds}

    return train

  def test_an_interior_rate_of_the_grid(self):
    arm = tuning.tuned(self.run, "bn", self.train(1.2), RATES, CONFIG)
    self.assertEqual(
      self.trained, [([*RATES], [1000, 1001, 1002]), ([1.0], [7, 8])]
    )
    np.testing.assert_array_equal(arm["test"], [8.0, 9.0])
    self.assertEqual(arm["validation"].shape, (2,))
    self.assertEqual(arm["rate"], 1.0)

  def test_another_loss_to_choose_by(self):
    def train(rates, seeds):
      train_loss = self.train(0.1)(rates, seeds)["validation"]
      return {**self.train(10.0)(rates, seeds), "loss": train_loss}

    arm = tuning.tuned(self.run, "bn", train, RATES, CONFIG, by="loss")
    self.assertEqual(arm["rate"], 0.1)

  def test_judged_seeds_do_not_choose(self):
    """Another rate is best for them, and it is not taken."""

    def train(rates, seeds):
      best = 10.0 if min(seeds) < 1000 else 0.1
      return self.train(best)(rates, seeds)

    arm = tuning.tuned(self.run, "bn", train, RATES, CONFIG)
    self.assertEqual(arm["rate"], 0.1)

  @parameterized.parameters((1000, 1), (998, 3), (1002, 4), (0, 1001))
  def test_seeds_that_choose_are_not_judged(self, seed, seeds):
    config = TunedConfig(seeds=seeds, seed=seed, tuning_seeds=1)
    with self.assertRaisesRegex(RefusedError, r"The seeds \[100.*another"):
      tuning.tuned(self.run, "bn", self.train(1.0), RATES, config)
    self.assertEmpty(self.trained)

  @parameterized.parameters((998, 2), (1003, 5), (100, 20))
  def test_other_seeds_are(self, seed, seeds):
    config = TunedConfig(seeds=seeds, seed=seed)
    tuning.tuned(self.run, "bn", self.train(1.0), RATES, config)
    self.assertEqual(self.trained[-1][1], [*range(seed, seed + seeds)])

  def test_number_of_seeds_that_choose(self):
    config = dataclasses.replace(CONFIG, tuning_seeds=1)
    tuning.tuned(self.run, "bn", self.train(1.0), RATES, config)
    self.assertEqual(self.trained[0][1], [1000])

  @parameterized.parameters(
    (1e-2, [1e-3], 1e-2),
    (1e-4, [1e-3, 1e-4, 1e-5], 1e-4),
    (1e2, [1e3], 1e2),
    (1e4, [1e3, 1e4, 1e5], 1e4),
  )
  def test_the_grid_grows_until_the_best_is_interior(self, best, new, rate):
    choice = tuning.chosen(self.run, "bn", self.train(best), RATES)
    for (found, seeds), expected in zip(self.trained[1:], new, strict=True):
      np.testing.assert_allclose(found, [expected])
      self.assertEqual(seeds, [1000, 1001, 1002])
    self.assertAlmostEqual(choice.rate / rate, 1)
    np.testing.assert_allclose(choice.rates, sorted([*RATES, *new]))
    # Each rate has its own loss.
    losses = np.log10(np.array(choice.rates) / best) ** 2 + 0.01001
    np.testing.assert_allclose(choice.validation, losses)
    self.assertTrue(choice.interior)

  @parameterized.parameters((1e-30, 0), (1e30, -1))
  def test_it_stops_growing(self, best, edge):
    with self.assertLogs(level="WARNING") as logs:
      choice = tuning.chosen(self.run, "bn", self.train(best), RATES)
    self.assertIn("The best rate of bn is at the edge", logs.output[0])
    self.assertLen(self.trained, 1 + tuning.MOST)
    self.assertLen(choice.rates, 5 + tuning.MOST)
    self.assertEqual(choice.rate, choice.rates[edge])
    self.assertFalse(choice.interior)

  @parameterized.parameters(
    (RATES, [1.0, 10.0]), (RATES[:4], [0.1, 1.0]), (RATES[:2], [0.01, 0.1])
  )
  def test_one_seed_tries_two_rates(self, rates, tried):
    choice = tuning.chosen(self.run, "bn", self.train(1e30), rates, [1000])
    self.assertEqual(self.trained, [(tried, [1000])])
    self.assertEqual(choice.rates, tried)
    self.assertEqual(choice.rate, tried[-1])
    self.assertFalse(choice.interior)

  def test_the_last_rate_it_may_try_makes_it_interior(self):
    best = 10.0 ** (2 + tuning.MOST - 1)
    choice = tuning.chosen(self.run, "bn", self.train(best), RATES)
    self.assertLen(choice.rates, 5 + tuning.MOST)
    self.assertTrue(choice.interior)

  def test_a_diverged_rate_is_the_worst(self):
    # One seed of three diverges at the best rate, and all beyond.
    diverges = [(0.5, 2, 1001), *((2, 1e9, seed) for seed in tuning.SEEDS)]
    choice = tuning.chosen(self.run, "bn", self.train(1.0, diverges), RATES)
    self.assertEqual(choice.rate, 0.1)
    self.assertEqual([one is None for one in choice.validation][2:], 3 * [True])
    self.assertTrue(choice.interior)

  def test_if_all_diverge_smaller_rates_are_tried(self):
    diverges = [(0.005, 1e9, seed) for seed in tuning.SEEDS]
    choice = tuning.chosen(self.run, "bn", self.train(1e-3, diverges), RATES)
    self.assertAlmostEqual(choice.rate, 1e-3)
    self.assertEqual(choice.validation[2:], 5 * [None])

  def test_what_was_trained_is_not_trained_again(self):
    first = tuning.tuned(self.run, "bn", self.train(1e3), RATES, CONFIG)
    count = len(self.trained)
    self.assertEqual(count, 4)  # The grid, two more rates, and the seeds.
    resumed = Run(self.folder)
    again = tuning.tuned(resumed, "bn", self.train(1e3), RATES, CONFIG)
    self.assertLen(self.trained, count)
    for key, value in first.items():
      np.testing.assert_array_equal(again[key], value)
    # Another arm is.
    tuning.tuned(resumed, "ln", self.train(1.0), RATES, CONFIG)
    self.assertLen(self.trained, count + 2)

  def test_rate_factor(self):
    config = dataclasses.replace(CONFIG, rate_factor=0.5)
    arm = tuning.tuned(self.run, "bn", self.train(1.0), RATES, config)
    self.assertEqual(self.trained[-1], ([0.5], [7, 8]))
    self.assertEqual(arm["rate"], 0.5)
    summary = self.run.finish({})
    self.assertEqual(summary["rates"]["bn"]["rate"], 1.0)

  def test_the_choice_is_recorded(self):
    tuning.tuned(self.run, "bn", self.train(1.0), RATES, CONFIG)
    tuning.tuned(self.run, "ln", self.train(1e2), RATES, CONFIG)
    rates = self.run.finish({})["rates"]
    self.assertEqual([*rates], ["bn", "ln"])
    self.assertEqual(rates["bn"]["rates"], [*RATES])
    self.assertLen(rates["ln"]["rates"], 6)
    np.testing.assert_allclose(
      rates["bn"]["validation"], np.array([4, 1, 0, 1, 4]) + 0.01001
    )


if __name__ == "__main__":
  absltest.main()
