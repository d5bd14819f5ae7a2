"""Prints the README's two commands: the blocks marked `<!-- ci -->`."""

import pathlib
import re

README = pathlib.Path(__file__).parent.parent / "README.md"
MARKED = re.compile(r"<!-- ci -->\n```sh\n(.*?)\n```", re.DOTALL)


def main() -> None:
  commands = MARKED.findall(README.read_text())
  if len(commands) != 2:
    raise SystemExit(
      f"{README.name} has {len(commands)} blocks marked <!-- ci -->; expected"
      " two: the main job, then the tests."
    )
  print("\n".join(commands))


if __name__ == "__main__":
  main()
