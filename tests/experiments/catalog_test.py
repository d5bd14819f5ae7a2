"""The catalog: how each study is run, and what it declares."""

import pathlib
import re

from absl.testing import absltest, parameterized

from experiments import catalog
from experiments.lab.results import FIRST_SEED
from experiments.lab.tuning import SEEDS

ROOT = pathlib.Path(__file__).parents[2]
# Programs that run no study.
OTHERS = {"all", "catalog", "registered", "results"}


class EntriesTest(absltest.TestCase):
  def test_name_every_study(self):
    folder = ROOT / "experiments"
    modules = {path.stem for path in folder.glob("[!_]*.py")}
    modules |= {path.parent.name for path in folder.glob("*/__main__.py")}
    run = {entry.module for entry in catalog.ENTRIES.values()}
    self.assertEqual(run, modules - OTHERS)

  def test_commands(self):
    command = catalog.ENTRIES["transformer_depth"].command
    self.assertEqual(command, "python -m experiments.transformer --study=depth")
    command = catalog.ENTRIES["moons"].command
    self.assertEqual(command, "python -m experiments.moons")


class ArgumentsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("moons", {"dataset": "digits", "text": "pydoc"}, []),
    ("position", {"text": "pydoc"}, []),
    (
      "position",
      {"dataset": "digits", "quick": True},
      ["--quick", "--dataset=digits"],
    ),
    ("position", {"confirm": True}, ["--confirm"]),
    (
      "mnist",
      {},
      ["--norm=none,ln,rms,bn,gn", "--seeds=5", "--resplit", "--tune"],
    ),
    ("mnist", {"quick": True}, ["--quick"]),
    ("mnist", {"sensitivity": True}, ["--sensitivity"]),
    ("mnist", {"quick": True, "confirm": True}, ["--confirm", "--quick"]),
    ("transformer_depth", {"dataset": "digits"}, ["--study=depth"]),
    (
      "transformer_depth",
      {"text": "pydoc", "confirm": True},
      ["--study=depth", "--confirm", "--dataset=pydoc"],
    ),
    (
      "recurrent_rows",
      {"dataset": "digits", "text": "pydoc"},
      ["--study=rows", "--dataset=digits"],
    ),
    ("recurrent_adding", {"dataset": "digits"}, ["--study=adding"]),
  )
  def test_of_a_study(self, name, given, expected):
    self.assertEqual(catalog.arguments(name, **given), expected)


class DeclaredTest(parameterized.TestCase):
  @parameterized.parameters(*catalog.ENTRIES)
  def test_can_be_registered(self, name):
    study = catalog.declared(name)
    names = [one.name for one in (*study.claims, *study.checks)]
    self.assertNotEmpty(names)
    # Pages link to both in one way.
    self.assertLen({*names}, len(names))
    for one in names:
      self.assertRegex(one, r"^[a-z][a-z0-9_]*$")
    settings = {
      **{field: getattr(study.config, field) for field in study.confirm},
      **study.confirm,
    }
    if study.claims:
      seeds = range(settings["seed"], settings["seed"] + settings["seeds"])
      self.assertGreaterEqual(seeds[0], FIRST_SEED)
      self.assertLess(seeds[-1], SEEDS[0])
      self.assertGreaterEqual(len(seeds), 10)
    for claim in study.claims:
      self.assertIsNone(re.search(r"[.\s]$", claim.sentence), claim.sentence)
      self.assertNotEmpty(claim.why)


if __name__ == "__main__":
  absltest.main()
