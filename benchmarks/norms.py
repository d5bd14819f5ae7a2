"""Compares the speed and memory of normalization layers with other libraries.

    python -m benchmarks.norms [--quick] [--norms=layer,rms] [--help]

All installed libraries run the same norms on the same arrays in one process, in
turns. There are two timings. `loop` runs many steps in one compiled loop, where
each step overwrites the outputs of the step before. `call` is a compiled call
per step, which also allocates its outputs. PyTorch has no compiled loop: in
`loop` it runs the steps one after another, on a GPU as a CUDA graph.

`share of copy` is the time that a copy of the arrays that any algorithm must
read and write would take, divided by our time. It may exceed 100% if arrays fit
in a cache.

The whole grid with all libraries takes hours on two cores, most of it for
compiling. Select what you need, for example `--dtypes=float32 --modes=grad`.
`--out` is written after every row, so a run that is interrupted leaves its
rows.

normjax uses its native kernels if they have been built. With NORMJAX_NATIVE=0
it uses XLA alone.

`pip install -e ".[benchmarks]"` installs the other libraries. Run on an idle
machine, or the numbers mean little.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

from benchmarks import (
  norm_figure,
  norm_options,
  norm_programs,
  norm_report,
)
from benchmarks.machine import Machine
from benchmarks.norm_cases import Case
from benchmarks.norm_memory import DEPTH, Memory
from benchmarks.norm_options import Options
from benchmarks.norm_peers import PACKAGES, Peers
from benchmarks.norm_report import Row
from experiments.lab import timing
from experiments.lab.runs import files
from experiments.lab.runs.progress import progress
from normjax.native import library

# An array that does not fit in a cache, to measure the bandwidth of the memory.
LARGE = Case("layer", (4096, 4096))


def copy_bandwidth() -> float:
  """Returns the bytes per second, read plus written, of copying an array."""
  copy = {"copy": norm_programs.make_copy(LARGE)}
  seconds = timing.interleaved(copy, seconds=0.02, rounds=5)["copy"]
  return 2 * LARGE.nbytes / timing.Spread.of(seconds).median


def measure(
  options: Options, peers: Peers, mode: str, timed: str, case: Case
) -> tuple[Row, dict[str, list[float]]]:
  """Returns the row of a case, and its samples in seconds per step."""
  samples = timing.interleaved(
    {"copy": norm_programs.make_copy(case), **peers.runs(mode, timed, case)},
    seconds=options.seconds,
    rounds=options.rounds,
  )
  spreads = {name: timing.Spread.of(values) for name, values in samples.items()}
  return Row(case, mode, timed, spreads.pop("copy"), spreads), samples


def run(options: Options, out: str | None, figure: str | None) -> None:
  """Measures everything, prints tables and writes files.

  Args:
    options: What to measure.
    out: JSON file, written after every row, or None.
    figure: PNG file, or None.
  """
  tables = [
    (norm, mode, timed, cases)
    for norm in options.norms
    if (cases := options.cases(norm))
    for mode in options.modes
    for timed in options.timings
  ]
  if not tables:
    sys.exit(
      "Nothing to measure: no shape fits any of the norms and layouts. Group"
      " norm, instance norm and channels first need a spatial axis. Change"
      " --shapes, --norms or --layouts."
    )
  # Otherwise PyTorch's idle threads would spin on the cores that JAX needs. Set
  # before PyTorch loads its OpenMP library, which reads it.
  os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

  load = Machine.here(()).load  # Before this program adds to it.
  peers = Peers(options.libraries)
  packages = {PACKAGES[name] for name in peers.names} - {norm_report.OURS}
  machine = Machine.here(packages)._replace(load=load)
  print(machine)
  native = library.load()
  print(f"normjax's kernels: {'native' if native else 'none, XLA alone'}")
  bandwidth = copy_bandwidth()
  print(f"Copying {LARGE.nbytes >> 20} MiB: {bandwidth / 1e9:.1f} GB/s")
  sys.stdout.flush()

  rows: list[Row] = []
  records: list[dict[str, Any]] = []
  memory: dict[Case, Mapping[str, Memory]] = {}

  def save() -> None:
    if out is not None:
      files.write_json(
        out,
        {
          "machine": machine,
          "native_kernels": native,
          "copy_bytes_per_second": bandwidth,
          "options": options,
          "rows": records,
          "geometric_means": norm_report.means(rows),
          "memory": [
            {**case._asdict(), "depth": DEPTH, "bytes": needed}
            for case, needed in memory.items()
          ],
          "failures": peers.failures,
        },
      )

  total = sum(len(cases) for *_, cases in tables)
  with progress(total=total, unit="row") as bar:
    for norm, mode, timed, cases in tables:
      for case in cases:
        bar.set_description(f"{mode} {timed} {case.title}")
        row, samples = measure(options, peers, mode, timed, case)
        rows.append(row)
        records.append({**row._asdict(), "samples": samples})
        save()
        bar.update()
      text = norm_report.table(rows[-len(cases) :])
      bar.write(f"\n{norm}, {mode}, {timed} (ms)\n\n{text}")
  print(
    "\nTime of other libraries divided by ours, geometric means\n\n"
    f"{norm_report.summary(rows)}"
  )
  if figure is not None:
    norm_figure.plot_ratios(rows, figure, title=machine.device)
  for case in progress(options.memory_cases(), unit="chain"):
    memory[case] = peers.memory(case)
    save()
  if memory:
    print(f"\nMemory\n\n{norm_report.memory_table(memory)}")
  if peers.failures:
    print("\nCould not be measured\n")
  for error, places in peers.failures.items():
    print(f"- {error} ({'; '.join(places)})")


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
  values = flags.FLAGS
  run(norm_options.parse_options(values), values.out, values.figure)


if __name__ == "__main__":
  # Defined here, because other commands define flags of these names too.
  norm_options.define_flags(flags.FLAGS)
  flags.adopt_module_key_flags(norm_options)  # For --help.
  app.run(main)
