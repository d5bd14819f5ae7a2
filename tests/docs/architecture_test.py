"""What docs/architecture.md says of files and imports."""

import ast
import pathlib
import re

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
LAB = ROOT / "experiments" / "lab"


def section(title):
  return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def imported(path):
  """Returns the modules that a file imports, `{"lab.data.cache", ...}`."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


class TreeTest(absltest.TestCase):
  def test_names_files_that_exist(self):
    tree = section("The tree").split("```")[1]
    folders = []
    for line in tree.strip().splitlines():
      indent = len(line) - len(line.lstrip())
      folder = re.match(r" *(\w+)/( {2,}\S|$)", line)
      if folder:
        folders = [f for f in folders if f[0] < indent]
        folders.append((indent, folder[1]))
        self.assertTrue(ROOT.joinpath(*(f[1] for f in folders)).is_dir(), line)
        continue
      inside = ROOT.joinpath(*(f[1] for f in folders if f[0] < indent))
      for name in re.findall(r"(?<![\w/])(\w+\.py)\b", line):
        self.assertTrue((inside / name).exists(), f"{name} in {inside}")


class ImportsTest(absltest.TestCase):
  def test_of_the_lab_point_one_way(self):
    text = section("Which way imports point")
    items = re.findall(r"^\d+\. (.*(?:\n {3}.*)*)", text, re.MULTILINE)
    levels = {
      name: level
      for level, item in enumerate(items)
      for name in re.findall(r"`(\w+)`", item)
    }
    for path in LAB.rglob("*.py"):
      module = path.relative_to(LAB).with_suffix("").as_posix()
      if module.endswith("__init__"):
        continue
      name = module.split("/")[0]
      self.assertIn(name, levels, f"docs/architecture.md does not place {path}")
      for target in imported(path):
        self.assertNotStartsWith(target, "benchmarks")
        if not target.startswith("experiments."):
          continue
        self.assertStartsWith(target, "experiments.lab", path)
        other = "/".join(target.split(".")[2:])
        self.assertLessEqual(
          levels[other.split("/")[0]], levels[name], f"{path}: {target}"
        )

  def test_of_the_library_point_one_way(self):
    shared = ("normjax.functional", "normjax.descriptions")
    for path in (ROOT / "normjax").rglob("*.py"):
      below = {
        "normjax": (
          "normjax.functional",
          "normjax.native",
          "normjax.config",
          "normjax.weight_decay",
        ),
        "functional": ("normjax.functional", "normjax.native"),
        "native": ("normjax.native",),
        "descriptions": ("normjax.functional", "normjax.descriptions"),
        "lifecycle": (*shared, "normjax.lifecycle"),
        "linen": (*shared, "normjax.lifecycle", "normjax.linen"),
        "nnx": (*shared, "normjax.lifecycle", "normjax.nnx"),
      }[path.parent.name]
      for target in imported(path):
        if target.startswith(("normjax.", "experiments", "benchmarks")):
          self.assertStartsWith(target, below, path)


if __name__ == "__main__":
  absltest.main()
