"""Test-then-train: every example is predicted, then learned."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from absl import flags
from flax import linen as nn

import normjax
from experiments.lab import options, parsers, tuning
from experiments.lab.data.arrays import Pool
from experiments.lab.data.batch import Batch, Members, Prepare
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.study import Parts
from experiments.lab.training import classification, lanes, losses
from experiments.lab.training.batches import Shuffled
from experiments.lab.training.engine import Engine
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.step import Update
from experiments.online import task
from experiments.online.nets import PatchNet, StreamNorm

MANY = 20  # Examples of the batch that batch norm gets, where it gets one.
AFTER = 100  # Examples after a change.
_MOMENTUM = 0.99  # At a batch of one: the memory is about a hundred examples.

NORMS: Mapping[str, tuple[str, ...]] = {
  "vectors": ("none", "ln", "gn", "acc", "ln20", "bn20"),
  "maps": ("none", "ln", "gn", "in", "bn", "brn", "acc", "in20", "bn20"),
}
# The arms that no claim is about.
MORE = ("gn", "ln20", "in20")
ARMS = {
  "none": "no norm",
  "ln": "layer norm",
  "gn": "group norm",
  "in": "instance norm",
  "bn": "batch norm, batch of one",
  "brn": "batch renorm, batch of one",
  "acc": "accumulated statistics",
  "ln20": f"layer norm, batches of {MANY}",
  "in20": f"instance norm, batches of {MANY}",
  "bn20": f"batch norm, batches of {MANY}",
}


def rates(norm: str) -> tuple[float, ...]:
  """Returns the learning rates to try for an arm."""
  first, last = (-5, -1) if batch(norm) == 1 else (-3, 1)
  return tuning.half_decades(first, last)


def batch(norm: str) -> int:
  """Returns the number of examples that an arm predicts, then learns."""
  return MANY if norm.endswith(str(MANY)) else 1


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The nets, and the length of the stream."""

  hidden: tuple[int, ...] = option(
    (64, 64), "Width of each hidden layer of the net of vectors.",
    parsers.COUNTS,
  )  # fmt: skip
  channels: tuple[int, ...] = option(
    (32, 32), "Channels of each layer of the net of maps.", parsers.COUNTS
  )
  more: bool = option(
    True,
    f"Also train the arms that no claim is about: {', '.join(MORE)}.",
    parsers.BOOLEAN,
  )
  segment: int = option(
    1_000,
    f"Examples between two changes of the stream, a multiple of {MANY}.",
    flags.IntegerParser(lower_bound=2 * AFTER),
  )


def factory(norm: str) -> Callable[..., nn.Module]:
  """Returns the norm factory of an arm."""
  if norm == "acc":
    return lambda *, train, dtype=None: StreamNorm(
      use_running_average=not train, momentum=_MOMENTUM
    )
  if batch(norm) > 1:
    return norm_factory(norm.removesuffix(str(MANY)))
  if norm == "bn":
    return norm_factory("bn", momentum=_MOMENTUM)
  if norm == "brn":
    # The paper's schedule ends after 40,000 steps, which is too late here.
    limits = {
      "r_max": functools.partial(normjax.renorm_r_max, begin=100, end=500),
      "d_max": functools.partial(normjax.renorm_d_max, begin=100, end=500),
    }
    return norm_factory("brn", momentum=_MOMENTUM, **limits)
  return norm_factory(norm)


def make_model(net: str, norm: str, config: Config, classes: int) -> nn.Module:
  """Returns a net: "vectors" or "maps"."""
  if net == "vectors":
    return MLP(norm=factory(norm), hidden=config.hidden, num_classes=classes)
  return PatchNet(
    norm=factory(norm), hidden=config.channels, num_classes=classes
  )


def test_then_train(prepare: Prepare) -> losses.Loss:
  """Returns the cross-entropy, whose metrics are of predictions before it.

  A prediction is in evaluation mode: batch norm has the statistics of earlier
  examples. What is differentiated is in training mode.
  """
  learn = losses.cross_entropy(prepare)

  def loss(
    model: nn.Module, variables: Any, batch: Batch, key: jax.Array, train: bool
  ) -> Any:
    objective, updates, sums = learn(model, variables, batch, key, train)
    if train:
      *_, sums = learn(model, variables, batch, key, False)
    return objective, updates, sums

  return loss


def make_engine(
  net: str, norm: str, config: Config, pool: Pool, stream: Members
) -> Engine:
  """Returns the engine that trains an arm on streams."""
  return Engine(
    make_model(net, norm, config, pool.num_classes),
    Update(test_then_train(task.prepare), swept(optax.sgd)),
    Shuffled(stream, batch(norm), ordered=True),
    sample=pool.sample,
    gain=config.gain,
  )


def refused(config: Config, pool: Pool) -> dict[str, str]:
  """Returns what the norms say that cannot train on one vector at a time."""
  stream = task.streams(pool, config.segment, [0]).stream
  found = {}
  for norm in ("bn", "brn", "in"):
    try:
      make_engine("vectors", norm, config, pool, stream).check()
    except ValueError as error:
      found[norm] = str(error)
  return found


def train(
  net: str,
  norm: str,
  config: Config,
  pool: Pool,
  rates: Sequence[float],
  seeds: Sequence[int],
  again: bool = False,
) -> Parts:
  """Returns the results `[rates, seeds]` of an arm.

  Args:
    net: "vectors" or "maps".
    norm: One of `NORMS[net]`.
    config: The settings.
    pool: Images from which each seed draws its stream.
    rates, seeds: Learning rates, and seeds for each.
    again: Whether to take other kernels, on the same stream.

  Returns:
    "validation", the mean loss of all predictions, "wrong", the share of wrong
    predictions in percent for each `MANY` examples, `[rates, seeds, parts]`,
    and the test errors in percent after the stream, "error" and "reestimated",
    with batch statistics of the last segment.
  """
  streams = task.streams(pool, config.segment, seeds, len(rates))
  engine = make_engine(net, norm, config, pool, streams.stream)
  state = engine.init(
    [seed + tuning.AGAIN * again for seed in seeds], learning_rate=rates
  )
  count = streams.stream.num_examples
  state, records = engine.train(state, count // batch(norm))
  right = records.sums["accuracy"]
  right = right.reshape(len(right), -1, MANY // batch(norm))
  last = streams.stream.some(slice(count - config.segment, None))
  statistics = engine.reestimate(
    state.variables, Shuffled(last, MANY, ordered=True)
  )
  found = {
    "validation": records.means()["loss"],
    "wrong": 100 * (1 - right.sum(axis=2, dtype=np.float64) / MANY),
    "error": classification.error(engine, state.variables, streams.test),
    "reestimated": classification.error(engine, statistics, streams.test),
  }
  return lanes.by_rate(found, len(rates))
