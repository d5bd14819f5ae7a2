"""Compares a training step of the transformer study with PyTorch.

    python -m benchmarks.transformer [--rounds=15] [--out=transformer.json]

The study's default: 4 pre-LN blocks of width 128, 4 heads, rotary positions,
tied embeddings, float32; batches of 16 x 64 characters out of 65, AdamW 3e-3
with warm-up, cosine and clipping. PyTorch runs eagerly, with
`scaled_dot_product_attention` and the fastest of its AdamW variants and thread
counts. Both draw their batches from a text in the memory of JAX's default
device. They are timed in turns, in one process. Without PyTorch
(`pip install -e ".[benchmarks]"`), only normjax is timed.
"""

import functools
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.machine import Machine, torch_device
from experiments.lab import timing
from experiments.lab.data.batch import Batch
from experiments.lab.data.sequences import Task, draw_windows
from experiments.lab.runs import files
from experiments.lab.tables import table
from experiments.transformer.options import Config
from experiments.transformer.training import make_engine

VOCABULARY = 65
LENGTH = 1_000_000

# We should process at least this share of PyTorch's tokens per second.
TARGET = 1.0


def synthetic(length: int = LENGTH) -> np.ndarray:
  """Returns tokens `[length]` of a random walk, which can be learned."""
  steps = np.random.default_rng(0).integers(-1, 2, length)
  return (np.cumsum(steps) % VOCABULARY).astype(np.int32)


class Normjax:
  """The study's compiled steps, for one seed."""

  def __init__(self, config: Config, tokens: np.ndarray):
    examples = jnp.asarray(tokens[: config.context])[None]
    validation = Batch(examples, examples)
    task = Task(
      name="synthetic",
      causal=True,
      classes=VOCABULARY,
      data=jnp.asarray(tokens),
      draw=functools.partial(draw_windows, context=config.context),
      validation=validation,
      test=validation,
    )
    self._engine = make_engine(config, task)
    self.model = self._engine.model
    self._state = self._engine.init([0])
    self.loss = math.nan

  def run(self, steps: int) -> None:
    self._state, records = self._engine.train(self._state, steps)
    self.loss = float(records.means()["loss"][0])


def torch_model(config: Config) -> Any:
  """Returns the same model in PyTorch, written in the usual way."""
  import torch
  from torch import nn
  from torch.nn import functional as F  # noqa: N812  The name everybody uses.

  width, heads = config.width, config.heads

  class Block(nn.Module):
    def __init__(self) -> None:
      super().__init__()
      self.norm_1 = nn.LayerNorm(width, eps=1e-6)
      self.norm_2 = nn.LayerNorm(width, eps=1e-6)
      self.query_key_value = nn.Linear(width, 3 * width)
      self.out = nn.Linear(width, width)
      self.feed_forward_in = nn.Linear(width, 4 * width)
      self.feed_forward_out = nn.Linear(4 * width, width)

    def forward(
      self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
      batch, time, _ = x.shape
      query, key, value = (
        part.view(batch, time, heads, -1).transpose(1, 2)
        for part in self.query_key_value(self.norm_1(x)).split(width, dim=2)
      )
      attended = F.scaled_dot_product_attention(
        _rotated(query, cos, sin),
        _rotated(key, cos, sin),
        value,
        is_causal=True,
      )
      x = x + self.out(attended.transpose(1, 2).reshape(batch, time, width))
      hidden = F.relu(self.feed_forward_in(self.norm_2(x)))
      return x + self.feed_forward_out(hidden)

  def _rotated(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
  ) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat(
      (first * cos - second * sin, first * sin + second * cos), dim=-1
    )

  class LanguageModel(nn.Module):
    def __init__(self) -> None:
      super().__init__()
      self.embedding = nn.Embedding(VOCABULARY, width)
      self.blocks = nn.ModuleList([Block() for _ in range(config.layers)])
      self.norm = nn.LayerNorm(width, eps=1e-6)
      half = width // heads // 2
      frequency = 1e4 ** -(torch.arange(half) / half)
      angle = torch.arange(config.context)[:, None] * frequency[None]
      self.register_buffer("cos", angle.cos())
      self.register_buffer("sin", angle.sin())
      self._initialize()

    def _initialize(self) -> None:
      for name, parameter in self.named_parameters():
        if parameter.ndim < 2:
          continue
        std = 1 / math.sqrt(parameter.shape[1])
        if name == "embedding.weight":
          std = 0.02
        elif name.endswith("out.weight"):
          std /= math.sqrt(2 * config.layers)
        nn.init.trunc_normal_(parameter, std=std)
      for name, parameter in self.named_parameters():
        if name.endswith("bias"):
          nn.init.zeros_(parameter)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
      x = self.embedding(tokens) / 0.02
      for block in self.blocks:
        x = block(x, self.cos, self.sin)
      return self.norm(x) @ self.embedding.weight.T

  return LanguageModel()


class Torch:
  """An eager PyTorch loop without a data loader."""

  def __init__(
    self, config: Config, tokens: np.ndarray, threads: int, **options: bool
  ):
    """Sets up.

    Args:
      config: The setting.
      tokens: The text.
      threads: The number of PyTorch's threads.
      **options: Options of `torch.optim.AdamW`.
    """
    import torch

    torch.manual_seed(0)
    self._config, self._threads = config, threads
    self._device = torch_device()
    self._tokens = torch.from_numpy(tokens).long().to(self._device)
    self.model = torch_model(config).to(self._device)
    decayed: list[torch.Tensor] = []
    others: list[torch.Tensor] = []
    for parameter in self.model.parameters():
      (decayed if parameter.ndim >= 2 else others).append(parameter)
    groups = [
      {"params": decayed, "weight_decay": config.weight_decay},
      {"params": others, "weight_decay": 0.0},
    ]
    self._optimizer = torch.optim.AdamW(
      groups, lr=config.learning_rate, betas=(0.9, 0.98), **options
    )
    self._schedule = torch.optim.lr_scheduler.LambdaLR(
      self._optimizer, self._share
    )
    self.loss = math.nan

  def _share(self, step: int) -> float:
    config = self._config
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    done = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return warm * (0.55 + 0.45 * math.cos(math.pi * min(max(done, 0.0), 1.0)))

  def run(self, steps: int) -> None:
    import torch
    from torch.nn import functional as F  # noqa: N812

    torch.set_num_threads(self._threads)
    config = self._config
    total = torch.zeros((), device=self._device)
    places = torch.arange(config.context + 1, device=self._device)
    for _ in range(steps):
      start = torch.randint(
        len(self._tokens) - config.context,
        (config.batch_size, 1),
        device=self._device,
      )
      window = self._tokens[start + places]
      logits = self.model(window[:, :-1])
      loss = F.cross_entropy(
        logits.reshape(-1, VOCABULARY), window[:, 1:].reshape(-1)
      )
      self._optimizer.zero_grad()
      loss.backward()
      torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
      self._optimizer.step()
      self._schedule.step()
      total += loss.detach()
    self.loss = total.item() / steps


def torch_variants(config: Config, tokens: np.ndarray) -> dict[str, Torch]:
  """Returns variants of the PyTorch loop by description."""
  import torch

  return {
    f"{name}, {threads} thread{'s' * (threads > 1)}": Torch(
      config, tokens, threads, **options
    )
    for threads in sorted({1, torch.get_num_threads()})
    for name, options in (
      ("AdamW(foreach=True)", {"foreach": True}),
      ("AdamW(fused=True)", {"fused": True}),
    )
  }


def fastest_torch(
  config: Config, tokens: np.ndarray, *, seconds: float = 0.5, rounds: int = 3
) -> tuple[str, Torch]:
  """Returns PyTorch's fastest variant."""
  variants = torch_variants(config, tokens)
  samples = timing.interleaved(
    {name: variant.run for name, variant in variants.items()},
    seconds=seconds,
    rounds=rounds,
  )
  best = min(samples, key=lambda name: min(samples[name]))
  return best, variants[best]


def report(
  config: Config,
  samples: Mapping[str, list[float]],
  losses: Mapping[str, float],
) -> str:
  """Returns a table of speeds, and whether the target is met.

  Args:
    config: The setting.
    samples: Seconds per step by library, ours first.
    losses: The last losses by library.
  """
  tokens = config.batch_size * config.context
  rows = []
  for name, seconds in samples.items():
    spread = timing.Spread.of(seconds)
    rows.append(
      [
        name,
        f"{tokens / spread.median:,.0f}",
        f"{tokens / spread.high:,.0f} to {tokens / spread.low:,.0f}",
        f"{1e3 * spread.median:.1f}",
        f"{losses[name]:.3f}",
      ]
    )
  text = table(
    rows, ["library", "tokens/s", "quartiles", "ms/step", "last loss"]
  )
  if len(samples) < 2:
    return text
  ours, theirs = map(np.asarray, samples.values())
  ratios = timing.Spread.of(theirs / ours)
  answer = "yes" if ratios.median >= TARGET else "NO"
  return (
    f"{text}\n\n{ratios.median:.2f} times PyTorch's tokens per second"
    f" (quartiles of the rounds {ratios.low:.2f} to {ratios.high:.2f})."
    f" At least {TARGET:g}: {answer}."
  )


def run(
  config: Config,
  tokens: np.ndarray,
  *,
  rounds: int,
  seconds: float = 1.0,
  out: str | None = None,
) -> None:
  """Times both libraries, prints the outcome and writes it to `out`."""
  # Otherwise PyTorch's idle threads would spin on the cores that JAX needs. Set
  # before PyTorch loads its OpenMP library, which reads it.
  os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
  here = Machine.here(["flax", "optax"])
  print(f"{here}\n")
  programs: dict[str, Normjax | Torch] = {
    f"normjax, JAX {jax.__version__}": Normjax(config, tokens)
  }
  try:
    import torch
  except ImportError:
    print("PyTorch is not installed, so there is no comparison. Install it:")
    print('`pip install -e ".[benchmarks]"`.\n')
  else:
    name, program = fastest_torch(config, tokens, seconds=seconds / 2)
    programs[f"PyTorch {torch.__version__}, {name}"] = program
  samples = timing.interleaved(
    {name: program.run for name, program in programs.items()},
    seconds=seconds,
    rounds=rounds,
  )
  losses = {name: program.loss for name, program in programs.items()}
  print(report(config, samples, losses))
  if out is not None:
    files.write_json(
      out,
      {"machine": here, "seconds_per_step": samples, "last_losses": losses},
    )


def main(argv: list[str], rounds: int, out: str | None) -> None:
  if len(argv) > 1:
    sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
  run(Config(), synthetic(), rounds=rounds, out=out)


if __name__ == "__main__":
  # Defined here, because other commands define flags of these names too.
  rounds_flag = flags.DEFINE_integer(
    "rounds", 15, "Timed samples of each library.", lower_bound=2
  )
  out_flag = flags.DEFINE_string("out", None, "JSON file for all numbers.")
  app.run(lambda argv: main(argv, rounds_flag.value, out_flag.value))
