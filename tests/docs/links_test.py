"""Links between the pages, figures and sources of this repository."""

import pathlib
import re

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted(
  path.relative_to(ROOT).as_posix()
  for path in (*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md"))
  if "runs" not in path.parts
)


def anchors(text):
  """Returns what links into a page can name, as GitHub does."""
  titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
  slugs = (
    re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
  )
  return {*slugs, *re.findall(r'<a id="(.*?)">', text)}


class LinksTest(parameterized.TestCase):
  @parameterized.parameters(*PAGES)
  def test_lead_somewhere(self, page):
    text = (ROOT / page).read_text()
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)(.*?)\)", prose):
      path, _, anchor = link.partition("#")
      target = (ROOT / page).parent / path if path else ROOT / page
      self.assertTrue(target.exists(), f"{link} in {page}")
      if anchor and target.suffix == ".md":
        self.assertIn(anchor, anchors(target.read_text()), f"{link} in {page}")


if __name__ == "__main__":
  absltest.main()
