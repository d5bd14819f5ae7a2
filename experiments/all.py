"""Runs every study and collects its verdicts into a table.

    python -m experiments.all
    python -m experiments.all --dataset=digits --jobs=2
    python -m experiments.all --quick

Each study runs in its own process and in its own folder of the workdir;
--resume runs only the studies that are not finished. At the end all verdicts
are printed, and studies.md is written to the workdir. A run of all studies also
replaces the results on the same data in docs/studies.md and their figures in
docs/studies/; --quick does not change docs/.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from absl import app, flags

from experiments.lab import pages
from experiments.lab.claims import Finding
from experiments.lab.errors import RefusedError
from experiments.lab.runs import files, workdir


class Study(NamedTuple):
  """How a study is run.

  Attributes:
    module: Name of the module in this folder.
    flags: Flags that select the study.
    images: Whether it takes --dataset.
    whole: More flags, except with --quick.
  """

  module: str
  flags: tuple[str, ...] = ()
  images: bool = True
  whole: tuple[str, ...] = ()


# Short and exact studies first.
STUDIES: Mapping[str, Study] = {
  "internals": Study("internals", images=False),
  "moons": Study("moons", images=False),
  "mnist": Study(
    "mnist", whole=("--norm=none,ln,rms,bn,gn", "--seeds=5")
  ),
  **{
    name: Study(name)
    for name in (
      "scale_invariance", "position", "lr_range", "deep_sigmoid", "smoothness",
      "batch_size", "regularize",
    )
  },
  **{
    f"transformer_{name}": Study(
      "transformer", (f"--study={name}",), images=False
    )
    for name in ("warmup", "depth", "norms", "batch_norm")
  },
}  # fmt: skip
DOCS = pathlib.Path(__file__).parents[1] / "docs"

_QUICK = flags.DEFINE_bool(
  "quick", False, "Only check that the suite runs; the numbers mean little."
)
_DATASET = flags.DEFINE_string(
  "dataset", "auto", "Data of the image studies; see experiments.mnist."
)
_JOBS = flags.DEFINE_integer(
  "jobs", 1, "Number of studies that run at once.", lower_bound=1
)
_STUDIES = flags.DEFINE_list("studies", list(STUDIES), "The studies to run.")
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for the results; by default a new one in runs/."
)
_RESUME = flags.DEFINE_bool(
  "resume", False, "Run only the studies that are not finished in --workdir."
)


def arguments(name: str, *, dataset: str, quick: bool) -> list[str]:
  """Returns the flags of a study, without the flags of its files."""
  entry = STUDIES[name]
  chosen = [*entry.flags, *(("--quick",) if quick else entry.whole)]
  if entry.images and dataset != "auto":
    chosen.append(f"--dataset={dataset}")
  return chosen


def execute(name: str, folder: pathlib.Path, flags_: Sequence[str]) -> str:
  """Runs a study; returns an error message, or an empty text.

  Args:
    name: Name of the study.
    folder: Folder for its files; the output goes to NAME.txt beside it.
    flags_: Flags of the study.
  """
  if (folder / "summary.json").exists():
    return ""
  folder.parent.mkdir(parents=True, exist_ok=True)
  began = time.perf_counter()
  output = folder.parent / f"{name}.txt"
  with output.open("w") as file:
    process = subprocess.run(
      [
        *(sys.executable, "-m", f"experiments.{STUDIES[name].module}"),
        *(*flags_, f"--workdir={folder}", "--resume"),
      ],
      stdout=file,
      stderr=subprocess.STDOUT,
      check=False,
    )
  minutes = (time.perf_counter() - began) / 60
  print(f"{name}: {minutes:.1f} minutes", flush=True)
  if process.returncode:
    return f"{name} failed; its output is in {output}."
  return ""


def write_docs(
  summaries: Sequence[Mapping[str, Any]],
  root: pathlib.Path,
  docs: pathlib.Path = DOCS,
) -> None:
  """Replaces the results on the same data in docs/studies.md, with figures."""
  data = pages.data_of(summaries)
  page = docs / "studies.md"
  text = pages.replace_results(page.read_text(), summaries, data)
  files.write_bytes(page, text.encode())
  for summary in summaries:
    for name in summary["figures"]:
      target = docs / "studies" / data / f"{summary['study']}_{name}"
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(root / summary["study"] / name, target)


def main(argv: Sequence[str]) -> None:
  """Runs the suite from the command line."""
  names: list[str] = _STUDIES.value
  unknown = sorted({*argv[1:], *names} - {*STUDIES})
  if unknown or len(argv) > 1:
    sys.exit(f"Not a study: {', '.join(unknown)}; there are {[*STUDIES]}.")
  try:
    if _WORKDIR.value and _RESUME.value:
      root = pathlib.Path(_WORKDIR.value)
    else:
      workdir.check(_WORKDIR.value, study="all", resume=_RESUME.value)
      root = pathlib.Path(_WORKDIR.value or workdir.new("all"))
  except RefusedError as error:
    sys.exit(str(error))
  print(f"Results go to {root}")

  def one(name: str) -> str:
    chosen = arguments(name, dataset=_DATASET.value, quick=_QUICK.value)
    return execute(name, root / name, chosen)

  with futures.ThreadPoolExecutor(_JOBS.value) as pool:
    failures = list(filter(None, pool.map(one, names)))
  summaries = [
    {**summary, "study": name}
    for name in names
    if (summary := files.read_json(root / name / "summary.json"))
  ]
  text = pages.page(summaries, pages.data_of(summaries))
  files.write_bytes(root / "studies.md", f"{text}\n".encode())
  for summary in summaries:
    print(f"\n{summary['study']}")
    for finding in summary["findings"]:
      print(Finding(**finding))
  if failures:
    sys.exit("\n".join(failures))
  if not _QUICK.value and set(names) == set(STUDIES):
    write_docs(summaries, root)
    print(f"Wrote {os.path.relpath(DOCS / 'studies.md')}")


if __name__ == "__main__":
  sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
  app.run(main)
