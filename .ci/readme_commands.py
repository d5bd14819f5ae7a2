"""Prints the README's commands: the blocks marked `<!-- ci -->`.

`python .ci/readme_commands.py tests` prints the one that runs the tests,
`python .ci/readme_commands.py others` the rest, and
`python .ci/readme_commands.py main` the first of these, the main job.
"""

import pathlib
import re
import sys

README = pathlib.Path(__file__).parent.parent / "README.md"
MARKED = re.compile(r"<!-- ci -->\n```sh\n(.*?)\n```", re.DOTALL)


def main(which: str) -> None:
  commands = MARKED.findall(README.read_text())
  tests = [command for command in commands if "pytest" in command]
  others = [command for command in commands if command not in tests]
  if len(tests) != 1 or not others:
    raise SystemExit(
      f"{README.name} has {len(commands)} blocks marked <!-- ci -->,"
      f" {len(tests)} of them with pytest; expected the main job, and the"
      " tests once."
    )
  printed = {"main": others[:1], "others": others, "tests": tests}[which]
  print("\n".join(printed))


if __name__ == "__main__":
  main(*sys.argv[1:])
