"""The flags that studies share, and the configuration they stand for."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags

from experiments.lab.models import MODELS, NORM_POSITIONS
from normjax.linen import norm_names

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Config:
  """What decides on the numbers of a run; the fields are named like the flags.

  The defaults are the setting of common tutorials: 128 hidden units, Adam
  1e-3, batches of 64, an 80/20 split, patience 3.
  """

  norm: tuple[str, ...] = ("ln",)
  norm_position: str = "before"
  model: str = "mlp"
  hidden: tuple[int, ...] = ()  # Empty means the model's default.
  dropout: float = 0.0
  dtype: str = "float32"
  dataset: str = "auto"
  train_fraction: float = 0.8
  epochs: int = 20
  batch_size: int = 64
  learning_rate: float = 1e-3
  l1: float = 0.0
  l2: float = 0.0
  patience: int = 3
  min_delta: float = 1e-3
  seed: int = 0
  seeds: int = 1


class Files(NamedTuple):
  """Where a run reads and writes, which has no influence on its numbers."""

  workdir: str | None = None
  resume: bool = False
  data_dir: str | None = None


def define(
  defaults: Config, values: flags.FlagValues = flags.FLAGS
) -> Callable[[], tuple[Config, Files]]:
  """Defines the flags of a study that trains.

  Args:
    defaults: What holds where the command line says nothing.
    values: Where to define them.

  Returns:
    A function to call after parsing, for what the command line asks.
  """
  config_flags = []

  def define_flag(name: str, parser: flags.ArgumentParser, text: str) -> None:
    default = getattr(defaults, name)
    serializer: flags.ArgumentSerializer[Any] = flags.ArgumentSerializer()
    if isinstance(default, tuple):
      default = ",".join(map(str, default))
      serializer = flags.CsvListSerializer(",")
    config_flags.append(
      flags.DEFINE(
        parser,
        name,
        default,
        text,
        flag_values=values,
        serializer=serializer,
      )
    )

  define_flag(
    "norm",
    NamesParser(norm_names()),
    "The norm, or several with commas in between: each is trained in turn and"
    " compared with the first.",
  )
  define_flag(
    "norm_position",
    flags.EnumParser(NORM_POSITIONS),
    "Whether the norm stands before or after the activation.",
  )
  define_flag(
    "model",
    flags.EnumParser(list(MODELS)),
    "Dense layers (mlp) or 3x3 convolutions (cnn), which instance norm needs.",
  )
  define_flag(
    "hidden",
    WidthsParser(),
    "Width of each hidden layer (mlp) or channels of each convolution (cnn),"
    " with commas in between. Empty means 128 (mlp) or 16,32,32 (cnn).",
  )
  define_flag(
    "dropout",
    NumberParser(lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "Share of the activations that training drops.",
  )
  define_flag(
    "dtype",
    flags.EnumParser(DTYPES),
    "Type of the computation. Parameters and losses are float32.",
  )
  define_flag(
    "dataset",
    flags.ArgumentParser(),
    "auto (MNIST, or digits where MNIST is not to be had), mnist, digits"
    " (scikit-learn's, 8x8 pixels), or another set of TensorFlow Datasets with"
    " an image and a label, such as fashion_mnist, kmnist, cifar10.",
  )
  define_flag(
    "train_fraction",
    NumberParser(lambda value: 0 < value < 1, "between 0 and 1"),
    "Share of the training set to train on; the rest is for validation. The"
    " split is the same whatever the seed.",
  )
  define_flag(
    "epochs", flags.IntegerParser(lower_bound=1), "The most epochs to train."
  )
  define_flag(
    "batch_size",
    flags.IntegerParser(lower_bound=1),
    "Examples in a training step. An epoch leaves out what does not fill one.",
  )
  define_flag(
    "learning_rate",
    NumberParser(lambda value: value > 0, "above 0"),
    "Learning rate of Adam.",
  )
  define_flag(
    "l1",
    NumberParser(lambda value: value >= 0, "at least 0"),
    "Weight of the sum of absolute values of all kernels in the objective."
    " Biases and the scale of norms are not penalized.",
  )
  define_flag(
    "l2",
    NumberParser(lambda value: value >= 0, "at least 0"),
    "Weight of the sum of squares of all kernels in the objective.",
  )
  define_flag(
    "patience",
    flags.IntegerParser(lower_bound=1),
    "A seed stops after this many epochs without improvement. With as many as"
    " --epochs it never does.",
  )
  define_flag(
    "min_delta",
    NumberParser(lambda value: value >= 0, "at least 0"),
    "What counts as improvement: a validation loss below the best by more than"
    " this.",
  )
  define_flag(
    "seed",
    flags.IntegerParser(lower_bound=0, upper_bound=2**31),
    "The first seed. It decides on initialization, data order and dropout.",
  )
  define_flag(
    "seeds",
    flags.IntegerParser(lower_bound=1, upper_bound=1000),
    "How many seeds to train at once: --seed, --seed + 1, ...",
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
    "Continue the run in --workdir after its last checkpoint.",
    flag_values=values,
  )
  data_dir = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of TensorFlow Datasets; by default $TFDS_DATA_DIR, else"
    " ~/tensorflow_datasets.",
    flag_values=values,
  )
  return lambda: (
    Config(**{flag.name: flag.value for flag in config_flags}),
    Files(workdir.value, resume.value, data_dir.value),
  )


class NumberParser(flags.FloatParser):
  """A finite number that meets a condition."""

  def __init__(self, valid: Callable[[float], bool], expected: str):
    super().__init__()
    self._valid = valid
    self._expected = expected

  def convert(self, argument: Any) -> float:
    number = super().convert(argument)
    if not (math.isfinite(number) and self._valid(number)):
      raise ValueError(f"must be a number {self._expected}.")
    return number


class NamesParser(flags.ArgumentParser):
  """Different names out of some, with commas in between."""

  def __init__(self, valid: Sequence[str]):
    self._valid = valid

  def parse(self, argument: str) -> tuple[str, ...]:
    names = _parts(argument)
    unknown = [name for name in names if name not in self._valid]
    if unknown or not names:
      raise ValueError(
        f"{unknown[0] if unknown else 'nothing'!r} is not among the names"
        f" {', '.join(self._valid)}."
      )
    if len(set(names)) < len(names):
      raise ValueError("a name comes twice.")
    return names


class WidthsParser(flags.ArgumentParser):
  """Positive integers, with commas in between."""

  def parse(self, argument: str) -> tuple[int, ...]:
    parts = _parts(argument)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
      raise ValueError("must be positive integers, such as 128 or 256,128.")
    return tuple(map(int, parts))


def _parts(argument: str) -> tuple[str, ...]:
  return tuple(part.strip() for part in argument.split(",") if part.strip())
