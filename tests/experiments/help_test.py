"""`--help` of every command lists its flags and their valid values."""

import dataclasses
import importlib
import importlib.util
import re

from absl import flags
from absl.testing import absltest, parameterized

from experiments import catalog
from experiments.lab import parsers
from tests.experiments import programs

STUDIES = sorted({entry.module for entry in catalog.ENTRIES.values()})
SHARED = ("workdir", "resume", "quick", "confirm")
# The commands that run no study of their own, and their flags.
OTHERS = {
  "all": (*SHARED, "jobs"),
  "registered": (),
  "results": ("add", "compare", "write"),
}


class HelpTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    names = (*STUDIES, *OTHERS)
    texts = programs.helps(f"experiments.{name}" for name in names)
    cls.texts = dict(zip(names, texts.values(), strict=True))

  def paragraph(self, name, flag):
    """Returns the help of a flag."""
    found = re.search(
      rf"\n  -?-(\[no\])?{flag}: (.*?)(\n  -|\n\n|\Z)",
      self.texts[name],
      re.DOTALL,
    )
    self.assertIsNotNone(found, f"--{flag} is not in {self.texts[name]}")
    return found[2]

  @parameterized.parameters(*STUDIES, "all")
  def test_lists_settings_and_their_values(self, name):
    module = f"experiments.{name}"
    if importlib.util.find_spec(module).submodule_search_locations:
      module += ".__main__"
    for field in dataclasses.fields(importlib.import_module(module).Config):
      text = self.paragraph(name, field.name)
      parser = field.metadata.get("parser")
      if isinstance(parser, flags.EnumParser):
        values = parser.enum_values
      elif isinstance(parser, parsers.NamesParser):
        values = parser.valid
      else:
        values = catalog.ENTRIES if field.name == "studies" else ()
      for value in values:
        self.assertRegex(text, rf"\b{re.escape(value)}\b")

  @parameterized.parameters(*STUDIES, *OTHERS)
  def test_says_what_it_does(self, name):
    text = self.texts[name]
    self.assertIn(f"python -m experiments.{name}", text)
    self.assertEqual("Claims:" in text, name not in OTHERS)
    for flag in OTHERS.get(name, SHARED):
      self.paragraph(name, flag)


if __name__ == "__main__":
  absltest.main()
