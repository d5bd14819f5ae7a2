"""Prints the README's commands: the blocks marked `<!-- ci -->`.

The main job comes first, as in the README, and the tests last.
"""

import pathlib
import re

README = pathlib.Path(__file__).parent.parent / "README.md"
MARKED = re.compile(r"<!-- ci -->\n```sh\n(.*?)\n```", re.DOTALL)


def main() -> None:
  commands = MARKED.findall(README.read_text())
  tests = [command for command in commands if "pytest" in command]
  if len(tests) != 1 or len(commands) < 2:
    raise SystemExit(
      f"{README.name} has {len(commands)} blocks marked <!-- ci -->,"
      f" {len(tests)} of them with pytest; expected the main job, and the"
      " tests once."
    )
  print("\n".join([c for c in commands if c not in tests] + tests))


if __name__ == "__main__":
  main()
