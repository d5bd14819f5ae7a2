"""Tests of tables for terminals and Markdown."""

import textwrap

from absl.testing import absltest

from experiments.lab import tables
from experiments.lab.statistics import Interval


class TableTest(absltest.TestCase):
  def test_aligns_numbers_right_and_text_left(self):
    text = tables.table(
      [
        ["ln", Interval(97.64, 0.15), 0.27712345, "10.2 ± 0.10"],
        ["none", Interval(7.66, 0.24), 3, None],
      ],
      ["norm", "accuracy", "loss", "rate"],
    )
    expected = """\
      | norm   |     accuracy |   loss |        rate |
      |:-------|-------------:|-------:|------------:|
      | ln     | 97.64 ± 0.15 | 0.2771 | 10.2 ± 0.10 |
      | none   |  7.66 ± 0.24 |      3 |             |"""
    self.assertEqual(text, textwrap.dedent(expected))

  def test_keeps_text_that_looks_like_a_number(self):
    text = tables.table([["1e3", "0010"], ["x", "-"]], ["a", "b"])
    self.assertIn("| 1e3 | 0010 |", text)

  def test_no_rows(self):
    self.assertIn("| norm", tables.table([], ["norm", "loss"]))

  def test_refuses_ragged_rows(self):
    with self.assertRaisesRegex(ValueError, "2 headers, but a row"):
      tables.table([["ln"]], ["norm", "loss"])


if __name__ == "__main__":
  absltest.main()
