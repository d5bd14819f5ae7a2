"""Tests of what is said about results that are made up here."""

import contextlib
import io

import numpy as np
from absl.testing import absltest

from experiments.lab import comparison
from experiments.lab.training.stopping import Stopping


def result(accuracy, loss, diverged=(False, False, False), **more):
  return {
    "test_accuracy": accuracy,
    "epoch1_train_loss": loss,
    "best_epoch": [4, 5, 7],
    "diverged": list(diverged),
    "beats_guessing": [True, True, True],
    "guessing_loss": 2.3026,
    "seconds_per_epoch": 1.25,
    **more,
  }


NONE = result([0.97, 0.96, 0.98], [0.4, 0.5, 0.6])


class ComparisonTest(absltest.TestCase):
  def test_accuracy_of_one_seed_has_no_interval(self):
    text = comparison.lines(result([0.97641], [0.3], [False]))
    self.assertEqual(text, "Test accuracy: 97.64 %")

  def test_accuracy_of_several_seeds(self):
    # Student's t for two degrees of freedom is 4.303, times 1 / sqrt(3).
    text = comparison.lines(NONE)
    self.assertEqual(text, "Test accuracy: 97.00 ± 2.48 %")

  def test_mentions_divergence_and_reestimated_statistics(self):
    text = comparison.lines(
      result(
        [0.9, 0.9, 0.1],
        [0.4, 0.5, None],
        [False, False, True],
        test_accuracy_reestimated=[0.95, 0.95, 0.95],
      )
    )
    self.assertIn("re-estimated batch statistics: 95.00", text)
    self.assertIn("1 of 3 seeds diverged", text)

  def test_mentions_seeds_that_are_no_better_than_guessing(self):
    stopping = Stopping(
      best_variables=None,
      best_loss=np.array([0.7, 0.6, np.inf, 1e10], np.float32),
      best_step=None,
      waited=None,
      stopped=None,
      diverged=np.array([False, False, True, False]),
    )
    # The logarithm of 2 is 0.693.
    outcome = comparison.outcome(stopping, 2)
    self.assertEqual(outcome["beats_guessing"], [False, True, False, False])
    diverged, useless = comparison.outcome_lines(outcome)
    self.assertStartsWith(diverged, "1 of 4 seeds diverged")
    self.assertStartsWith(useless, "2 of 4 seeds NO BETTER THAN GUESSING")
    self.assertIn("not below 0.6931", useless)
    self.assertEmpty(comparison.outcome_lines(NONE))

  def test_table_pairs_the_seeds(self):
    # Each seed is one point better: no doubt about the difference.
    bn = result(
      [0.98, 0.97, 0.99],
      [0.2, 0.25, None],
      test_accuracy_reestimated=[0.98, 0.98, 0.98],
    )
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
      comparison.show_table({"none": NONE, "bn": bn})
    lines = output.getvalue().strip().splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    self.assertEqual(
      cells[0][1:-1],
      [
        "norm",
        "accuracy (%)",
        "minus none",
        "re-estimated (%)",
        "epoch 1 loss",
        "best epoch",
        "s/epoch",
      ],
    )
    self.assertEqual(
      cells[2][1:-1],
      ["none", "97.00 ± 2.48", "", "", "0.5000 ± 0.2484", "5.3", "1.25"],
    )
    self.assertEqual(
      cells[3][1:-1],
      [
        "bn",
        "98.00 ± 2.48",
        "+1.00 ± 0.00",
        "98.00 ± 0.00",
        "diverged",
        "5.3",
        "1.25",
      ],
    )
