"""Results as Markdown."""

import pathlib
import re
import tempfile

from absl.testing import absltest

from experiments.lab import pages
from experiments.lab.errors import RefusedError
from tests.experiments.lab import small_study

# The claim "lower" is CONFIRMED on the digits, REFUTED on mnist; "equal" is
# REFUTED on both.
DIGITS = small_study.record()
MNIST = small_study.record(effect=-1.0, dataset="mnist")
BOTH = {"small": {"digits": DIGITS, "mnist": MNIST}}


def rows(text, start):
  """Returns the cells of the rows that begin with a text."""
  return [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in text.splitlines()
    if line.startswith(f"| {start}")
  ]


class PageTest(absltest.TestCase):
  def test_has_one_table_per_study_with_a_column_per_data_set(self):
    text = pages.page(BOTH, {})
    self.assertEqual(text.count("\n### small\n"), 1)
    self.assertEqual(
      rows(text, "claim"), [["claim", "digits", "mnist", "in all"]]
    )
    lower, equal, _ = rows(text, '<a id="small-')
    self.assertStartsWith(
      lower[0],
      '<a id="small-lower"></a>**headline** `lower`: after 2 steps, the loss is'
      " at least 0.5 nats lower with the norm [Someone 2015, section 1]",
    )
    finding = DIGITS["findings"][0]
    self.assertStartsWith(lower[1], f"**CONFIRMED**<br>{finding['number']}<br>")
    self.assertIn("10 seeds", lower[1])
    self.assertStartsWith(lower[2], "**REFUTED**<br>")
    self.assertEqual(lower[3], "CONFIRMED on 1 of 2, REFUTED on 1 of 2")
    self.assertEqual(equal[3], "REFUTED on 2 of 2")
    self.assertNotIn("headline", equal[0])
    self.assertIn(r"the loss \| with", equal[0])

  def test_counts_claims_and_verdicts(self):
    # Another study may have claims of the same names.
    found = {**BOTH, "other": {"digits": DIGITS}}
    text = pages.page(found, {})
    self.assertStartsWith(
      text,
      "4 claims, 6 verdicts: 2 CONFIRMED, 4 REFUTED, 0 SMALLER THAN CLAIMED, 0"
      " UNRESOLVED.",
    )

  def test_adds_up_minutes(self):
    found = {"small": {"a": {**DIGITS, "minutes": 1.2}}}
    found["other"] = {
      "a": {**DIGITS, "minutes": 5},
      "b": {**MNIST, "minutes": 3},
    }
    self.assertIn(
      "Minutes of all runs: 9; by data: a 6, b 3.\n", pages.page(found, {})
    )

  def test_counts_rates_that_are_nearly_as_good(self):
    def with_losses(*losses):
      choice = {**DIGITS["rates"]["norm"], "validation": losses}
      return {**DIGITS, "rates": {"norm": choice}}

    found = {
      "small": {
        "near": with_losses(0.5, 0.52, None),
        "far": with_losses(0.6, 0.5, None),
        "alone": with_losses(None, 0.5, None),
        "diverged": with_losses(None, None, None),
        "returns": with_losses(-9.0, -8.0, -1.0),
      }
    }
    self.assertIn(
      "\nIn 1 of 2 choices of a learning rate, for an arm on a data set, the"
      " loss of the second best rate is within 5% of that of the best.\n",
      pages.page(found, {}),
    )
    without = {"small": {"digits": {**DIGITS, "rates": {}}}}
    self.assertNotIn("second best", pages.page(without, {}))
    self.assertNotIn("second best", pages.page(found, {"small": "no data"}))

  def test_controls_do_not_count(self):
    (lower, equal) = DIGITS["findings"]
    findings = [lower, {**equal, "uncounted": "a control"}]
    text = pages.page({"small": {"d": {**DIGITS, "findings": findings}}}, {})
    self.assertStartsWith(text, "1 claims, 1 verdicts: 1 CONFIRMED, 0 REFUTED")
    self.assertIn("(not counted: a control) `equal`: the loss", text)

  def test_demonstrations_do_not_count(self):
    found = {**BOTH, "other": {"digits": DIGITS}}
    text = pages.page(found, {"other": "two points are not data"})
    self.assertStartsWith(text, "2 claims, 4 verdicts: 1 CONFIRMED, 3 REFUTED")
    self.assertIn(
      "### other\n\nA demonstration, which does not count: two points are not"
      " data.\n",
      text,
    )
    self.assertEqual(text.count("A demonstration"), 1)

  def test_applications_come_last(self):
    found = {"first": {"digits": DIGITS}, "second": {"digits": DIGITS}}
    headings = re.compile(r"^##+ .*", re.M)
    for applications, expected in (
      ((), ["### first", "### second"]),
      (["first"], ["### second", "## Applications", "### first"]),
      (found, ["## Applications", "### first", "### second"]),
    ):
      text = pages.page(found, {}, applications=applications)
      self.assertEqual(headings.findall(text), expected)

  def test_leaves_the_place_of_a_missing_verdict_empty(self):
    some = {**MNIST, "findings": MNIST["findings"][:1], "checks": []}
    text = pages.page({"small": {"digits": DIGITS, "mnist": some}}, {})
    lower, equal, check = rows(text, "<a id")
    self.assertStartsWith(lower[2], "**REFUTED**")
    self.assertEqual(equal[2:], ["", "REFUTED on 1 of 1"])
    self.assertStartsWith(check[1], "holds: 1e-08")
    self.assertEqual(check[2], "")

  def test_shows_checks(self):
    (check,) = MNIST["checks"]
    failed = {**MNIST, "checks": [{**check, "holds": False, "number": 0.5}]}
    text = pages.page({"small": {"digits": DIGITS, "mnist": failed}}, {})
    (row,) = rows(text, '<a id="small-identity"></a>')
    self.assertIn("`identity`: the norm of nothing is nothing", row[0])
    self.assertIn("(largest error below 1e-06)", row[0])
    self.assertEqual(row[1:], ["holds: 1e-08", "FAILS: 5e-01"])

  def test_links_to_commands_results_and_figures(self):
    other = {**MNIST, "figures": ["losses.png", "more.png"]}
    digits = {**DIGITS, "minutes": 1.25}
    text = pages.page({"small": {"digits": digits, "mnist": other}}, {})
    self.assertIn(
      "- digits: `command`, 1.2 minutes ([results](../results/", text
    )
    self.assertCountEqual(
      re.findall(r"\]\((.*?)\)", text),
      [
        "../results/small/digits.json",
        "../results/small/mnist.json",
        "studies/digits/small_losses.png",
        "studies/mnist/small_losses.png",
        "studies/mnist/small_more.png",
      ],
    )
    links = pages.Links("{study}.json", "{study}/{figure}")
    text = pages.page({"small": {"digits": DIGITS}}, {}, links=links)
    self.assertEqual(
      re.findall(r"\]\((.*?)\)", text), ["small.json", "small/losses.png"]
    )

  def test_shows_versions_only_where_they_differ(self):
    for digits, mnist, expected in (
      ({"jax": "1", "flax": "1"}, {"jax": "1", "flax": "1"}, ["", ""]),
      (
        {"jax": "1", "flax": "1"},
        {"jax": "2", "flax": "1"},
        [", jax 1", ", jax 2"],
      ),
      (
        {"jax": "1", "XLA_FLAGS": "--a"},
        {"jax": "2", "XLA_FLAGS": ""},
        [", jax 1, XLA_FLAGS --a", ", jax 2, XLA_FLAGS unset"],
      ),
      ({"jax": "1"}, {"jax": "1", "XLA_FLAGS": "--a"}, ["", ""]),
    ):
      records = {
        data: {**record, "versions": made_with}
        for data, record, made_with in (
          ("digits", DIGITS, digits),
          ("mnist", MNIST, mnist),
        )
      }
      lines = pages.section("small", records)
      found = [
        re.search(r"minutes(.*?) \(", line)[1]
        for line in lines
        if line.startswith("- ")
      ]
      self.assertEqual(found, expected)

  def test_shows_the_chosen_rates_beside_their_neighbours(self):
    text = pages.page(BOTH, {})
    ((_, digits, _),) = rows(text, "norm")
    self.assertEqual(digits, "0.01: 0.500, **0.1: 0.250**, 1: diverged")
    rate = DIGITS["rates"]["norm"]
    edge = {**DIGITS, "rates": {"norm": {**rate, "rate": 0.01, "interior": 0}}}
    ((_, digits),) = rows(pages.page({"small": {"d": edge}}, {}), "norm")
    self.assertEqual(digits, "**0.01: 0.500**, 0.1: 0.250 (edge of the grid)")

  def test_folds_the_variations(self):
    findings = [MNIST["findings"][0], DIGITS["findings"][1]]
    record = {**DIGITS, "config": {"seed": 3, "seeds": 4}}
    varied = {
      "default": {**record, "change": {}},
      "gain=0.5": {**record, "change": {"gain": 0.5}, "findings": findings},
      "gain=2": None,
    }
    text = pages.page(BOTH, {}, {"small": {"digits": varied}})
    _, found, folded = text.partition(
      "<details><summary>Other settings, one at a time</summary>\n\n"
    )
    self.assertNotEmpty(found)
    self.assertStartsWith(folded, "digits, seeds 3 to 6:\n\n|")
    self.assertEndsWith(
      folded.strip(), "\n\nNot measured yet: gain=2.\n\n</details>"
    )
    self.assertEqual(rows(folded, "setting"), [["setting", "lower"]])
    ((_, default),) = rows(folded, "default")
    self.assertStartsWith(default, "CONFIRMED, -1.0")
    ((_, varied),) = rows(folded, "gain=0.5")
    self.assertStartsWith(varied, "REFUTED, +")

    ((_, *cells),) = rows(text, "[small/lower](#small-lower)")
    self.assertEqual(
      cells, ["digits", "3 to 6", "CONFIRMED", "0 of 1", "REFUTED: gain=0.5"]
    )
    self.assertEmpty(rows(text, "[small/equal]"))  # No headline.

  def test_leaves_out_settings_that_change_no_sample(self):
    same = {**DIGITS, "change": {"steps": 4}}
    other = {**small_study.record(effect=0.9), "change": {"gain": 2}}
    varied = {"default": DIGITS, "steps=4": same, "gain=2": other}
    for settings, count in (
      (varied, "1 of 1"),
      ({**varied, "gain=2": same}, "0 of 0"),
    ):
      text = pages.robustness({"small": {"digits": settings}})
      ((*_, default, found, others),) = rows(text, "[small/lower]")
      self.assertEqual((default, found, others), ("CONFIRMED", count, ""))

  def test_lists_what_differs_where_runs_were_repeated(self):
    label = "gpu-jaxlib-9.0"
    other = {**MNIST, "config": DIGITS["config"]}
    again = {"small": {label: {"digits": other}}}
    text = pages.page(BOTH, {}, repeated=again)
    self.assertIn(
      f"again, {label}: the verdict is the same for 1 of 2 claims and data"
      " sets, and the opposite for 1. For headline claims it is the same for 0"
      " of 1; in runs in which no arm chose another learning rate, for 1 of 2.",
      text,
    )
    (row,) = rows(text, "[small/lower](#small-lower)")
    self.assertStartsWith(row[2], "CONFIRMED, ")
    self.assertStartsWith(row[3], "REFUTED, ")
    self.assertEqual((row[1], *row[4:]), ("digits", "yes", ""))
    # The verdict on "equal" is the same, but not the interval.
    ((*_, apart, _),) = rows(text, "[small/equal](#small-equal)")
    self.assertEqual(apart, "yes")
    self.assertIn(
      f"[again, {label}](../results/small/replications/{label}/digits.json)",
      text,
    )
    text = pages.page(BOTH, {"small": "no data"}, repeated=again)
    self.assertIn("the same for 0 of 0 claims", text)

  def test_says_which_headline_claims_were_not_varied(self):
    link = "[{0}/lower](#{0}-lower)".format
    found = {**BOTH, "other": {"digits": DIGITS}, "third": {"digits": DIGITS}}
    default = {**DIGITS, "change": {}}
    varied = {"default": default, "steps=4": None, "gain=2": None}
    some = {"small": {"digits": varied}, "other": {}}
    sentences = [
      f"Not measured with other settings: {link('other')}, {link('third')}.",
      f"Not measured yet for {link('small')} on digits: steps=4, gain=2.",
    ]
    self.assertEqual(pages.unmeasured(found, some), sentences)
    self.assertIn("\n".join(sentences), pages.page(found, {}, some))
    complete = {"digits": {"default": default}}
    everything = dict.fromkeys(found, complete)
    self.assertEmpty(pages.unmeasured(found, everything))


class HeadlinesTest(absltest.TestCase):
  def test_has_a_row_for_each_headline_claim(self):
    text = pages.headlines(BOTH)
    self.assertEqual(
      rows(text, "after"),
      [
        [
          "after 2 steps, the loss is at least 0.5 nats lower with the norm"
          " [Someone 2015, section 1]",
          "[CONFIRMED on 1 of 2, REFUTED on 1 of 2]"
          "(docs/studies.md#small-lower)",
          "",
        ]
      ],
    )
    self.assertNotIn("within a factor", text)


class ReplacedTest(absltest.TestCase):
  def page(self, text):
    folder = self.enter_context(tempfile.TemporaryDirectory())
    path = pathlib.Path(folder, "page.md")
    path.write_text(text)
    return path

  def test_keeps_what_is_around(self):
    before, after = "# Title\n\n", "\n## More\n"
    page = self.page(f"{before}{pages.START}{pages.END}{after}")
    for block in ("first", "second\n"):
      page.write_text(pages.replaced(page, block))
      self.assertEqual(
        page.read_text(),
        f"{before}{pages.START}\n{block.strip()}\n\n{pages.END}{after}",
      )

  def test_needs_its_markers(self):
    for text in ("", pages.START, pages.END, pages.END + pages.START):
      with self.assertRaisesRegex(
        RefusedError, "page.md has no place for the results. Add the lines <!--"
      ):
        pages.replaced(self.page(text), "block")


if __name__ == "__main__":
  absltest.main()
