"""The scripts and workflows that run these tests elsewhere."""

import pathlib
import re
import subprocess
import sys
import tomllib

import yaml
from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").iterdir())


class WorkflowsTest(parameterized.TestCase):
  @parameterized.named_parameters((path.stem, path) for path in WORKFLOWS)
  def test_may_only_read(self, path):
    workflow = yaml.safe_load(path.read_text())
    self.assertEqual(workflow["permissions"], {"contents": "read"})
    for name, job in workflow["jobs"].items():
      self.assertIn("timeout-minutes", job, name)
      if "permissions" not in job:
        continue
      # What publishes: a person approves it, and it runs no repository code.
      self.assertEqual(path.stem, "release")
      self.assertEqual(job["environment"], "release")
      self.assertNotIn("actions/checkout", str(job["steps"]))

  @parameterized.named_parameters((path.stem, path) for path in WORKFLOWS)
  def test_use_actions_that_cannot_change(self, path):
    used = re.findall(r"\buses: (.*)", path.read_text())
    self.assertNotEmpty(used)
    for action in used:
      # A tag can be moved; the comment says which one it was.
      self.assertRegex(action, r"^[\w/-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$")


class ScriptTest(absltest.TestCase):
  def test_is_a_script(self):
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)

  def test_has_the_parts_that_workflows_name(self):
    script = (ROOT / ".ci/run").read_text()
    parts = re.findall(r"^(\w+)\(\) [{(]$", script, re.MULTILINE)
    for path in WORKFLOWS:
      for named in re.findall(r"run: \.ci/run (.*)", path.read_text()):
        self.assertContainsSubset(named.split(), parts)

  def test_finds_the_commands_of_the_readme(self):
    def printed(which):
      command = sys.executable, ".ci/readme_commands.py", which
      output = subprocess.check_output(command, cwd=ROOT, text=True)
      return output.splitlines()

    (tests,) = printed("tests")
    self.assertEndsWith(tests, " && pytest")
    (main,) = printed("main")
    self.assertIn("experiments.mnist", main)
    self.assertEqual(printed("others")[0], main)


class OldestTest(absltest.TestCase):
  def test_versions_are_those_that_are_required(self):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *extras["test"]]
    requirements += [*extras["experiments"], *extras["safetensors"]]
    required = dict(
      re.match(r"([\w.-]+)>=([\d.]+)", requirement).groups()
      for requirement in requirements
      if ">=" in requirement
    )
    required["jaxlib"] = required["jax"]
    pinned = re.findall(
      r"^([\w-]+)==(.*)$", (ROOT / ".ci/oldest.txt").read_text(), re.MULTILINE
    )
    self.assertNotEmpty(pinned)
    for name, version in pinned:
      self.assertStartsWith(f"{version}.", f"{required[name]}.")


if __name__ == "__main__":
  absltest.main()
