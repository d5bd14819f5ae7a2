"""Commands that the pages show: modules exist and have the flags."""

import collections
import pathlib
import re

from absl.testing import absltest

from experiments.lab.pages import END, START
from tests.experiments import programs

ROOT = pathlib.Path(__file__).parents[2]
PAGES = (
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  ROOT / "results/README.md",
  *sorted((ROOT / "docs").glob("*.md")),
)
# Names in capitals stand for any module.
COMMAND = re.compile(r"python -m ((?:experiments|benchmarks)\.[a-z]\w*)(.*)")


def commands(text):
  """Returns the commands of a page, `(module, names of flags)`."""
  # Studies wrote these commands of their runs; they have tests of their own.
  text = re.sub(f"{START}.*{END}", "", text, flags=re.DOTALL)
  blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
  prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
  lines = [
    *"\n".join(blocks).replace("\\\n", "").split("\n"),
    *(code.replace("\n", " ") for code in re.findall(r"`([^`]*)`", prose)),
  ]
  found = (match.groups() for match in map(COMMAND.search, lines) if match)
  return [
    (module, re.findall(r"(?<=\s)--?(\w+)", re.split("[#;&|]", rest)[0]))
    for module, rest in found
    if f"`{module.replace('.', '/')}.py`:\n\n```python" not in text
  ]


def flags_by_module():
  """Returns `{module: {flag: pages}}`, over all pages."""
  found = collections.defaultdict(lambda: collections.defaultdict(set))
  for page in PAGES:
    for module, flags in commands(page.read_text()):
      for flag in ("help", *flags):
        found[module][flag].add(page.name)
  return found


class CommandsTest(absltest.TestCase):
  def test_have_the_flags(self):
    shown = flags_by_module()
    for module, text in programs.helps(shown).items():
      known = set(re.findall(r"^ +--(\[no\])?(\w+)", text, re.MULTILINE))
      names = {"help", *(name for _, name in known)}
      names |= {f"no{name}" for negative, name in known if negative}
      for flag, pages in shown[module].items():
        self.assertIn(flag, names, f"{module} --{flag} in {', '.join(pages)}")
      self.assertGreater(len(names), 1, module)

  def test_finds_commands(self):
    page = (
      "`python -m experiments.moons --seeds=2\n--quick` `python -m"
      " experiments.NAME`\n```sh\nFLAGS=--x python -m benchmarks.norms \\\n"
      "  --nomemory  # --not\n```\n"
    )
    self.assertEqual(
      commands(page),
      [
        ("benchmarks.norms", ["nomemory"]),
        ("experiments.moons", ["seeds", "quick"]),
      ],
    )


if __name__ == "__main__":
  absltest.main()
