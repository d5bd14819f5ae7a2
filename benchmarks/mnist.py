"""Compares an epoch of the MNIST study with the same epoch in PyTorch.

    python -m benchmarks.mnist [--repeats=7] [--out=mnist.json]

48,000 images, batches of 64, 784-128-LN-ReLU-10, Adam at 1e-3, on JAX's default
device. Both libraries have the data in memory and shuffle them in every epoch.
The PyTorch loop is eager, and the fastest of several variants. Both are timed
in turns, in one process. Without PyTorch (`pip install -e ".[benchmarks]"`),
only normjax is timed.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.machine import torch_device
from experiments.lab.data import images as data
from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Batch
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.runs import files
from experiments.lab.runs.progress import progress
from experiments.lab.tables import table
from experiments.lab.training.classification import classifier
from experiments.lab.training.engine import Engine

EXAMPLES = 48_000
BATCH_SIZE = 64
HIDDEN = 128
CLASSES = 10
LEARNING_RATE = 1e-3

# An epoch should take at most this share of PyTorch's time.
TARGET = 0.5

# Trains for one more epoch and waits for it; returns the mean loss.
Epoch = Callable[[], float]


def load(data_dir: str | None) -> tuple[data.Split, str]:
  """Returns the study's training images, and a description of them."""
  try:
    mnist = data.load("mnist", data_dir)
  except data.UnavailableError as error:
    return synthetic(EXAMPLES), f"synthetic images of MNIST's shape ({error})"
  train, _ = data.train_validation_split(
    mnist.train, train_fraction=0.8, seed=0
  )
  return train, "MNIST"


def synthetic(count: int) -> data.Split:
  """Returns noisy copies of one random image per class, some mislabeled.

  Because of the wrong labels the loss stays above zero, as with real data.
  """
  rng = np.random.default_rng(0)
  labels = rng.integers(CLASSES, size=count, dtype=np.int32)
  images = rng.integers(256, size=(CLASSES, 28, 28, 1), dtype=np.uint8)[labels]
  noise = rng.integers(256, size=images.shape, dtype=np.uint8)
  guesses = rng.integers(CLASSES, size=count, dtype=np.int32)
  wrong = rng.random(count) < 0.2
  return data.Split(images // 2 + noise // 2, np.where(wrong, guesses, labels))


def normjax_epoch(train: data.Split) -> Epoch:
  """Returns the study's own compiled epoch, for one seed."""
  engine = study_engine("ln", optax.adam(LEARNING_RATE), train)
  state = engine.init([0])

  def epoch() -> float:
    nonlocal state
    state, records = engine.train(state, engine.source.period)
    return float(records.means()["loss"][0])

  return epoch


def study_engine(
  norm: str, optimizer: optax.GradientTransformation, train: data.Split
) -> Engine:
  """Returns what trains the study's model."""
  examples = Batch(*map(jnp.asarray, train))
  return classifier(
    MLP(norm_factory(norm), hidden=(HIDDEN,)),
    optimizer,
    Images("mnist", examples, examples, CLASSES, prepare),
    batch_size=BATCH_SIZE,
  )


def prepare(images: jax.Array) -> jax.Array:
  """Returns the pixels as numbers from 0 to 1."""
  return images.astype(jnp.float32) / 255


def torch_epoch(train: data.Split, **options: bool) -> Epoch:
  """Returns an epoch of an eager PyTorch loop without a data loader.

  Args:
    train: Images and labels.
    **options: Options of `torch.optim.Adam`.
  """
  import torch
  from torch import nn
  from torch.nn import functional as F  # noqa: N812  The name everybody uses.

  torch.manual_seed(0)
  count = len(train.labels)
  device = torch_device()
  images = torch.from_numpy(train.images.reshape(count, -1)).to(device) / 255
  labels = torch.from_numpy(train.labels).long().to(device)
  model = nn.Sequential(
    nn.Linear(images.shape[1], HIDDEN),
    nn.LayerNorm(HIDDEN),
    nn.ReLU(),
    nn.Linear(HIDDEN, CLASSES),
  ).to(device)
  optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, **options)

  def epoch() -> float:
    # Summed up unread: reading the loss of a batch would wait for the batch.
    total = torch.zeros((), device=device)
    order = torch.randperm(count, device=device)
    steps = count // BATCH_SIZE
    for batch in order[: steps * BATCH_SIZE].split(BATCH_SIZE):
      loss = F.cross_entropy(model(images[batch]), labels[batch])
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
      total += loss.detach()
    return total.item() / steps

  return epoch


def torch_variants(train: data.Split) -> dict[str, Epoch]:
  """Returns variants of the PyTorch loop by description."""
  import torch

  def with_threads(threads: int, epoch: Epoch) -> Epoch:
    def call() -> float:
      torch.set_num_threads(threads)
      return epoch()

    return call

  return {
    f"{name}, {threads} thread{'s' * (threads > 1)}": with_threads(
      threads, torch_epoch(train, **options)
    )
    for threads in sorted({1, torch.get_num_threads()})
    for name, options in (
      ("Adam(foreach=False)", {"foreach": False}),
      ("Adam(foreach=True)", {"foreach": True}),
      ("Adam(fused=True)", {"fused": True}),
    )
  }


def measure(
  epochs: Mapping[str, Epoch], repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
  """Times epochs in turns, so that disturbances affect all of them.

  Args:
    epochs: Epochs by name. Each runs once beforehand, untimed.
    repeats: Number of timed epochs of each.

  Returns:
    `{name: seconds}` of each repeat, and `{name: loss}` of the last one.
  """
  losses = {name: epoch() for name, epoch in epochs.items()}
  seconds: dict[str, list[float]] = {name: [] for name in epochs}
  for _ in progress(range(repeats), unit="repeat"):
    for name, epoch in epochs.items():
      began = time.perf_counter()
      losses[name] = epoch()
      seconds[name].append(time.perf_counter() - began)
  return seconds, losses


def fastest_torch(train: data.Split) -> tuple[str, Epoch]:
  """Returns PyTorch's fastest variant, measured on a part of the data."""
  part = data.Split(*(array[: len(array) // 8] for array in train))
  seconds, _ = measure(torch_variants(part), repeats=3)
  best = min(seconds, key=lambda name: min(seconds[name]))
  return best, torch_variants(train)[best]


def report(
  seconds: Mapping[str, list[float]], losses: Mapping[str, float]
) -> str:
  """Returns a table of seconds and losses, and whether the target is met."""
  rows = [
    [
      name,
      *(f"{value:.3f}" for value in np.quantile(values, (0.5, 0, 1))),
      f"{losses[name]:.4f}",
    ]
    for name, values in seconds.items()
  ]
  text = table(rows, ["epoch", "median (s)", "min (s)", "max (s)", "last loss"])
  if len(seconds) < 2:
    return text
  ours, theirs = map(np.asarray, seconds.values())
  ratio = float(np.median(ours) / np.median(theirs))
  answer = "yes" if ratio <= TARGET else "NO"
  return (
    f"{text}\n\nRatio of medians {ratio:.2f}, of single repeats"
    f" {min(ours / theirs):.2f} to {max(ours / theirs):.2f}."
    f" At most {TARGET:g}: {answer}."
  )


def run(train: data.Split, what: str, repeats: int, out: str | None) -> None:
  """Times both libraries, prints the outcome and writes it to `out`."""
  # Otherwise PyTorch's idle threads would spin on the cores that JAX needs. Set
  # before PyTorch loads its OpenMP library, which reads it.
  os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

  print(f"{len(train.labels):,} examples of {what}, {os.cpu_count()} cores.")
  epochs = {f"normjax, JAX {jax.__version__}": normjax_epoch(train)}
  try:
    import torch
  except ImportError:
    print("PyTorch is not installed, so there is no comparison. Install it:")
    print('`pip install -e ".[benchmarks]"`.')
  else:
    name, epoch = fastest_torch(train)
    epochs[f"PyTorch {torch.__version__}, {name}"] = epoch
  seconds, losses = measure(epochs, repeats)
  print(f"\n{report(seconds, losses)}")
  if out is not None:
    files.write_json(
      out, {"data": what, "seconds": seconds, "last_losses": losses}
    )


def main(
  argv: list[str], data_dir: str | None, repeats: int, out: str | None
) -> None:
  if len(argv) > 1:
    sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
  run(*load(data_dir), repeats, out)


if __name__ == "__main__":
  # Defined here, because other commands define flags of these names too.
  data_dir_flag = flags.DEFINE_string(
    "data_dir", None, "TFDS's folder; default: $TFDS_DATA_DIR, or in the home."
  )
  repeats_flag = flags.DEFINE_integer(
    "repeats", 7, "Timed epochs of each library.", lower_bound=1
  )
  out_flag = flags.DEFINE_string("out", None, "JSON file for all numbers.")
  app.run(
    lambda argv: main(
      argv, data_dir_flag.value, repeats_flag.value, out_flag.value
    )
  )
