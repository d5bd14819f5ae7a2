"""The speed and memory of normalization layers beside the peers.

    python -m benchmarks.norms [--quick] [--norms=layer,rms] [--help]

All libraries that are installed run the same norms on the same arrays in one
process, in turns. Two timings: `loop` runs many steps in one compiled loop,
where outputs overwrite those of the step before; `call` is a plain compiled
call, fresh output buffers included. PyTorch has no such loop: there both are
its steps alone, one after another.

`share of copy` is the least that any algorithm must read and write, over what
was read and written in our time had it been a copy of an array of that size.

`pip install -e ".[benchmarks]"` installs the peers. On an otherwise idle
machine, or the numbers mean little.
"""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from absl import app, flags

from benchmarks import (
  norm_cases,
  norm_figure,
  norm_layer,
  norm_libraries,
  norm_memory,
  norm_programs,
  norm_report,
  norm_torch,
  timing,
)
from benchmarks.norm_cases import Case
from benchmarks.norm_report import Row
from experiments.lab import reporting

PACKAGES = {
  **{name: package for name, (package, _) in norm_libraries.LIBRARIES.items()},
  **dict.fromkeys(norm_report.TORCH, "torch"),
}
MEMORY_CASES = (
  Case("layer", (8192, 768)),
  Case("rms", (8192, 768)),
  Case("batch", (32, 56, 56, 64)),
  Case("group", (16, 56, 56, 128)),
  Case("instance", (16, 56, 56, 128)),
)
# What `--quick` sets.
QUICK: dict[str, Any] = {
  "libraries": [name for name in PACKAGES if name != "torch.compile"],
  "timings": ["loop"],
  "dtypes": ["float32"],
  "layouts": ["last"],
  "seconds": 0.002,
  "rounds": 3,
}
# Above this many busy cores before the start, a machine is not idle.
IDLE_LOAD = 0.3

# Makes a program to time, None where the library does not offer it.
Maker = Callable[[str, str, Case], timing.Run | None]


class Machine(NamedTuple):
  """Where numbers come from."""

  device: str
  devices: int
  cores: int
  load: float | None
  versions: dict[str, str]

  @classmethod
  def here(cls, packages: Iterable[str]) -> "Machine":
    # Of this process, where the system tells.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    names = {"jax", "jaxlib", *packages} - {"normjax"}
    return cls(
      jax.devices()[0].device_kind,
      jax.device_count(),
      cores,
      load,
      {name: importlib.metadata.version(name) for name in sorted(names)},
    )

  def __str__(self) -> str:
    load = "unknown" if self.load is None else f"{self.load:.2f}"
    text = (
      f"{self.devices} x {self.device} ({platform.machine()}), {self.cores}"
      f" cores, load average {load}; Python {platform.python_version()}, "
      + ", ".join(f"{name} {number}" for name, number in self.versions.items())
    )
    if self.load is not None and self.load > IDLE_LOAD:
      text += (
        f"\nWARNING: the machine is not idle (load {load}): other programs"
        " disturb the timings. Wait until they are done."
      )
    return text


def _jax_maker(layers: norm_layer.Layers) -> Maker:
  def make(mode: str, timed: str, case: Case) -> timing.Run | None:
    layer = layers[case.norm](case) if case.norm in layers else None
    if layer is None:
      return None
    return norm_programs.make_run(mode, timed, case, layer)

  return make


def _torch_maker(*, compiled: bool) -> Maker:
  import torch  # noqa: F401  Raises ImportError here, not in every case.

  def make(mode: str, timed: str, case: Case) -> timing.Run | None:
    return norm_torch.make_run(mode, timed, case, compiled=compiled)

  return make


class Options(NamedTuple):
  """What to measure, and how; the flags of the same names."""

  norms: Sequence[str]
  modes: Sequence[str]
  timings: Sequence[str]
  dtypes: Sequence[str]
  layouts: Sequence[str]
  libraries: Sequence[str]
  shapes: Sequence[tuple[int, ...]] | None  # None: the grid's.
  seconds: float
  rounds: int
  memory: bool
  quick: bool

  def cases(self, norm: str) -> list[Case]:
    return list(
      norm_cases.cases(
        (norm,), self.dtypes, self.layouts, self.shapes, quick=self.quick
      )
    )


class Peers:
  """The libraries that are installed, and what went wrong with them."""

  def __init__(self, names: Sequence[str]):
    """Imports them; prints why one is left out.

    Args:
      names: Keys of `PACKAGES`; ours is always among them.
    """
    self.layers: dict[str, norm_layer.Layers] = {}
    self.makers: dict[str, Maker] = {}
    self.failures: list[str] = []
    for name in PACKAGES:
      if name not in (norm_report.OURS, *names):
        continue
      try:
        if name in norm_report.TORCH:
          self.makers[name] = _torch_maker(compiled=name == "torch.compile")
        else:
          self.layers[name] = norm_libraries.LIBRARIES[name][1]()
          self.makers[name] = _jax_maker(self.layers[name])
      except ImportError as missing:
        print(
          f"{name} is left out: {missing}. Try `pip install {PACKAGES[name]}`."
        )

  def runs(self, mode: str, timed: str, case: Case) -> dict[str, timing.Run]:
    """Returns the programs of those who offer the case and can run it."""
    result = {}
    for name, make in self.makers.items():
      # A peer may lack a compiler, a kernel or memory: the others go on.
      try:
        run = make(mode, timed, case)
        if run is not None:
          run(1)
          result[name] = run
      except Exception as error:
        if name == norm_report.OURS:
          raise
        first = str(error).strip().partition("\n")[0]
        self.failures.append(
          f"{name}, {case.title}, {mode}, {timed}:"
          f" {type(error).__name__}: {first[:200]}"
        )
    return result


def measure(
  options: Options, peers: Peers, mode: str, timed: str, case: Case
) -> tuple[Row, dict[str, list[float]]]:
  """Returns the row of a case, and all samples in seconds per step."""
  samples = timing.interleaved(
    {
      "copy": norm_programs.make_copy(case),
      **peers.runs(mode, timed, case),
    },
    seconds=options.seconds,
    rounds=options.rounds,
  )
  spreads = {name: timing.Spread.of(values) for name, values in samples.items()}
  return Row(case, mode, timed, spreads.pop("copy"), spreads), samples


def run(options: Options, out: str | None, figure: str | None) -> None:
  """Measures everything, prints tables and writes files.

  Args:
    options: What to measure.
    out: JSON file, kept up to date row by row, or None.
    figure: PNG file, or None.
  """
  # PyTorch's idle threads would spin on the cores that JAX needs in its turn.
  # Read when its OpenMP library is loaded.
  os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

  machine = Machine.here(())
  peers = Peers(options.libraries)
  machine = machine._replace(
    versions=Machine.here({PACKAGES[name] for name in peers.makers}).versions
  )
  print(machine, flush=True)

  rows: list[Row] = []
  records: list[dict[str, Any]] = []
  memory: dict[Case, dict[str, norm_memory.Memory]] = {}

  def save() -> None:
    if out is not None:
      reporting.write_json(
        out,
        {
          "machine": machine,
          "options": options,
          "rows": records,
          "geometric_means": norm_report.means(rows),
          "memory": [
            {**case._asdict(), "depth": norm_memory.DEPTH, "bytes": libraries}
            for case, libraries in memory.items()
          ],
          "failures": peers.failures,
        },
      )

  tables = [
    (norm, mode, timed, options.cases(norm))
    for norm in options.norms
    for mode in options.modes
    for timed in options.timings
    if options.cases(norm)
  ]
  total = sum(len(cases) for *_, cases in tables)
  with reporting.progress(total=total, unit="row") as bar:
    for norm, mode, timed, cases in tables:
      start = len(rows)
      for case in cases:
        bar.set_description(f"{mode} {timed} {case.title}")
        row, samples = measure(options, peers, mode, timed, case)
        rows.append(row)
        records.append({**row._asdict(), "samples": samples})
        save()
        bar.update()
      text = norm_report.table(rows[start:])
      bar.write(f"\n{norm}, {mode}, {timed} (ms)\n\n{text}")
  if rows:
    print(
      f"\nTheir time over ours, geometric means\n\n{norm_report.summary(rows)}"
    )

  if options.memory:
    for case in MEMORY_CASES:
      if case.norm in options.norms:
        memory[case] = measure_memory(peers, case)
    save()
    if memory:
      print(f"\nMemory\n\n{norm_report.memory_table(memory)}")
  if peers.failures:
    print(
      "\nCould not be measured:\n" + "\n".join(f"- {x}" for x in peers.failures)
    )
  if figure is not None and rows:
    norm_figure.plot_ratios(rows, figure, title=f"{machine.device}")


def measure_memory(peers: Peers, case: Case) -> dict[str, norm_memory.Memory]:
  """Returns what a chain needs by JAX library, of those that offer it."""
  result = {}
  for name, layers in peers.layers.items():
    layer = layers[case.norm](case) if case.norm in layers else None
    needed = layer and norm_memory.measure(case, layer)
    if needed is not None:
      result[name] = needed
  return result


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command line's flags, comma-separated lists among them."""

  def choices(name: str, allowed: Sequence[str], what: str) -> None:
    flags.DEFINE_list(
      name,
      list(allowed),
      f"{what}, some of {','.join(allowed)}.",
      flag_values=values,
    )
    flags.register_validator(
      name,
      lambda given: bool(given) and set(given) <= set(allowed),
      f"must be some of {','.join(allowed)}.",
      flag_values=values,
    )

  def shapes_are_valid(given: Sequence[str] | None) -> bool:
    try:
      for text in given or ():
        norm_cases.parse_shape(text)
    except ValueError as error:
      raise flags.ValidationError(str(error)) from None
    return True

  choices("norms", norm_cases.NORMS, "Norms; batch is in training")
  choices("libraries", list(PACKAGES), "Libraries; ours is always among them")
  choices(
    "modes",
    norm_programs.MODES,
    "The output; with all gradients; with the tangent",
  )
  choices("timings", norm_programs.TIMINGS, "Within a loop; single calls")
  choices("dtypes", ("float32", "bfloat16"), "Of x")
  choices("layouts", norm_cases.LAYOUTS, "Where the channels are")
  flags.DEFINE_list(
    "shapes",
    None,
    "Shapes instead of the grid's, channels last whatever the layout, such as"
    " 8192x768,32x28x28x64.",
    flag_values=values,
  )
  flags.register_validator("shapes", shapes_are_valid, flag_values=values)
  flags.DEFINE_float(
    "seconds",
    0.05,
    "Length of a sample: as many steps as fit in, one at least.",
    lower_bound=0.0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "rounds", 11, "Samples of each.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_bool(
    "memory",
    True,
    f"Whether to tell what chains of {norm_memory.DEPTH} norms need.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "quick",
    False,
    "One small float32 array per norm, few samples, no torch.compile: to see"
    " that everything runs, not how fast.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "out", None, "JSON file for all numbers.", flag_values=values
  )
  flags.DEFINE_string(
    "figure", None, "PNG file for the ratios.", flag_values=values
  )


def parse_options(values: flags.FlagValues) -> Options:
  """Returns the flags' values; `--quick` replaces what is not given."""
  given = {
    name: values[name].value
    for name in Options._fields
    if values[name].present or not values.quick or name not in QUICK
  }
  if given["shapes"] is not None:
    given["shapes"] = [*map(norm_cases.parse_shape, given["shapes"])]
  return Options(**{**QUICK, **given})


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
  run(parse_options(flags.FLAGS), flags.FLAGS.out, flags.FLAGS.figure)


if __name__ == "__main__":
  # Here, since other commands define flags of these names too.
  define_flags(flags.FLAGS)
  app.run(main)
