"""Tests of what is said about results that are made up here."""

from absl.testing import parameterized

from experiments.lab import comparison

THRESHOLDS = {"faster_below": 0.9, "equal_within": 0.5}


def result(accuracy, loss, diverged=(False, False, False), **more):
  return {
    "test_accuracy": accuracy,
    "epoch1_train_loss": loss,
    "best_epoch": [4, 5, 7],
    "diverged": list(diverged),
    "seconds_per_epoch": 1.25,
    **more,
  }


NONE = result([0.97, 0.96, 0.98], [0.4, 0.5, 0.6])


class ComparisonTest(parameterized.TestCase):
  def test_accuracy_of_one_seed_has_no_interval(self):
    text = comparison.accuracy_lines(result([0.97641], [0.3], [False]))
    self.assertEqual(text, "Test accuracy: 97.64 %")

  def test_accuracy_of_several_seeds(self):
    # Student's t for two degrees of freedom is 4.303, times 1 / sqrt(3).
    text = comparison.accuracy_lines(NONE)
    self.assertEqual(text, "Test accuracy: 97.00 ± 2.48 %")

  def test_mentions_divergence_and_reestimated_statistics(self):
    text = comparison.accuracy_lines(
      result(
        [0.9, 0.9, 0.1],
        [0.4, 0.5, None],
        [False, False, True],
        test_accuracy_reestimated=[0.95, 0.95, 0.95],
      )
    )
    self.assertIn("re-estimated batch statistics: 95.00", text)
    self.assertIn("1 of 3 seeds diverged", text)

  def test_table_pairs_the_seeds(self):
    # Each seed is one point better: no doubt about the difference.
    bn = result(
      [0.98, 0.97, 0.99],
      [0.2, 0.25, None],
      test_accuracy_reestimated=[0.98, 0.98, 0.98],
    )
    lines = comparison.table({"none": NONE, "bn": bn}).splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    self.assertEqual(
      cells[0][1:-1],
      [
        "norm",
        "test accuracy (%)",
        "minus none",
        "re-estimated (%)",
        "epoch 1 train loss",
        "best epoch",
        "seconds/epoch",
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

  @parameterized.parameters(
    ([0.3, 0.35, 0.45], "CONFIRMED"),  # 0.75, 0.7, 0.75 times that of none.
    ([0.44, 0.55, 0.66], "REFUTED"),
    ([0.2, 0.5, 0.7], "UNRESOLVED"),
    ([0.2, 0.2, None], "UNRESOLVED"),
  )
  def test_verdict_on_speed(self, losses, verdict):
    lines = comparison.verdict_lines(
      {"none": NONE, "ln": result([0.97, 0.96, 0.98], losses)}, **THRESHOLDS
    )
    self.assertStartsWith(lines, f"{verdict}: ln learns faster")

  @parameterized.parameters(
    ([0.971, 0.96, 0.979], "CONFIRMED"),
    ([0.98, 0.971, 0.989], "REFUTED"),
    ([0.99, 0.95, 0.98], "UNRESOLVED"),
  )
  def test_verdict_on_the_end(self, accuracies, verdict):
    lines = comparison.verdict_lines(
      {"none": NONE, "ln": result(accuracies, [0.4, 0.5, 0.6])}, **THRESHOLDS
    )
    self.assertIn(f"\n{verdict}: ln ends equal", lines)
