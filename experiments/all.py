"""Runs every study and collects its verdicts into a table.

    python -m experiments.all
    python -m experiments.all --dataset=digits --jobs=2
    python -m experiments.all --quick

Each study is a process of its own, with its folder in the workdir; --resume
runs only what is not finished. In the end all verdicts are printed, and
studies.md is written to the workdir. At the default settings the table in
docs/studies.md is replaced too, that of the same data, with its figures in
docs/studies/; --quick leaves docs/ alone.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from absl import app, flags

from experiments.lab import checkpoints, comparison, reporting


class Study(NamedTuple):
  """How a study is run.

  Attributes:
    module: In this folder.
    flags: Those that make it this study.
    images: Whether it takes --dataset.
    quick: What stands for --quick.
  """

  module: str
  flags: tuple[str, ...] = ()
  images: bool = True
  quick: tuple[str, ...] = ("--quick",)


# Cheap and exact ones first.
STUDIES: Mapping[str, Study] = {
  "internals": Study("internals", images=False),
  "moons": Study("moons", images=False),
  "mnist": Study(
    "mnist",
    ("--norm=none,ln,bn", "--seeds=5"),
    quick=("--norm=none,ln,bn", "--seeds=2", "--epochs=2"),
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
      "transformer",
      (f"--study={name}",),
      images=False,
      quick=(f"--study={name}", "--quick"),
    )
    for name in ("warmup", "depth", "norms", "batch_norm")
  },
}  # fmt: skip
DOCS = pathlib.Path(__file__).parents[1] / "docs"
HEADERS = (
  "claim", "source", "our number", "verdict", "criterion", "minutes",
  "command", "figures",
)  # fmt: skip

_QUICK = flags.DEFINE_bool(
  "quick", False, "Only show that the suite runs; the numbers mean little."
)
_DATASET = flags.DEFINE_string(
  "dataset", "auto", "Data of the studies of images; see experiments.mnist."
)
_JOBS = flags.DEFINE_integer(
  "jobs", 1, "How many studies run at once.", lower_bound=1
)
_STUDIES = flags.DEFINE_list("studies", list(STUDIES), "Which studies to run.")
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for the results; by default a new one in runs/."
)
_RESUME = flags.DEFINE_bool(
  "resume", False, "Run only what is not finished in --workdir."
)


def arguments(name: str, *, dataset: str, quick: bool) -> list[str]:
  """Returns the flags of a study, without those of its files."""
  entry = STUDIES[name]
  chosen = list(entry.quick if quick else entry.flags)
  if entry.images and dataset != "auto":
    chosen.append(f"--dataset={dataset}")
  return chosen


def execute(name: str, folder: pathlib.Path, flags_: Sequence[str]) -> str:
  """Runs a study; returns what went wrong, or nothing.

  Args:
    name: Of the study.
    folder: Gets its files, and output.txt.
    flags_: Of the study.
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
  if name == "mnist":
    _adapt_mnist(folder, flags_, minutes)
  return ""


def _adapt_mnist(
  folder: pathlib.Path, flags_: Sequence[str], minutes: float
) -> None:
  """Adds the verdicts that the study prints to its summary."""
  summary = checkpoints.read_json(folder / "summary.json")
  assert summary is not None
  lines = comparison.verdict_lines(
    summary["norms"], faster_below=0.9, equal_within=0.5
  ).splitlines()
  findings = []
  for line in lines:
    match = re.fullmatch(r"(\w+): (.*?): (.*) \((.*)\)", line)
    assert match, line
    verdict, claim, criterion, number = match.groups()
    source = "Ba et al. 2016" if claim.startswith("ln") else "tutorials"
    findings.append(
      {
        "claim": f"{claim} (one hidden layer)",
        "source": source,
        "criterion": criterion,
        "number": number,
        "verdict": verdict,
      }
    )
  summary |= {
    "study": "mnist",
    "command": " ".join(["python -m experiments.mnist", *flags_]),
    "minutes": round(minutes, 2),
    "data": summary["config"]["dataset"],
    "findings": findings,
    "figures": ["curves.png"],
  }
  reporting.write_json(folder / "summary.json", summary)


def table(summaries: Sequence[Mapping[str, Any]]) -> str:
  """Returns the table of all findings, with figures in `studies/DATA/`.

  The first row of a study is what a link to `DATA-STUDY` leads to.
  """
  rows = []
  data = "-".join(data_of(summaries))
  for summary in summaries:
    figures = ", ".join(
      f"[{pathlib.Path(name).stem}](studies/{data}/{summary['study']}_{name})"
      for name in summary["figures"]
    )
    anchor = f'<a id="{data}-{summary["study"]}"></a>'
    last = (f"{summary['minutes']:.1f}", f"`{summary['command']}`", figures)
    for finding in summary["findings"]:
      cells = ("claim", "source", "number", "verdict", "criterion")
      row = [finding[cell].replace("|", r"\|") for cell in cells]
      rows.append([anchor + row[0], *row[1:], *last])
      anchor, last = "", ("", "", "")
  return reporting.table(rows, HEADERS)


def data_of(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns the names of the data, as folders can have them."""
  names = {summary["data"] for summary in summaries if summary["data"]}
  return sorted(name.replace("/", "_") for name in names)


def write_docs(
  summaries: Sequence[Mapping[str, Any]],
  root: pathlib.Path,
  docs: pathlib.Path = DOCS,
) -> None:
  """Replaces the table of these data in docs/studies.md, and its figures."""
  names = data_of(summaries)
  data = "-".join(names)
  page = docs / "studies.md"
  start, end = f"<!-- results on {data} -->\n", f"<!-- end of {data} -->\n"
  before, found, rest = page.read_text().partition(start)
  block = f"{start}\n{table(summaries)}\n\n{end}"
  if found:
    rest = rest.partition(end)[2]
  else:
    block = f"\n## Results on {' and '.join(names)}\n\n{block}"
  page.write_text(before + block + rest)
  for summary in summaries:
    for name in summary["figures"]:
      target = docs / "studies" / data / f"{summary['study']}_{name}"
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(root / summary["study"] / name, target)


def main(argv: Sequence[str]) -> None:
  """Runs the suite as the command line asks."""
  names: list[str] = _STUDIES.value
  unknown = sorted({*argv[1:], *names} - {*STUDIES})
  if unknown or len(argv) > 1:
    sys.exit(f"Not a study: {', '.join(unknown)}; there are {[*STUDIES]}.")
  try:
    if _WORKDIR.value and _RESUME.value:
      root = pathlib.Path(_WORKDIR.value)
    else:
      checkpoints.check_workdir(
        _WORKDIR.value, study="all", resume=_RESUME.value
      )
      root = pathlib.Path(_WORKDIR.value or checkpoints.new_workdir("all"))
  except checkpoints.WorkdirError as error:
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
    if (summary := checkpoints.read_json(root / name / "summary.json"))
  ]
  text = table(summaries)
  reporting.write_bytes(root / "studies.md", f"{text}\n".encode())
  for summary in summaries:
    for finding in summary["findings"]:
      print("{verdict}: {claim} ({number})".format(**finding))
  if failures:
    sys.exit("\n".join(failures))
  if not _QUICK.value and set(names) == set(STUDIES):
    write_docs(summaries, root)
    print(f"Wrote {os.path.relpath(DOCS / 'studies.md')}")


if __name__ == "__main__":
  sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
  app.run(main)
