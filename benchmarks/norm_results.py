"""Makes a page of tables from files that `benchmarks.norms` wrote.

    python -m benchmarks.norm_results RUN.json [...] > benchmarks/RESULTS.md

Every number on the page comes from these files.
"""

import itertools
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app

from benchmarks import norm_report
from benchmarks.norm_cases import Case
from benchmarks.norm_memory import Memory
from experiments.lab.timing import Spread

HEAD = """# Speed and memory of normalization layers

Medians in milliseconds, ± half the distance between the quartiles, and, behind
a comma, the library's time over ours: above 1 we are faster. `grad` is forward
and backward, `loop` one compiled loop over many steps, `call` a plain call
whose results are new buffers. `share of copy` is the time that a copy of the
arrays that any algorithm must read and write would take, over our time; it may
exceed 100% where arrays fit in a cache. Within a table all libraries ran in
turns in one process; compare ratios, not times of different tables.

This page is printed by `python -m benchmarks.norm_results` from the files of
the commands below."""


def page(runs: Sequence[Mapping[str, Any]]) -> str:
  """Returns the page, in Markdown.

  Args:
    runs: Contents of files that `benchmarks.norms` wrote.
  """
  return "\n\n".join([HEAD, *map(_section, runs)]) + "\n"


def command(options: Mapping[str, Any]) -> str:
  """Returns the command line for these options.

  >>> command({"norms": ["rms"], "shapes": [[64, 128]], "memory": False})
  'python -m benchmarks.norms --norms=rms --shapes=64x128 --nomemory'
  """
  words = ["python -m benchmarks.norms"]
  for name, value in options.items():
    if name == "shapes" and value is not None:
      value = ["x".join(map(str, shape)) for shape in value]
    if name == "memory":
      words += [] if value else ["--nomemory"]
    elif name == "quick":
      words += ["--quick"] if value else []
    elif isinstance(value, list):
      words.append(f"--{name}={','.join(value)}")
    elif value is not None:
      words.append(f"--{name}={value}")
  return " ".join(words)


def _section(run: Mapping[str, Any]) -> str:
  machine = run["machine"]
  versions = ", ".join(
    f"{name} {version}" for name, version in machine["versions"].items()
  )
  kernels = "native" if run["native_kernels"] else "none"
  parts = [
    f"## {_title(run)}",
    f"```sh\n{command(run['options'])}\n```",
    f"{machine['device']}, {machine['cores']} cores, load before the run"
    f" {machine['load']:.1f}; a copy of 64 MiB:"
    f" {run['copy_bytes_per_second'] / 1e9:.1f} GB/s; kernels: {kernels};"
    f" {versions}.",
  ]
  rows = list(map(_row, run["rows"]))
  for (norm, mode, timing), some in itertools.groupby(
    rows, lambda row: (row.case.norm, row.mode, row.timing)
  ):
    parts.append(f"**{norm}, {mode}, {timing}**")
    parts.append(norm_report.table(list(some)))
  parts += ["**Geometric means**", norm_report.summary(rows)]
  memory = {_case(entry): _memory(entry["bytes"]) for entry in run["memory"]}
  if memory:
    parts += ["**Memory**", norm_report.memory_table(memory)]
  for error, places in run["failures"].items():
    parts.append(f"Could not be measured: {error} ({'; '.join(places)}).")
  return "\n\n".join(parts)


def _title(run: Mapping[str, Any]) -> str:
  options = run["options"]
  words = [
    "/".join(options["dtypes"]),
    *(["channels first"] if options["layouts"] == ["first"] else []),
    " and ".join(options["modes"]),
    "/".join(options["timings"]),
  ]
  if not run["native_kernels"]:
    words.append("XLA alone")
  return ", ".join(words)


def _case(entry: Mapping[str, Any]) -> Case:
  return Case(
    entry["norm"], tuple(entry["shape"]), entry["dtype"], entry["layout"]
  )


def _row(entry: Mapping[str, Any]) -> norm_report.Row:
  return norm_report.Row(
    _case(entry["case"]),
    entry["mode"],
    entry["timing"],
    Spread(**entry["copy"]),
    {name: Spread(**spread) for name, spread in entry["seconds"].items()},
  )


def _memory(
  libraries: Mapping[str, Mapping[str, int]],
) -> dict[str, Memory]:
  return {name: Memory(**needed) for name, needed in libraries.items()}


def main(argv: Sequence[str]) -> None:
  if len(argv) < 2:
    sys.exit("Name at least one file that benchmarks.norms wrote with --out.")
  runs = [json.loads(pathlib.Path(name).read_text()) for name in argv[1:]]
  print(page(runs), end="")


if __name__ == "__main__":
  app.run(main)
