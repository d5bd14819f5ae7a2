"""What is released, and that all files which name versions name the same."""

import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import tomllib
import types
from unittest import mock

import yaml
from absl.testing import absltest
from packaging.version import Version

import normjax
from normjax.native import library

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
JAXLIBS = re.findall(
  r"^[\d.]+", (ROOT / ".ci/jaxlibs.txt").read_text(), re.MULTILINE
)


def temporary(test):
  """Returns a folder that is there until the end of a test."""
  return pathlib.Path(test.enter_context(tempfile.TemporaryDirectory()))


def workflow(name):
  """Returns a workflow's jobs."""
  text = (ROOT / f".github/workflows/{name}.yml").read_text()
  return yaml.safe_load(text)["jobs"]


class VersionTest(absltest.TestCase):
  def test_is_one_that_can_be_released_and_ordered(self):
    self.assertRegex(normjax.__version__, r"^\d+\.\d+\.\d+(\.dev\d+|rc\d+)?$")

  def test_is_written_in_one_place(self):
    self.assertNotIn("version", PROJECT["project"])
    self.assertIn("version", PROJECT["project"]["dynamic"])
    path = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    # Not from importlib.metadata, which knows only what is installed.
    written = r'^__version__ = "(.*)"$'
    found = re.findall(written, path.read_text(), re.MULTILINE)
    self.assertEqual(found, [normjax.__version__])


class CitationTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())

  def test_is_complete(self):
    required = {"cff-version", "message", "title", "authors"}
    self.assertContainsSubset(required, self.citation)
    self.assertEqual(self.citation["type"], "software")
    # The schema knows no key "description".
    self.assertEqual(
      self.citation["abstract"], PROJECT["project"]["description"]
    )
    self.assertEqual(self.citation["keywords"], PROJECT["project"]["keywords"])

  def test_is_of_this_version_and_license(self):
    self.assertEqual(self.citation["version"], normjax.__version__)
    self.assertEqual(self.citation["license"], PROJECT["project"]["license"])
    (entry,) = re.findall(
      r"@software{.*?\n}", (ROOT / "README.md").read_text(), re.DOTALL
    )
    self.assertIn(f"title = {{{self.citation['title']}}}", entry)
    self.assertIn(f"note = {{Version {normjax.__version__}}}", entry)


class PinsTest(absltest.TestCase):
  def test_the_linter_is_the_same_everywhere(self):
    (pinned,) = (
      requirement.removeprefix("ruff==")
      for requirement in PROJECT["project"]["optional-dependencies"]["dev"]
      if requirement.startswith("ruff")
    )
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    revisions = {repo["repo"]: repo.get("rev") for repo in config["repos"]}
    self.assertEqual(
      revisions["https://github.com/astral-sh/ruff-pre-commit"], f"v{pinned}"
    )

  def test_every_python_that_is_named_is_tested(self):
    named = re.findall(
      r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"])
    )
    self.assertEqual(PROJECT["project"]["requires-python"], f">={named[0]}")
    matrix = workflow("ci")["tests"]["strategy"]["matrix"]
    self.assertEqual(matrix["python"], named)

  def test_kernels_are_released_for_the_oldest_jaxlib_and_others(self):
    oldest = re.search(
      r"^jaxlib==(.*)$", (ROOT / ".ci/oldest.txt").read_text(), re.MULTILINE
    )
    self.assertEqual(JAXLIBS[0], oldest[1])
    self.assertEqual(JAXLIBS, sorted(JAXLIBS, key=Version))

  def test_kernels_are_checked_with_each_jaxlib(self):
    matrix = workflow("release")["check"]["strategy"]["matrix"]["include"]
    checked = [case["jax"] for case in matrix if case["files"] == "dist-*"]
    # The last stands for the newest at the time, which need not be in the list.
    self.assertEqual(checked, [*JAXLIBS[:-1], ""])
    pythons = [case["python"] for case in matrix if case["files"] == "dist-*"]
    tested = workflow("ci")["tests"]["strategy"]["matrix"]["python"]
    self.assertEqual(pythons, tested)


class ChangelogTest(absltest.TestCase):
  def test_begins_with_this_version(self):
    entries = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    released = normjax.__version__.partition(".dev")[0]
    self.assertStartsWith(entries[0], f"[{released}] - ")
    for number, entry in enumerate(entries):
      date = r"\d{4}-\d\d-\d\d" if number else r"(Unreleased|\d{4}-\d\d-\d\d)"
      self.assertRegex(entry, rf"^\[\d+\.\d+\.\d+\] - {date}$")

  def test_has_the_usual_headings(self):
    headings = set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE))
    usual = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    self.assertContainsSubset(headings, {*usual, "Results"})


class NotesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = temporary(self)
    (self.root / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/release_notes.py", self.root / ".ci")
    (self.root / "normjax").mkdir()
    (self.root / "normjax/__init__.py").write_text('__version__ = "1.2.0"\n')
    self.write("[1.2.0] - 2030-01-31")

  def write(self, title):
    (self.root / "CHANGELOG.md").write_text(
      f"# Changelog\n\n## {title}\n\n### Added\n\n- A thing.\n"
      "\n## [1.1.0] - 2029-12-31\n\n### Added\n\n- Another.\n"
    )

  def run_with(self, tag):
    return subprocess.run(
      [sys.executable, self.root / ".ci/release_notes.py", tag],
      capture_output=True,
      text=True,
    )

  def test_are_those_of_the_version(self):
    done = self.run_with("v1.2.0")
    self.assertEqual(done.stdout, "### Added\n\n- A thing.\n", done.stderr)

  def test_refuse_another_tag(self):
    for tag in ("v1.1.0", "1.2.0", "v1.2"):
      done = self.run_with(tag)
      self.assertNotEqual(done.returncode, 0)
      self.assertIn("__version__ says 1.2.0", done.stderr)

  def test_refuse_what_has_no_date_or_no_entry(self):
    for title, error in (
      ("[1.2.0] - Unreleased", "'Unreleased', not when"),
      ("[1.3.0] - 2030-01-31", "no entry for 1.2.0"),
    ):
      self.write(title)
      done = self.run_with("v1.2.0")
      self.assertNotEqual(done.returncode, 0)
      self.assertIn(error, done.stderr)


class ReleaseTest(absltest.TestCase):
  def test_steps_that_the_workflow_names_exist(self):
    script = (ROOT / ".ci/release").read_text()
    subprocess.run(["bash", "-n", ".ci/release"], cwd=ROOT, check=True)
    offered = re.findall(r"^#   (\w+) [A-Z]", script, re.MULTILINE)
    defined = re.findall(r"^(\w+)\(\) {", script, re.MULTILINE)
    self.assertContainsSubset(offered, defined)
    commands = [
      step["run"]
      for job in workflow("release").values()
      for step in job["steps"]
      if "run" in step
    ]
    named = re.findall(r"\.ci/release (\w+)", "\n".join(commands))
    self.assertCountEqual(named, offered)

  def test_nothing_is_published_unchecked_or_without_a_tag(self):
    jobs = workflow("release")
    publish = [name for name, job in jobs.items() if "permissions" in job]
    self.assertCountEqual(publish, ["page", "index"])

    def before(name):
      needs = jobs[name].get("needs", [])
      needs = [needs] if isinstance(needs, str) else needs
      return {*needs, *(more for need in needs for more in before(need))}

    for name in publish:
      self.assertContainsSubset({"pure", "kernels", "check"}, before(name))
      self.assertEqual(jobs[name]["if"], "github.ref_type == 'tag'")

  def test_artifacts_have_the_names_under_which_they_are_fetched(self):
    text = (ROOT / ".github/workflows/release.yml").read_text()
    names = set(re.findall(r"^ +name: (dist-\w+|notes)$", text, re.MULTILINE))
    self.assertEqual(names, {"dist-pure", "dist-kernels", "notes"})


class BuildTest(absltest.TestCase):
  """The build's hook, with a compiler and with jaxlibs that only pretend."""

  def setUp(self):
    super().setUp()
    self.folder = temporary(self)
    native = self.folder / "normjax/native"
    native.mkdir(parents=True)
    for source in (ROOT / "normjax/native").iterdir():
      if source.suffix in (".py", ".cc", ".h"):
        shutil.copy(source, native)
    compiler = self.folder / "compiler"
    compiler.write_text(
      '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; echo "$2" >"$2"\n'
    )
    compiler.chmod(0o755)
    environment = mock.patch.dict(os.environ, CXX=str(compiler))
    self.enter_context(environment)
    for name in ("NORMJAX_BUILD_KERNELS", "NORMJAX_BUILD_JAXLIBS"):
      os.environ.pop(name, None)

  def jaxlib(self, minor):
    """Returns a folder with as much of a jaxlib as building asks for."""
    folder = self.folder / f"jaxlib-{minor}"
    headers = folder / "jaxlib/include/xla/ffi/api"
    headers.mkdir(parents=True)
    (headers / "ffi.h").touch()
    (headers / "c_api.h").write_text(
      f"#define XLA_FFI_API_MAJOR 0\n#define XLA_FFI_API_MINOR {minor}\n"
    )
    return str(folder)

  def build(self, version="standard"):
    """Returns what the hook tells hatch of a wheel, and its warnings."""
    interface = types.ModuleType("interface")
    interface.BuildHookInterface = object
    modules = {"hatchling.builders.hooks.plugin.interface": interface}
    with mock.patch.dict(sys.modules, modules):
      hooks = runpy.run_path(ROOT / "hatch_build.py")
    hook = hooks["NativeBuildHook"]()
    hook.root, hook.app = str(self.folder), mock.Mock()
    data = {"force_include": {}}
    hook.initialize(version, data)
    for path in data["force_include"]:
      self.assertTrue(pathlib.Path(path).is_file())
    hook.finalize(version, data, "")
    for path in data["force_include"]:
      self.assertFalse(pathlib.Path(path).exists())
    return data, hook.app.display_warning.call_args_list

  def test_has_the_kernels_for_the_jaxlib_at_hand(self):
    data, warnings = self.build()
    self.assertEmpty(warnings)
    (target,) = data["force_include"].values()
    self.assertEqual(target, f"normjax/native/{library.file_name()}")
    self.assertFalse(data["pure_python"])
    self.assertRegex(data["tag"], "^py3-none-(linux|macosx)_")

  def test_has_one_library_for_each_interface(self):
    folders = [self.jaxlib(minor) for minor in (7, 8)]
    os.environ["NORMJAX_BUILD_JAXLIBS"] = os.pathsep.join(
      [*folders, folders[0]]
    )
    data, _ = self.build()
    expected = [
      f"normjax/native/{library.file_name(pathlib.Path(folder, 'jaxlib'))}"
      for folder in folders
    ]
    self.assertCountEqual(data["force_include"].values(), expected)
    self.assertLen(set(expected), 2)

  def test_leaves_the_kernels_out(self):
    os.environ["NORMJAX_BUILD_KERNELS"] = "0"
    data, warnings = self.build()
    self.assertEqual(data, {"force_include": {}})
    self.assertEmpty(warnings)

  def test_does_without_a_compiler_unless_told_not_to(self):
    os.environ["CXX"] = str(self.folder / "missing")
    data, warnings = self.build()
    self.assertEqual(data, {"force_include": {}})
    self.assertLen(warnings, 1)
    os.environ["NORMJAX_BUILD_KERNELS"] = "1"
    with self.assertRaisesRegex(RuntimeError, "missing cannot be started"):
      self.build()

  def test_refuses_other_values(self):
    os.environ["NORMJAX_BUILD_KERNELS"] = "yes"
    with self.assertRaisesRegex(ValueError, "'yes'"):
      self.build()

  def test_says_where_headers_are_missing(self):
    os.environ["NORMJAX_BUILD_KERNELS"] = "1"
    os.environ["NORMJAX_BUILD_JAXLIBS"] = str(self.folder)
    with self.assertRaisesRegex(RuntimeError, f"not in {self.folder}/jaxlib"):
      self.build()

  def test_replaces_the_kernels_of_an_editable_install(self):
    native = self.folder / "normjax/native"
    (native / "kernels-0.so").touch()
    self.build("editable")
    found = [path.name for path in native.glob("*.so")]
    self.assertEqual(found, [library.file_name()])


if __name__ == "__main__":
  absltest.main()
