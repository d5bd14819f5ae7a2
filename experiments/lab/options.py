"""The settings of a study: dataclass fields that are also command-line flags.

>>> @dataclasses.dataclass(frozen=True)
... class Settings(Config):
...   width: int = option(128, "Hidden units.", COUNT)
>>> values = flags.FlagValues()
>>> read = define(Settings(), {"width": 8}, {}, {}, values)
>>> _ = values(["study", "--seeds=2", "--quick"])
>>> read()[0]
Settings(seeds=2, seed=0, width=8)
"""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from absl import flags

from experiments.lab.errors import RefusedError
from experiments.lab.parsers import (
  BOOLEAN,
  COUNT,
  INNER_SHARE,
  NOT_NEGATIVE,
  POSITIVE,
  SEEDS,
  SHARE,
  NamesParser,
  one_of,
)
from experiments.lab.runs.workdir import Files

SCALES = ("small", "full")
PRESETS = ("quick", "confirm", "sensitivity")  # Flags with other defaults.
# With fewer, few verdicts would be resolved in any setting.
SENSITIVITY_SEEDS = 20
DEFAULT = "default"  # The setting of --sensitivity without a change.
DTYPES = ("float32", "bfloat16")


def option(
  default: Any, text: str, parser: flags.ArgumentParser | None = None
) -> Any:
  """Returns a field of a `Config`, which is also a flag.

  Args:
    default: Default of the small scale.
    text: Help text of the flag.
    parser: Parser of the flag; by default any text is accepted.
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
    "Number of seeds: --seed, --seed + 1, ... Intervals are over the seeds.",
    SEEDS,
  )
  seed: int = option(
    0,
    "First seed; a seed determines initialization and data order.",
    flags.IntegerParser(lower_bound=0, upper_bound=2**31),
  )

  @property
  def seed_numbers(self) -> range:
    return range(self.seed, self.seed + self.seeds)

  def unused(self) -> dict[str, str]:
    """Returns the flags without effect on these settings, each with a reason.

    A reason completes the sentence "--NAME has no effect ...".
    """
    return {}


@dataclasses.dataclass(frozen=True)
class TuningConfig(Config):
  """Settings of a study that chooses a learning rate for every arm.

  `rate_factor` and `gain` exist to see how much a verdict depends on them.
  """

  tuning_seeds: int = option(
    3,
    "Number of seeds that choose the learning rate of every arm; they are not"
    " among those that are judged. With 1, only two rates are tried.",
    flags.IntegerParser(lower_bound=1, upper_bound=3),
  )
  rate_factor: float = option(
    1.0, "Factor of the learning rates after they are chosen.", POSITIVE
  )
  gain: float = option(
    1.0, "Factor of the initial kernels, for all arms alike.", POSITIVE
  )


@dataclasses.dataclass(frozen=True)
class ImageConfig(Config):
  """Settings of a study that trains on images."""

  dataset: str = option(
    "auto",
    "auto (MNIST, or scikit-learn's digits of 8x8 pixels if MNIST is not on"
    " disk and could not be downloaded), mnist, digits, or another data set of"
    " TensorFlow Datasets with an image and a label, such as fashion_mnist,"
    " kmnist, cifar10.",
  )

  def unused(self) -> dict[str, str]:
    if self.dataset != "digits":
      return {}
    return {"data_dir": "on the digits, which come with scikit-learn"}


@dataclasses.dataclass(frozen=True)
class HalvedImageConfig(ImageConfig):
  """Settings of a study with small nets, which halves its images."""

  halve: bool = option(
    True, "Halve the height and width of images larger than 16x16.", BOOLEAN
  )

  def unused(self) -> dict[str, str]:
    found = super().unused()
    if self.dataset == "digits":
      found["halve"] = "on the digits, which have 8x8 pixels"
    return found


@dataclasses.dataclass(frozen=True)
class TunedConfig(HalvedImageConfig, TuningConfig):
  """Settings of a study with small nets that chooses learning rates."""


@dataclasses.dataclass(frozen=True)
class EarlyStoppingConfig(ImageConfig):
  """Settings of a classifier with early stopping.

  The defaults are those of common tutorials: Adam at 1e-3, batches of 64, an
  80/20 split, patience 3.
  """

  dropout: float = option(0.0, "Dropout rate of the activations.", SHARE)
  dtype: str = option(
    "float32",
    "Dtype of the computation. Parameters and losses are float32.",
    one_of(DTYPES),
  )
  train_fraction: float = option(
    0.8,
    "Share of the training set to train on; the rest is the validation set. The"
    " split does not depend on the seed.",
    INNER_SHARE,
  )
  epochs: int = option(20, "Maximum number of epochs.", COUNT)
  batch_size: int = option(
    64,
    "Number of examples in a training step. The remainder of an epoch is"
    " dropped.",
    COUNT,
  )
  learning_rate: float = option(1e-3, "Learning rate of Adam.", POSITIVE)
  l1: float = option(
    0.0,
    "Weight of the sum of absolute values of all kernels in the objective."
    " Biases and the scale of norms are not penalized.",
    NOT_NEGATIVE,
  )
  l2: float = option(
    0.0,
    "Weight of the sum of squares of all kernels in the objective.",
    NOT_NEGATIVE,
  )
  patience: int = option(
    3,
    "A seed stops after this many epochs without improvement. With the value of"
    " --epochs there is no early stopping.",
    COUNT,
  )
  min_delta: float = option(
    1e-3,
    "The validation loss improves if it is below the best by more than this.",
    NOT_NEGATIVE,
  )


AnyConfig = TypeVar("AnyConfig", bound=Config)


def refuse_unused(config: Config, given: Collection[str]) -> None:
  """Raises RefusedError if a flag on the command line has no effect.

  Args:
    config: The settings.
    given: Names of the flags on the command line.
  """
  unused = config.unused()
  found = sorted({*given} & {*unused})
  if not found:
    return
  reason = unused[found[0]]
  alike = [f"--{name}" for name in found if unused[name] == reason]
  have, them = ("have", "them") if alike[1:] else ("has", "it")
  raise RefusedError(
    f"{' and '.join(alike)} {have} no effect {reason}; leave {them} out."
  )


def define(
  small: AnyConfig,
  quick: Mapping[str, Any],
  full: Mapping[str, Any],
  confirm: Mapping[str, Any],
  varied: Mapping[str, Any] = {},
  values: flags.FlagValues = flags.FLAGS,
) -> Callable[[], tuple[AnyConfig, Files]]:
  """Defines the flags of a study.

  Args:
    small: The defaults.
    quick: The defaults of `--quick` that differ, by field.
    full: The defaults of `--scale=full` that differ, by field; without any
      there is no such flag.
    confirm: The defaults of `--confirm` that differ, by field: the registered
      seeds.
    varied: The settings that `--sensitivity` tries; without any there is no
      such flag, and no `--vary`.
    values: Where to define the flags.

  Returns:
    A function to call after parsing, which returns the settings of the command
    line. A flag on the command line wins over `--quick`, `--confirm`,
    `--sensitivity` and `--scale`. It raises RefusedError if `--data_dir` does
    not exist.
  """
  names = [field.name for field in dataclasses.fields(small)]
  for field in dataclasses.fields(small):
    _define_option(field, getattr(small, field.name), values)
  if full:
    flags.DEFINE_enum(
      "scale",
      "small",
      SCALES,
      "Size of the study: small (minutes on two cores) or full (more steps and"
      " whole images; hours). " + _changes(full),
      flag_values=values,
    )
  is_quick = flags.DEFINE_bool(
    "quick",
    False,
    "Only check that it runs, in seconds; the numbers mean little. "
    + _changes(quick),
    flag_values=values,
  )
  is_confirming = flags.DEFINE_bool(
    "confirm",
    False,
    "Use the seeds that are registered for the verdicts in results/; see"
    f" experiments/REGISTERED.md. {_changes(confirm)}",
    flag_values=values,
  )
  sensitive = with_sensitivity(confirm)
  if varied:
    flags.DEFINE_bool(
      "sensitivity",
      False,
      "Measure instead how much the headline claims depend on the settings:"
      f" {', '.join(varied)}, one at a time. {_changes(sensitive)}",
      flag_values=values,
    )
    flags.DEFINE(
      NamesParser((DEFAULT, *varied)),
      "vary",
      None,
      "With --sensitivity: measure only changes of these settings; default"
      " stands for the run without a change. (It need not be measured where"
      " --confirm has the same seeds.) By default all.",
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
    "Continue the interrupted run in --workdir.",
    flag_values=values,
  )
  data_dir = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of TensorFlow Datasets; by default $TFDS_DATA_DIR, or"
    " ~/tensorflow_datasets if that is not set.",
    flag_values=values,
  )

  def read() -> tuple[AnyConfig, Files]:
    folder = data_dir.value
    if folder and not pathlib.Path(folder).expanduser().is_dir():
      raise RefusedError(
        f"--data_dir={folder} is not a folder on this machine; give one that"
        " holds data sets of TFDS, or make it, and they are downloaded into it."
      )
    preset = full if full and values["scale"].value == "full" else {}
    if is_confirming.value:
      preset = {**preset, **confirm}
    if varied and values["sensitivity"].value:
      preset = {**preset, **sensitive}
    elif varied and values["vary"].value:
      raise RefusedError("--vary goes with --sensitivity; add it.")
    if is_quick.value:
      preset = {**preset, **quick}
    given = {name: values[name] for name in names}
    chosen = {
      name: flag.value
      for name, flag in given.items()
      if flag.present or name not in preset
    }
    config = dataclasses.replace(small, **{**preset, **chosen})
    return config, Files(workdir.value or None, resume.value, data_dir.value)

  return read


def with_sensitivity(confirm: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the defaults of `--sensitivity`: those of `--confirm`, 20 seeds."""
  return {**confirm, "seeds": SENSITIVITY_SEEDS}


def _define_option(
  field: dataclasses.Field[Any], default: Any, values: flags.FlagValues
) -> None:
  text = field.metadata["help"]
  if isinstance(default, bool):  # --name and --noname, without a value.
    flags.DEFINE_bool(field.name, default, text, flag_values=values)
    return
  parser = field.metadata["parser"]
  if isinstance(parser, flags.EnumParser):  # Its help shows the values.
    choices = parser.enum_values
    flags.DEFINE_enum(field.name, default, choices, text, flag_values=values)
    return
  if isinstance(parser, NamesParser):
    text += f" Valid are {', '.join(parser.valid)}."
  serializer: flags.ArgumentSerializer[Any] = flags.ArgumentSerializer()
  if isinstance(default, tuple):
    default = ",".join(map(str, default))
    serializer = flags.CsvListSerializer(",")
  flags.DEFINE(
    parser,
    field.name,
    default,
    text,
    flag_values=values,
    serializer=serializer,
  )


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
