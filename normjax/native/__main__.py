"""Builds the kernels for the environment in which it is run."""

import argparse
import subprocess
import sys

from normjax.native import library


def main() -> int:
  """Builds, loads and reports; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m normjax.native",
    description="Builds normjax's CPU kernels for this Python environment and"
    " keeps them in the user's cache. Needs a C++17 compiler: $CXX, or the"
    " first of c++, g++ and clang++.",
  )
  parser.parse_args()
  try:
    path = library.build(library.cache_folder())
  except (library.BuildError, OSError) as error:
    print(f"Not built: {error}", file=sys.stderr)
    return 1
  print(f"Built {path}")
  # In a new process: this one may have looked for kernels before they existed.
  check = (
    "import sys; from normjax.native import library;"
    " problem = library.find().problem;"
    " sys.exit(problem and f'normjax does not use them here: {problem}')"
  )
  if subprocess.run([sys.executable, "-c", check]).returncode:
    return 1
  print("normjax uses them from now on.")
  return 0


if __name__ == "__main__":
  sys.exit(main())
