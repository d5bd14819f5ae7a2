"""Prints what CHANGELOG.md says of the version that a tag names.

`python .ci/release_notes.py v1.2.3` fails if that is not the version in
normjax/__init__.py, or if its entry does not have the date of the release yet.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent


def main(tag: str) -> None:
  source = (ROOT / "normjax/__init__.py").read_text()
  (version,) = re.findall(r'^__version__ = "(.*)"$', source, re.MULTILINE)
  if tag != f"v{version}":
    raise SystemExit(f"The tag is {tag}, but __version__ says {version}.")
  entries = re.split(
    r"^## \[(.*)\] - (.*)\n", (ROOT / "CHANGELOG.md").read_text(), flags=re.M
  )
  for name, date, text in zip(*[iter(entries[1:])] * 3, strict=True):
    if name == version:
      if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        raise SystemExit(f"CHANGELOG.md says {date!r}, not when, of {version}.")
      print(text.strip())
      return
  raise SystemExit(f"CHANGELOG.md has no entry for {version}.")


if __name__ == "__main__":
  main(*sys.argv[1:])
