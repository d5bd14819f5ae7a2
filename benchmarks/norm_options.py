"""The command line of `benchmarks.norms`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from benchmarks import norm_cases, norm_programs
from benchmarks.norm_cases import Case
from benchmarks.norm_memory import DEPTH
from benchmarks.norm_peers import PACKAGES

# The options that `--quick` sets.
QUICK: dict[str, Any] = {
  "libraries": [name for name in PACKAGES if name != "torch.compile"],
  "modes": ["grad"],
  "timings": ["loop"],
  "dtypes": ["float32"],
  "layouts": ["last"],
  "seconds": 0.002,
  "rounds": 3,
}

_MEMORY_CASES = (
  Case("layer", (8192, 768)),
  Case("rms", (8192, 768)),
  Case("batch", (32, 56, 56, 64)),
  Case("group", (16, 56, 56, 128)),
  Case("instance", (16, 56, 56, 128)),
)


class Options(NamedTuple):
  """The values of the flags, which have the same names."""

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

  def memory_cases(self) -> list[Case]:
    """Returns the cases to measure the memory of, by compiling them."""
    if not self.memory:
      return []
    some = (Case("layer", (64, 128)),) if self.quick else _MEMORY_CASES
    return [case for case in some if case.norm in self.norms]


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of the command line."""

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

  choices("norms", norm_cases.NORMS, "Norms; batch means in training")
  choices("libraries", list(PACKAGES), "Libraries; normjax is always included")
  choices(
    "modes",
    norm_programs.MODES,
    "Only the output; with all gradients; with the tangent",
  )
  choices("timings", norm_programs.TIMINGS, "Steps in a loop; single calls")
  choices("dtypes", ("float32", "bfloat16"), "Dtypes of x")
  choices("layouts", norm_cases.LAYOUTS, "Where the channels are")
  flags.DEFINE_list(
    "shapes",
    None,
    "Shapes to measure instead of the grid, such as 8192x768,32x28x28x64, with"
    " the channels last also for --layouts=first.",
    flag_values=values,
  )
  flags.register_validator("shapes", shapes_are_valid, flag_values=values)
  flags.DEFINE_float(
    "seconds",
    0.05,
    "Length of a sample: as many steps as fit in, at least one.",
    lower_bound=0.0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "rounds", 11, "Samples per program.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_bool(
    "memory",
    True,
    f"Whether to measure the memory of chains of {DEPTH} norms.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "quick",
    False,
    "One small float32 array per norm, few samples, no torch.compile: shows"
    " that everything runs, but not how fast.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "out", None, "JSON file for all numbers.", flag_values=values
  )
  flags.DEFINE_string(
    "figure", None, "PNG file for the ratios.", flag_values=values
  )


def parse_options(values: flags.FlagValues) -> Options:
  """Returns the flags' values; `--quick` sets flags that are not given."""
  given = {
    name: values[name].value
    for name in Options._fields
    if values[name].present or not values.quick or name not in QUICK
  }
  if given["shapes"] is not None:
    given["shapes"] = [*map(norm_cases.parse_shape, given["shapes"])]
  return Options(**{**QUICK, **given})
