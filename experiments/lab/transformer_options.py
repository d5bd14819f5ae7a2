"""The flags of the transformer study, and the configuration they stand for."""

import dataclasses

from absl import flags

from experiments.lab import flags as lab_flags
from experiments.lab import sequence_tasks, sequence_training, text
from experiments.lab import transformer as models
from experiments.lab.study import COUNT, NORMS, POSITIVE, option
from experiments.lab.study import Config as StudyConfig

# What can be asked for beside training the models that the flags describe.
STUDIES = ("none", "warmup", "depth", "norms", "batch_norm")

# Known to reach 1.47 in about three minutes on one A100:
# https://github.com/karpathy/nanoGPT, its config/train_shakespeare_char.py.
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

_SHARE = lab_flags.NumberParser(
  lambda value: 0 <= value < 1, "at least 0 and below 1"
)
_NOT_NEGATIVE = lab_flags.NumberParser(lambda value: value >= 0, "at least 0")


@dataclasses.dataclass(frozen=True)
class Config(StudyConfig):
  """What decides on the numbers of a run; the fields are named like the flags.

  The defaults reach 1.6 nats per character on tiny_shakespeare in about three
  minutes on two cores.
  """

  seeds: int = option(
    1,
    "How many seeds to train at once: --seed, --seed + 1, ... In a study 5.",
    flags.IntegerParser(lower_bound=1, upper_bound=1000),
  )
  study: str = option(
    "none",
    "Test the claims of warmup, depth, norms or batch_norm (see above) instead:"
    " sets other defaults, and compares models of its own.",
    flags.EnumParser(list(STUDIES)),
  )
  task: str = option(
    "lm",
    "lm (the next character of a text), mnist (classify images, a row at a"
    " time), copy or sort (repeat 1 to context/2 digits, or sort them; needs"
    " no data).",
    flags.EnumParser(list(sequence_tasks.TASKS)),
  )
  dataset: str = option(
    "auto",
    "For --task=lm: auto (tiny_shakespeare, or pydoc where that is not to be"
    " had), tiny_shakespeare, pydoc (Python's language reference), or the path"
    " of a text file. For --task=mnist: as in experiments.mnist.",
  )
  tokens: str = option(
    "characters",
    "What a token of a text is. Bytes need no UTF-8.",
    flags.EnumParser(list(text.UNITS)),
  )
  norm: tuple[str, ...] = option(
    ("ln",),
    "The norm, or several with commas in between: each is trained in turn and"
    " compared with the first.",
    NORMS,
  )
  placement: tuple[str, ...] = option(
    ("pre",),
    "Where the norm stands around a sub-layer f, or several places with commas"
    " in between, which are compared: "
    + "; ".join(f"{name}: {what}" for name, what in models.PLACEMENTS.items()),
    lab_flags.NamesParser(list(models.PLACEMENTS)),
  )
  qk_norm: bool = option(
    False,
    "Whether queries and keys are normalized too (RMS, per head).",
    flags.BooleanParser(),
  )
  layers: int = option(4, "Transformer blocks.", COUNT)
  width: int = option(128, "Features of the residual stream.", COUNT)
  heads: int = option(4, "Attention heads, which share the width.", COUNT)
  context: int = option(
    64, "Positions of a sequence. Images have their rows.", COUNT
  )
  positions: str = option(
    "rotary",
    "How attention knows positions: queries and keys are rotated, or a learned"
    " vector is added to the embedding.",
    flags.EnumParser(list(models.POSITIONS)),
  )
  kernel_init: str = option(
    "gpt2",
    "How the kernels of blocks start. "
    + "; ".join(f"{name}: {what}" for name, what in models.KERNEL_INITS.items())
    + ".",
    flags.EnumParser(list(models.KERNEL_INITS)),
  )
  dropout: float = option(
    0.0,
    "Share of the embedding and of each sub-layer's output that training"
    " drops.",
    _SHARE,
  )
  dtype: str = option(
    "float32",
    "Type of the computation. Parameters, softmax and losses are float32.",
    flags.EnumParser(list(lab_flags.DTYPES)),
  )
  learning_rate: float = option(
    3e-3, "The highest learning rate of Adam.", POSITIVE
  )
  warmup_steps: int = option(
    100,
    "Steps over which the learning rate grows linearly.",
    flags.IntegerParser(lower_bound=0),
  )
  schedule: str = option(
    "cosine",
    "The learning rate after the warm-up: constant, or on a cosine down to a"
    " tenth.",
    flags.EnumParser(list(sequence_training.SCHEDULES)),
  )
  weight_decay: float = option(
    0.1,
    "Decoupled weight decay (AdamW) of kernels and embeddings; gains and biases"
    " are not decayed.",
    _NOT_NEGATIVE,
  )
  clip_norm: float = option(
    1.0,
    "Gradients of a larger norm are scaled down to this one; 0 never.",
    _NOT_NEGATIVE,
  )
  steps: int = option(2500, "Training steps.", COUNT)
  batch_size: int = option(16, "Sequences in a step.", COUNT)
  eval_every: int = option(
    250,
    "Steps between two evaluations on all validation data, each followed by a"
    " checkpoint.",
    COUNT,
  )
