"""The configuration of the transformer study, and its flags."""

import dataclasses
from collections.abc import Mapping, Sequence

from absl import flags

from experiments.lab import options, parsers
from experiments.lab.data import sequences, text
from experiments.lab.models import transformer as models
from experiments.lab.models.blocks import PLACEMENTS
from experiments.lab.options import option
from experiments.lab.parsers import COUNT, NORMS, POSITIVE
from experiments.lab.training import optimizers

# "none" trains the models of the flags; the others test claims.
STUDIES = ("none", "warmup", "warmup_tuned", "depth", "norms", "batch_norm")
# The flags in which the models of a study differ.
_COMPARED: Mapping[str, Sequence[str]] = {
  "warmup": ("placement", "learning_rate", "warmup_steps"),
  "warmup_tuned": ("placement", "learning_rate", "warmup_steps"),
  "depth": ("placement", "kernel_init"),
  "norms": ("norm", "learning_rate", "qk_norm"),
  "batch_norm": ("norm", "learning_rate"),
}

# From config/train_shakespeare_char.py of https://github.com/karpathy/nanoGPT,
# which reports 1.47 after about three minutes on one A100.
FULL = {
  "layers": 6,
  "width": 384,
  "heads": 6,
  "context": 256,
  "dropout": 0.2,
  "dtype": "bfloat16",
  "learning_rate": 1e-3,
  "steps": 5000,
  "batch_size": 64,
}

QUICK = {
  "layers": 2,
  "width": 16,
  "heads": 2,
  "context": 16,
  "steps": 20,
  "eval_every": 10,
  "batch_size": 4,
}


@dataclasses.dataclass(frozen=True)
class Config(options.TuningConfig):
  """The settings that determine the numbers of a run.

  The defaults reach 1.6 nats per character on tiny_shakespeare in about three
  minutes on two cores.
  """

  seeds: int = option(
    1,
    "Number of seeds trained at once: --seed, --seed + 1, ... In a study 5.",
    parsers.SEEDS,
  )
  tuning_seeds: int = option(
    2,
    "In a study, number of seeds that choose the learning rate of every model;"
    " they are not among those that are judged. With 1, the grid of rates does"
    " not grow.",
    flags.IntegerParser(lower_bound=1, upper_bound=3),
  )
  study: str = option(
    "none",
    "Test the claims of warmup, warmup_tuned, depth, norms or batch_norm (see"
    " above). A study has other defaults, compares its own models and runs on"
    " one device. With --confirm, all but batch_norm have 20 seeds.",
    parsers.one_of(list(STUDIES)),
  )
  task: str = option(
    "lm",
    "lm (predict the next character of a text), mnist (classify images as"
    " sequences of rows), copy or sort (repeat or sort 1 to context/2 digits;"
    " needs no data).",
    parsers.one_of(list(sequences.TASKS)),
  )
  dataset: str = option(
    "auto",
    "For --task=lm: auto (tiny_shakespeare, or pydoc if that is not on disk"
    " and could not be downloaded), tiny_shakespeare, pydoc (Python's language"
    " reference), or the path of a text file. For --task=mnist: as in"
    " experiments.mnist.",
  )
  tokens: str = option(
    "characters",
    "What a token of a text is. With bytes, the text need not be UTF-8.",
    parsers.one_of(list(text.UNITS)),
  )
  norm: tuple[str, ...] = option(
    ("ln",),
    "One or several norms, separated by commas; each is trained and compared"
    " with the first. In a language model, bn sees later positions while it"
    " trains, through its statistics; in evaluation it does not.",
    NORMS,
  )
  placement: tuple[str, ...] = option(
    ("pre",),
    "Placement of the norm around a sub-layer f, or several placements to"
    " compare, separated by commas: "
    + "; ".join(f"{name}: {what}" for name, what in PLACEMENTS.items())
    + ".",
    parsers.NamesParser(list(PLACEMENTS)),
  )
  qk_norm: bool = option(
    False,
    "Normalize queries and keys too (RMS, per head).",
    parsers.BOOLEAN,
  )
  layers: int = option(4, "Number of transformer blocks.", COUNT)
  width: int = option(128, "Width of the residual stream.", COUNT)
  heads: int = option(4, "Attention heads, which share the width.", COUNT)
  context: int = option(
    64, "Length of a sequence; for images it is the number of rows.", COUNT
  )
  positions: str = option(
    "rotary",
    "Encoding of positions: queries and keys are rotated, or a learned vector"
    " is added to the embedding.",
    parsers.one_of(list(models.POSITIONS)),
  )
  kernel_init: str = option(
    "gpt2",
    "Initialization of the kernels of blocks. "
    + "; ".join(f"{name}: {what}" for name, what in models.KERNEL_INITS.items())
    + ".",
    parsers.one_of(list(models.KERNEL_INITS)),
  )
  dropout: float = option(
    0.0,
    "Dropout rate of the embedding and of each sub-layer's output.",
    parsers.SHARE,
  )
  dtype: str = option(
    "float32",
    "Dtype of the computation. Parameters, softmax and losses are float32.",
    parsers.one_of(list(options.DTYPES)),
  )
  learning_rate: float = option(
    3e-3, "Maximum learning rate of Adam.", POSITIVE
  )
  warmup_steps: int = option(
    100,
    "Number of steps of linear warm-up of the learning rate.",
    parsers.COUNT_OR_ZERO,
  )
  schedule: str = option(
    "cosine",
    "Learning rate after the warm-up: constant, or a cosine down to a tenth.",
    parsers.one_of(list(optimizers.SCHEDULES)),
  )
  weight_decay: float = option(
    0.1,
    "Decoupled weight decay (AdamW) of kernels and embeddings; gains and biases"
    " are not decayed.",
    parsers.NOT_NEGATIVE,
  )
  clip_norm: float = option(
    1.0,
    "Gradients of a larger norm are scaled down to it; 0 for no clipping.",
    parsers.NOT_NEGATIVE,
  )
  steps: int = option(2500, "Training steps.", COUNT)
  batch_size: int = option(16, "Number of sequences in a step.", COUNT)
  eval_every: int = option(
    250,
    "Number of steps between two evaluations on all validation data, each"
    " followed by a checkpoint. With fewer --steps than by default, it shrinks"
    " with them.",
    COUNT,
  )

  def unused(self) -> dict[str, str]:
    found: dict[str, str] = {}

    def add(reason: str, *names: str) -> None:
      found.update(dict.fromkeys(names, reason))

    if self.norm == ("none",):
      add("with --norm=none", "placement")
    if self.placement == ("none",):
      add("with --placement=none", "norm")
    if self.task == "mnist":
      add("with --task=mnist, which has no text", "tokens", "sample")
      add("with --task=mnist: the rows of an image are the context", "context")
    elif self.task != "lm":
      add(
        f"with --task={self.task}, which draws its sequences",
        *("dataset", "data_dir", "tokens", "sample"),
      )
    if self.task == "lm" and self.dataset not in ("auto", "tiny_shakespeare"):
      add("on this text, which is no data set of TFDS", "data_dir")
    if self.task == "mnist" and self.dataset == "digits":
      add("on the digits, which come with scikit-learn", "data_dir")
    named = f"with --study={self.study}"
    if self.study == "none":
      add(
        "without a --study",
        *("tuning_seeds", "rate_factor", "gain", "sensitivity"),
      )
    else:
      add(f"{named}, which has its own", *_COMPARED[self.study])
      add(f"{named}, which has one size", "scale")
      add(
        f"{named}, which runs on one device",
        *("devices", "distributed", "coordinator_address", "num_processes"),
        "process_id",
      )
      add(f"{named}, which keeps no parameters", "sample", "eval_every")
    if self.study == "depth":
      add(
        f"{named}, which does not train",
        *("learning_rate", "warmup_steps", "schedule", "weight_decay"),
        *("clip_norm", "steps", "tuning_seeds", "rate_factor"),
      )
    if self.study in ("warmup_tuned", "depth", "batch_norm"):
      add(f"{named}, which has no headline claims", "sensitivity")
    return found
