"""Commands that the pages show: modules exist and have the flags."""

import collections
import pathlib
import re
import subprocess
import sys

from absl.testing import absltest, parameterized

from experiments.lab.pages import END, START

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


class CommandsTest(parameterized.TestCase):
  @parameterized.parameters(*flags_by_module().items())
  def test_have_the_flags(self, module, shown):
    result = subprocess.run(
      [sys.executable, "-m", module, "--help"],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    known = set(re.findall(r"^ +--(\[no\])?(\w+)", result.stdout, re.MULTILINE))
    names = {"help", *(name for _, name in known)}
    names |= {f"no{name}" for negative, name in known if negative}
    self.assertGreater(len(names), 1, result.stderr)
    for flag, pages in shown.items():
      self.assertIn(flag, names, f"{module} --{flag} in {', '.join(pages)}")

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
