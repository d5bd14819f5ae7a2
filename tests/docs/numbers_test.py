"""Numbers in the pages are those that the studies and benchmarks printed.

docs/studies.md and benchmarks/RESULTS.md are written by commands. A number with
an interval in any other page, such as 0.81 ± 0.01 or +0.81 [0.80, 0.82], must
stand in one of them.
"""

import pathlib
import re

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parents[2]
WRITTEN = ("docs/studies.md", "benchmarks/RESULTS.md")
PAGES = ("README.md", "docs/tutorials.md", "docs/which_norm.md")
_NUMBER = r"[-+]?\d[\d.]*"
INTERVAL = re.compile(
  rf"{_NUMBER}\s(?:±\s\d[\d.]*\d|\[{_NUMBER},\s{_NUMBER}\])"
)


def intervals(text):
  """Returns such as "0.81 ± 0.01", without a plus sign in front."""
  return {
    re.sub(r"\s", " ", found).lstrip("+") for found in INTERVAL.findall(text)
  }


class NumbersTest(parameterized.TestCase):
  @parameterized.parameters(*PAGES)
  def test_were_printed_by_a_command(self, page):
    printed = set()
    for written in WRITTEN:
      printed |= intervals((ROOT / written).read_text())
    self.assertContainsSubset(intervals((ROOT / page).read_text()), printed)


if __name__ == "__main__":
  absltest.main()
