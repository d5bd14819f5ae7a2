"""Training at one site and fine-tuning at another."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from experiments.lab import options, parsers, tuning
from experiments.lab.data.arrays import Images, Pool
from experiments.lab.data.batch import Members
from experiments.lab.errors import RefusedError
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.study import Parts
from experiments.lab.training import classification, lanes
from normjax import linen

RATES = tuning.half_decades(-8, -4)
PRETRAINING = tuning.half_decades(-7, -3)
BATCH = 64  # In the training at the first site.
SIZES = (2, 8, 64)
MODES = ("frozen", "re-estimated", "updated")


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The net, the data, and how long to train."""

  hidden: tuple[int, ...] = option(
    (128, 128), "Width of each hidden layer.", parsers.COUNTS
  )
  train: int = option(
    4_200, "Maximum number of images of both sites.", parsers.COUNT
  )
  images: int = option(192, "Images of the second site.", parsers.COUNT)
  examples: int = option(
    48_000, "Examples of the training at the first site.", parsers.COUNT
  )
  epochs: int = option(10, "Epochs of fine-tuning.", parsers.COUNT)


class Sites(NamedTuple):
  """The images of each seed.

  Attributes:
    first: What the first site trains on, validates and tests with.
    second: What the second site has, for the same three.
    scanned_twice: As `second`, recorded by the scanner of the first site.
  """

  first: Images[Members]
  second: Images[Members]
  scanned_twice: Images[Members]


class Pools(NamedTuple):
  """The same images as recorded by the scanners of both sites."""

  first: Pool
  second: Pool

  def split(
    self, config: Config, seeds: Sequence[int], rates: int = 1
  ) -> Sites:
    """Returns the images of each seed; see `Pool.split`."""
    first, second = (pool.split(seeds, rates) for pool in self)
    count = first.train.num_examples - config.images
    if min(count, config.images) < BATCH:
      raise RefusedError(
        f"{first.train.num_examples:,} images, of which --images="
        f"{config.images:,} are of the second site, do not leave a batch of"
        f" {BATCH} for both sites; choose others, or more with --train."
      )
    ours, theirs = slice(count), slice(count, None)
    return Sites(
      first._replace(train=first.train.some(ours)),
      second._replace(train=second.train.some(theirs)),
      first._replace(train=first.train.some(theirs)),
    )


def make_model(config: Config, images: Images[Any]) -> MLP:
  """Returns the net."""
  return MLP(
    norm=norm_factory("bn"),
    hidden=config.hidden,
    num_classes=images.num_classes,
  )


def pretrain(
  config: Config, pools: Pools, rates: Sequence[float], seeds: Sequence[int]
) -> Parts:
  """Trains at the first site.

  Returns:
    `[rates, seeds, ...]`: "validation", the loss at the first site; test errors
    in percent, "first" and "second", and "first again" and "second again" with
    re-estimated statistics; and the variables by their paths.
  """
  sites = pools.split(config, seeds, len(rates))
  engine, state, _ = classification.train_at_rates(
    make_model(config, sites.first),
    optax.adam,
    sites.first,
    batch_size=BATCH,
    seeds=seeds,
    rates=rates,
    steps=max(1, config.examples // BATCH),
    gain=config.gain,
  )
  assert sites.first.validation is not None
  metrics = engine.evaluate(state.variables, sites.first.validation)
  found = {"validation": metrics["loss"]}
  for name, images in (
    ("first", sites.scanned_twice),
    ("second", sites.second),
  ):
    # Each site has its own conversion of bytes, hence its own engine.
    there = classification.classifier(
      engine.model, optax.adam(1.0), images, batch_size=BATCH
    )
    again = classification.reestimated(there, state, images.train)
    for suffix, variables in (("", state.variables), (" again", again)):
      found[name + suffix] = classification.error(there, variables, images.test)
  found |= traverse_util.flatten_dict(state.variables, sep="/")
  return lanes.by_rate(found, len(rates))


def fine_tune(
  mode: str,
  size: int,
  start: Callable[[Sequence[int]], Parts],
  config: Config,
  pools: Pools,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  """Fine-tunes at the second site.

  Args:
    mode: One of `MODES`.
    size: Number of images in a batch.
    start: Returns the variables of the trained nets of seeds, by path.
    config: The settings.
    pools: Images.
    rates, seeds: Learning rates, and seeds for each.

  Returns:
    `[rates, seeds]`: "validation", the loss at the second site, "error", its
    test error in percent, and "change", the largest change of a running
    statistic by the fine-tuning.
  """
  images = pools.split(config, seeds, len(rates)).second
  engine, state = classification.at_rates(
    make_model(config, images),
    optax.adam,
    images,
    batch_size=size,
    seeds=seeds,
    rates=rates,
  )
  variables = traverse_util.unflatten_dict(
    {
      name: jnp.concatenate([jnp.asarray(leaf)] * len(rates))
      for name, leaf in start(seeds).items()
      if "/" in name
    },
    sep="/",
  )
  state = dataclasses.replace(
    state,
    params=variables.pop("params"),
    collections=variables,
  )
  if mode == "re-estimated":
    again = classification.reestimated(engine, state, images.train)
    state = dataclasses.replace(
      state, collections={"batch_stats": again["batch_stats"]}
    )
  before = jax.tree.map(np.asarray, state.collections)
  frozen = contextlib.nullcontext() if mode == "updated" else linen.frozen()
  with frozen:
    state, _ = engine.train(state, config.epochs * engine.source.period)
  changes = jax.tree.map(
    lambda old, new: np.abs(old - np.asarray(new)).reshape(len(old), -1).max(1),
    before,
    state.collections,
  )
  assert images.validation is not None
  found = {
    "validation": engine.evaluate(state.variables, images.validation)["loss"],
    "error": classification.error(engine, state.variables, images.test),
    "change": np.max(jax.tree.leaves(changes), axis=0),
  }
  return lanes.by_rate(found, len(rates))


Arm = tuple[str, int]  # Mode, batch size.
