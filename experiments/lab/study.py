"""What every study of a claim shares: flags, folder, parts, verdicts, summary.

A study is a module with a frozen `Config` (its fields are the flags), a
function that measures, and `study.main`. Its docstring names the claims, their
sources and the criteria; `--help` shows it.

The folder of a run holds config.json, parts/ (what was measured so far, which
`--resume` does not measure again), the figures, and in the end summary.json:

    {"study": ..., "command": ..., "minutes": ..., "data": ..., "config": {...},
     "findings": [{"claim", "source", "criterion", "number", "verdict"}, ...],
     "figures": ["curves.png", ...]}
"""

import dataclasses
import io
import pathlib
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from absl import app, flags, logging

from experiments.lab import checkpoints, compilation, data, reporting
from experiments.lab import flags as lab_flags
from normjax.linen import norm_names

if TYPE_CHECKING:
  from matplotlib.figure import Figure

SCALES = ("small", "full")

POSITIVE = lab_flags.NumberParser(lambda value: value > 0, "above 0")
NUMBER = flags.FloatParser()
COUNT = flags.IntegerParser(lower_bound=1)
COUNTS = lab_flags.WidthsParser()
BOOLEAN = flags.BooleanParser()
NORMS = lab_flags.NamesParser(norm_names())

one_of = flags.EnumParser

Parts = dict[str, np.ndarray]


class RefusedError(Exception):
  """The command line asks for what cannot be done; the message says why."""


def option(
  default: Any, text: str, parser: flags.ArgumentParser | None = None
) -> Any:
  """Returns a field of a `Config`, which is a flag too.

  Args:
    default: Of the small scale.
    text: Help of the flag.
    parser: Of the flag; by default any text is taken.
  """
  return dataclasses.field(
    default=default,
    metadata={"help": text, "parser": parser or flags.ArgumentParser()},
  )


@dataclasses.dataclass(frozen=True)
class Config:
  """The settings that all studies have; each adds its own."""

  seeds: int = option(
    5,
    "How many seeds: --seed, --seed + 1, ... Intervals are over them.",
    flags.IntegerParser(lower_bound=1, upper_bound=1000),
  )
  seed: int = option(
    0,
    "The first seed. It decides on initialization and data order.",
    flags.IntegerParser(lower_bound=0, upper_bound=2**31),
  )

  @property
  def seed_numbers(self) -> range:
    return range(self.seed, self.seed + self.seeds)


@dataclasses.dataclass(frozen=True)
class ImageConfig(Config):
  """Of a study that trains on images."""

  dataset: str = option(
    "auto",
    "auto (MNIST, or scikit-learn's embedded digits where MNIST is not to be"
    " had), mnist, digits, or another image set of TensorFlow Datasets.",
  )


@dataclasses.dataclass(frozen=True)
class HalvedImageConfig(ImageConfig):
  """Of a study whose nets are of the size for small images."""

  halve: bool = option(
    True, "Whether to halve images larger than 16x16.", BOOLEAN
  )


AnyConfig = TypeVar("AnyConfig", bound=Config)


class Run:
  """One run: where it writes, and what it found so far.

  Attributes:
    folder: Of its results.
    data_dir: Of TensorFlow Datasets; None means the default.
    data: Name of the data that were loaded, once they are.
  """

  def __init__(self, folder: pathlib.Path, data_dir: str | None = None):
    self.folder = folder
    self.data_dir = data_dir
    self.data: str | None = None
    self._findings: list[dict[str, Any]] = []
    self._figures: list[str] = []
    self._started = time.perf_counter()

  def part(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> Parts:
    """Returns what `measure` returns, or what it did before a resumption.

    Args:
      name: A file name without suffix, one per part of the study.
      measure: Returns arrays by name.
    """
    path = self.folder / "parts" / f"{name}.npz"
    if path.exists():
      with np.load(path) as file:
        arrays = dict(file)
      self.count_earlier(float(arrays.pop("seconds")))
      return arrays
    began = time.perf_counter()
    arrays = {key: np.asarray(value) for key, value in measure().items()}
    seconds = time.perf_counter() - began
    buffer = io.BytesIO()
    np.savez(buffer, seconds=np.asarray(seconds), **arrays)
    reporting.write_bytes(path, buffer.getvalue())
    print(f"{name}: {seconds:.1f} s", flush=True)
    return arrays

  def count_earlier(self, seconds: float) -> None:
    """Adds the time that what is not done again took before a resumption."""
    self._started -= seconds

  def figure(self, name: str, figure: "Figure") -> None:
    """Writes `NAME.png` and lists it in the summary."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    reporting.write_bytes(self.folder / f"{name}.png", buffer.getvalue())
    self._figures.append(f"{name}.png")

  def judge(
    self,
    claim: str,
    number: reporting.Interval | str,
    verdict: reporting.Verdict,
    *,
    criterion: str,
    source: str,
  ) -> None:
    """Adds a finding and prints its verdict.

    Args:
      claim: One sentence.
      number: What the verdict rests on, with its interval.
      verdict: By the criterion.
      criterion: On the number, as fixed in the study's docstring.
      source: Paper or text that makes the claim.
    """
    text = f"{number}"
    self._findings.append(
      {
        "claim": claim,
        "source": source,
        "criterion": criterion,
        "number": text,
        "verdict": str(verdict),
      }
    )
    print(f"{verdict}: {claim} ({criterion}: {text})")

  def finish(
    self, name: str, command: str, config: Config, **more: Any
  ) -> dict[str, Any]:
    """Writes and returns the summary; `more` of what JSON knows goes in too."""
    summary = {
      "study": name,
      "command": command,
      "minutes": round((time.perf_counter() - self._started) / 60, 2),
      "data": self.data,
      "config": dataclasses.asdict(config),
      "findings": self._findings,
      "figures": self._figures,
      **more,
    }
    reporting.write_json(self.folder / "summary.json", summary)
    return summary


def run(
  name: str,
  measure: Callable[[AnyConfig, Run], None],
  config: AnyConfig,
  files: lab_flags.Files = lab_flags.Files(),  # noqa: B008
  command: str = "",
) -> dict[str, Any]:
  """Runs a study, or shows the results of a finished one.

  Args:
    name: Of the study.
    measure: Measures, prints, draws and judges.
    config: The setting.
    files: Where to read and write.
    command: What a reader types for the same.

  Returns:
    What `summary.json` holds.

  Raises:
    RefusedError: The setting is impossible.
    checkpoints.WorkdirError: The workdir cannot serve it.
  """
  checkpoints.check_workdir(files.workdir, study=name, resume=files.resume)
  folder = pathlib.Path(files.workdir or checkpoints.new_workdir(name))
  settings = dataclasses.asdict(config)
  recorded = checkpoints.read_json(folder / "config.json")
  if recorded is not None:
    checkpoints.check_same_config(recorded, settings)
    finished = checkpoints.read_json(folder / "summary.json")
    if finished is not None:
      print(f"The run in {folder} is finished. Its verdicts:")
      for finding in finished["findings"]:
        print("{verdict}: {claim} ({criterion}: {number})".format(**finding))
      return finished
  reporting.write_json(folder / "config.json", settings)
  print(f"Results go to {folder}")
  current = Run(folder, files.data_dir)
  try:
    measure(config, current)
  except (RefusedError, data.UnavailableError):
    _remove_unused(folder)
    raise
  return current.finish(name, command, config)


def _remove_unused(folder: pathlib.Path) -> None:
  """Removes the folder of a run that was refused before it measured."""
  if [path.name for path in folder.iterdir()] == ["config.json"]:
    (folder / "config.json").unlink()
    folder.rmdir()


def define(
  small: AnyConfig,
  quick: Mapping[str, Any],
  full: Mapping[str, Any],
  values: flags.FlagValues = flags.FLAGS,
) -> Callable[[], tuple[AnyConfig, lab_flags.Files]]:
  """Defines the flags of a study.

  Args:
    small: The defaults.
    quick: What `--quick` sets instead, by field.
    full: What `--scale=full` sets instead.
    values: Where to define them.

  Returns:
    A function to call after parsing, for what the command line asks. A flag
    that is given counts, whatever the scale.
  """
  names = []
  for field in dataclasses.fields(small):
    default = getattr(small, field.name)
    names.append(field.name)
    if isinstance(default, bool):  # --name and --noname, without a value.
      flags.DEFINE_bool(
        field.name, default, field.metadata["help"], flag_values=values
      )
      continue
    serializer: flags.ArgumentSerializer[Any] = flags.ArgumentSerializer()
    if isinstance(default, tuple):
      default = ",".join(map(str, default))
      serializer = flags.CsvListSerializer(",")
    flags.DEFINE(
      field.metadata["parser"],
      field.name,
      default,
      field.metadata["help"],
      flag_values=values,
      serializer=serializer,
    )
  scale = flags.DEFINE_enum(
    "scale",
    "small",
    SCALES,
    "The settings: small, minutes on two cores, or full, the paper's size. "
    + _changes(full),
    flag_values=values,
  )
  is_quick = flags.DEFINE_bool(
    "quick",
    False,
    "Only show that it runs, in seconds; the numbers mean little. "
    + _changes(quick),
    flag_values=values,
  )
  workdir = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for the results; by default a new one in runs/.",
    flag_values=values,
  )
  resume = flags.DEFINE_bool(
    "resume",
    False,
    "Continue the run in --workdir after its last part.",
    flag_values=values,
  )
  data_dir = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of TensorFlow Datasets; by default $TFDS_DATA_DIR, else"
    " ~/tensorflow_datasets.",
    flag_values=values,
  )

  def read() -> tuple[AnyConfig, lab_flags.Files]:
    preset = full if scale.value == "full" else {}
    if is_quick.value:
      preset = {**preset, **quick}
    given = {name: values[name] for name in names}
    chosen = {
      name: flag.value
      for name, flag in given.items()
      if flag.present or name not in preset
    }
    config = dataclasses.replace(small, **{**preset, **chosen})
    return config, lab_flags.Files(workdir.value, resume.value, data_dir.value)

  return read


def command_line(name: str) -> str:
  """Returns what a reader types for the same results, wherever they go.

  Args:
    name: Of the study, which is that of its module.
  """
  arguments = (
    argument
    for argument in sys.argv[1:]
    if not re.match("--?(workdir|data_dir|resume)", argument)
  )
  return " ".join([f"python -m experiments.{name}", *arguments])


def _changes(preset: Mapping[str, Any]) -> str:
  if not preset:
    return "Here it changes nothing."
  settings = (
    f"--{name}={','.join(map(str, value))}"
    if isinstance(value, tuple)
    else f"--{name}={value}"
    for name, value in preset.items()
  )
  return f"Stands for {' '.join(settings)}."


def main(
  name: str,
  measure: Callable[[AnyConfig, Run], None],
  small: AnyConfig,
  *,
  quick: Mapping[str, Any],
  full: Mapping[str, Any] | None = None,
) -> None:
  """Runs a study as the command line asks, and leaves the process.

  Args:
    name: Of the study, which is that of its module.
    measure: As in `run`.
    small: The default settings.
    quick, full: What other scales set instead.
  """
  # In a pipe, too, a line appears when it is printed.
  sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
  read_flags = define(small, quick, full or {})
  flags.adopt_module_key_flags(sys.modules[__name__])  # Shown by --help.

  def start(argv: Sequence[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
      sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
    compilation.keep_compiled()
    try:
      run(name, measure, *read_flags(), command=command_line(name))
    except (
      RefusedError,
      checkpoints.WorkdirError,
      data.UnavailableError,
    ) as error:
      sys.exit(str(error))

  app.run(start)
