"""Verdicts that the pages cite are those of results/.

A page cites a claim with its verdicts on all data sets, and a check likewise.
Of a headline claim, it says how many other settings agree. The verdict with one
of them, or of a repetition elsewhere, can be cited too:

    ([batch_size/worse_at_2: CONFIRMED on 2
    of 2](studies.md#batch_size-worse_at_2))
    ([internals/textbook: holds on 1 of 1](studies.md#internals-textbook))
    ([smoothness/range, steps=600 on digits:
    REFUTED](studies.md#smoothness-range))
"""

import pathlib
import re
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized

from experiments import catalog
from experiments import results as program
from experiments.lab import citations, pages, results
from experiments.lab.claims import Verdict
from tests.experiments.lab import small_study

ROOT = pathlib.Path(__file__).parents[2]
CITATION = re.compile(r"\[(\w+)/(\w+(?:,[^:\]]+)?):\s([^\]]*)\]\(([^)]*)\)")
# Parts of which_norm.md in which every sentence needs evidence.
ADVICE = ("Choose", "Do not expect", "Take care")


def problems(root):
  """Returns what is wrong with the citations in the pages, as sentences."""
  cited = citations.cited(*program.read(root))
  studies = (root / "docs/studies.md").read_text()
  anchors = {*re.findall(r'<a id="(.*?)">', studies)}
  found = []
  for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
    text = _written(page.read_text())
    path = "docs/studies.md" if page.parent == root else "studies.md"
    for study, name, verdict, link in CITATION.findall(text):
      name = " ".join(name.split())
      expected = cited.get((study, name))
      anchor = pages.anchor(study, name.split(",")[0])
      place = f"{page.name}: {study}/{name}"
      said = " ".join(verdict.split())
      if said != expected:
        found.append(f"{place} is {expected}, not {said}")
      if link != f"{path}#{anchor}":
        found.append(f"{place} links to {link}, not {path}#{anchor}")
      if anchor not in anchors:
        found.append(f"{place} has no anchor in docs/studies.md")
    for label in re.findall(r"\[([^\]]*)\]\(", CITATION.sub("", text)):
      if any(re.search(rf"\b{verdict}\b", label) for verdict in Verdict):
        found.append(f"{page.name}: [{label}] is not STUDY/CLAIM: VERDICTS")
  found += [f"no evidence: {text}" for text in unsupported(root)]
  return found


def unsupported(root):
  """Returns the sentences of advice that cite nothing."""
  text = (root / "docs/which_norm.md").read_text()
  sections = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", text, re.M))
  return [
    sentence
    for title in ADVICE
    for paragraph in re.split(r"\n\s*\n|\n(?=[-*] |\d+\. )", sections[title])
    for sentence in _sentences(paragraph)
    if "[]" not in sentence
  ]


def _sentences(paragraph):
  """Returns the sentences of a paragraph, with [] for each citation.

  What is printed in bold at its beginning is a heading, if it is a sentence.
  """
  text = " ".join(CITATION.sub("[]", paragraph).split())
  text = re.sub(r"^([-*] |\d+\. )?(\*\*[^*]*[.:]\*\*)?", "", text).strip()
  return [part for part in re.split(r"(?<=[.!?]) (?=[A-Z`])", text) if part]


def _written(text):
  """Returns what people wrote of a page."""
  return re.sub(f"{pages.START}.*{pages.END}", "", text, flags=re.DOTALL)


class PagesTest(absltest.TestCase):
  def test_cite_what_was_found(self):
    self.assertEmpty(problems(ROOT))


WHICH_NORM = """# Which norm

Nothing is claimed here.

## Choose

- **This norm** is lower
  ([small/lower: CONFIRMED on 1 of 2, REFUTED
  on 1 of 2](studies.md#small-lower)).
- Nothing is nothing ([small/identity: holds on 2 of
  2](studies.md#small-identity)).

## Do not expect

That it is equal ([small/equal: REFUTED on 2 of 2](studies.md#small-equal)).

## Take care

1. It is lower ([small/lower: CONFIRMED on 1 of 2, REFUTED on 1 of
   2](studies.md#small-lower)).
"""


class ProblemsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    entries = {"small": catalog.Entry("small")}
    self.enter_context(mock.patch.object(catalog, "ENTRIES", entries))
    self.enter_context(
      mock.patch.object(catalog, "declared", return_value=small_study.STUDY)
    )
    (self.root / "docs").mkdir()
    self.which_norm = self.root / "docs/which_norm.md"
    self.which_norm.write_text(WHICH_NORM)
    for page in ("README.md", "docs/studies.md"):
      (self.root / page).write_text(f"# Title\n{pages.START}{pages.END}")
    readme = self.root / "README.md"
    link = "[small/equal: REFUTED on 2 of 2](docs/studies.md#small-equal)"
    readme.write_text(f"{readme.read_text()}\nNot equal ({link}).\n")
    self.write(small_study.record())
    self.write(small_study.record(effect=-1.0, dataset="mnist"))
    program.write_pages(self.root)

  def write(self, record):
    results.write(record, self.root / "results")

  def test_none_where_all_agree(self):
    self.assertEmpty(problems(self.root))

  def test_a_changed_verdict(self):
    self.write(small_study.record(effect=0.1))
    lower = (
      "small/lower is REFUTED on 1 of 2, SMALLER THAN CLAIMED on 1 of 2, not"
      " CONFIRMED on 1 of 2, REFUTED on 1 of 2"
    )
    equal = (
      "small/equal is CONFIRMED on 1 of 2, REFUTED on 1 of 2, not REFUTED on 2"
      " of 2"
    )
    self.assertCountEqual(
      problems(self.root),
      [
        f"README.md: {equal}",
        f"which_norm.md: {equal}",
        *[f"which_norm.md: {lower}"] * 2,
      ],
    )

  def test_a_changed_check(self):
    record = small_study.record()
    (check,) = record["checks"]
    self.write({**record, "checks": [{**check, "holds": False}]})
    (found,) = problems(self.root)
    self.assertIn("small/identity is holds on 1 of 2, not holds on 2", found)

  def test_a_new_data_set(self):
    self.write(small_study.record(dataset="kmnist"))
    self.assertLen(problems(self.root), 5)

  @parameterized.parameters(
    ("small/identity: ", "small/gone: ", "small/gone is None"),
    ("s.md#small-equal", "s.md#small-lower", "links to studies.md#small-lower"),
    ("](studies.md#small-eq", "](docs/studies.md#small-eq", "links to docs/"),
    ("small/equal: REF", "small: REF", r"\[small: REFUTED on 2 of 2\] is not"),
    (
      "That it is equal (",
      "That is so.\n\nThat it is equal (",
      "no evidence: That is so.",
    ),
    ("- Nothing is", "- **Something** is.\n- Nothing is", r"nce: \*\*Some"),
    ("\n1. It is", "\n1. Not so.\n2. It is", "no evidence: Not so."),
    ("## Choose\n", "## Choose\n\nChoose well.\n", "evidence: Choose well."),
    ("equal ([", "equal. Or so ([", "no evidence: That it is equal."),
    (
      "small/equal: ",
      "small/equal, gain=9 on digits: ",
      "gain=9 on digits is N",
    ),
  )
  def test_a_changed_page(self, old, new, expected):
    self.assertIn(old, WHICH_NORM)
    self.which_norm.write_text(WHICH_NORM.replace(old, new))
    self.assertRegex("\n".join(problems(self.root)), expected)

  def test_a_page_that_was_not_written_again(self):
    (self.root / "docs/studies.md").write_text("# Title\n")
    found = problems(self.root)
    self.assertIn(
      "which_norm.md: small/equal has no anchor in docs/studies.md", found
    )


if __name__ == "__main__":
  absltest.main()
