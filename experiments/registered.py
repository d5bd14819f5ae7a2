"""Writes experiments/REGISTERED.md from the claims that the studies declare.

    python -m experiments.registered

The page says, before the runs that decide, what is claimed by whom, what is
measured, which margin counts and why, and how many seeds resolve it.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app

from experiments import catalog
from experiments.lab import registration
from experiments.lab.runs import files

PAGE = pathlib.Path(__file__).parent / "REGISTERED.md"


def text() -> str:
  """Returns the page as the studies declare it now."""
  studies = {name: catalog.declared(name) for name in catalog.ENTRIES}
  commands = {name: entry.command for name, entry in catalog.ENTRIES.items()}
  return registration.text(studies, commands)


def main(argv: Sequence[str]) -> None:
  """Writes the page."""
  if len(argv) > 1:
    sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
  files.write_bytes(PAGE, text().encode())
  print(f"Wrote {PAGE}")


if __name__ == "__main__":
  app.run(main)
