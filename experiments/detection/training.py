"""Training: the classifier that gives a backbone, and the detectors."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import linen as nn
from flax import traverse_util

from experiments.detection import grid, scenes
from experiments.detection.average_precision import average_precision
from experiments.detection.nets import HIDDEN, STRIDE, Classifier, Detector
from experiments.lab import options, parsers, tuning
from experiments.lab.data.arrays import Images, Pool
from experiments.lab.data.batch import Members
from experiments.lab.errors import RefusedError
from experiments.lab.models import nets
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.study import Parts
from experiments.lab.training import classification, lanes, losses, optimizers
from experiments.lab.training.batches import Shuffled
from experiments.lab.training.engine import Engine
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.losses import Loss
from experiments.lab.training.step import Update
from normjax.linen import frozen, frozen_mask

RATES = tuning.half_decades(-6, -2)
SIZES = (2, 16)
CHECKS = 5  # How often average precision is taken during a training.
AGAIN = 500_000  # What is added to a seed for other kernels and batches.
LEARNED = ("bn", "gn", "none")  # Norms of the nets without pre-training.
FINE_TUNED = ("trained", "frozen")  # What becomes of pre-trained batch norms.

Arm = tuple[str, int]  # One of `LEARNED` or `FINE_TUNED`; batch size.
Start = Callable[[Sequence[int]], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The scenes, the net, and how long to train."""

  canvas: int = option(
    48,
    "Height and width of a scene in pixels. The longer side of a digit has a"
    " quarter to a half of it.",
    flags.IntegerParser(lower_bound=24),
  )
  train: int = option(2_048, "Scenes to train on.", parsers.COUNT)
  test: int = option(
    256, "Scenes for the test, and as many for validation.", parsers.COUNT
  )
  examples: int = option(
    4_800,
    "Scenes of a training, with repetitions, whatever the batch size.",
    flags.IntegerParser(lower_bound=16 * CHECKS),
  )
  hidden: tuple[int, ...] = option(
    HIDDEN,
    "Channels of the stem and of each convolution after it.",
    parsers.COUNTS,
  )

  def sizes(self, whole: bool = True) -> scenes.Sizes:
    """Returns how many scenes there are, and how large.

    Args:
      whole: Whether they are for the detector. The classifier has smaller ones
        with one digit.
    """
    if self.canvas % (3 * STRIDE):
      raise RefusedError(
        f"--canvas={self.canvas} is not a multiple of {3 * STRIDE}."
      )
    canvas, most = (self.canvas, scenes.MOST) if whole else (
      self.canvas * 2 // 3,
      1,
    )
    sides = (self.canvas / 4, self.canvas / 2)
    return scenes.Sizes(self.train, self.test, self.test, canvas, sides, most)


def new_engine(
  model: nn.Module,
  loss: Loss,
  images: Images[Members],
  batch: int,
  examples: int,
  kept: bool = False,
) -> Engine:
  """Returns the engine of a training.

  Args:
    model: The model.
    loss: The loss.
    images: Images or scenes to train on.
    batch: Batch size.
    examples: Number of examples of the training.
    kept: Whether the gains and biases of all batch norms are kept.
  """
  steps = examples // batch

  def optimizer(learning_rate: float) -> optax.GradientTransformation:
    adam = optimizers.adamw(
      learning_rate=learning_rate,
      warmup_steps=steps // 20,
      schedule="cosine",
      steps=steps,
      weight_decay=0.0,
      clip_norm=0.0,
    )
    if not kept:
      return adam
    variables = jax.eval_shape(
      functools.partial(model.init, train=False),
      jax.random.key(0),
      images.sample,
    )
    return optax.selective_transform(adam, freeze_mask=frozen_mask(variables))

  return Engine(
    model,
    Update(loss, swept(optimizer)),
    Shuffled(images.train, batch),
    sample=images.sample,
    scan=nets.scans_convolutions(),
    apart=True,
  )


def pretrain(
  config: Config, pool: Pool, rates: Sequence[float], seeds: Sequence[int]
) -> Parts:
  """Trains a net with batch norms to classify scenes of one digit.

  Returns:
    `[rates, seeds, ...]`: "validation", the cross-entropy; "error", the test
    error in percent; and the variables of the backbone by their paths.
  """
  images = scenes.load(pool, config.sizes(whole=False), seeds, len(rates))
  images = images._replace(
    train=_labelled(images.train),
    validation=_labelled(images.validation),
    test=_labelled(images.test),
  )
  engine = new_engine(
    Classifier(norm_factory("bn"), config.hidden, images.num_classes),
    losses.cross_entropy(images.prepare),
    images,
    max(SIZES),
    config.examples,
  )
  state = engine.init(seeds, learning_rate=rates)
  state, _ = engine.train(state, config.examples // max(SIZES))
  assert images.validation is not None
  return lanes.by_rate(
    {
      "validation": engine.evaluate(state.variables, images.validation)["loss"],
      "error": classification.error(engine, state.variables, images.test),
      **traverse_util.flatten_dict(
        {name: tree["backbone"] for name, tree in state.variables.items()},
        sep="/",
      ),
    },
    len(rates),
  )


def train(
  arm: Arm,
  config: Config,
  pool: Pool,
  start: Start,
  rates: Sequence[float],
  seeds: Sequence[int],
  again: bool = False,
) -> Parts:
  """Trains detectors.

  Args:
    arm: What to train; see `Arm`.
    config: The settings.
    pool: Digits.
    start: Returns what `pretrain` found for seeds, `[seeds, ...]`.
    rates, seeds: Learning rates, and seeds for each.
    again: Whether to take other kernels and batches, on the same scenes.

  Returns:
    `[rates, seeds, ...]`: "ap", the average precision on the test scenes after
    each `CHECKS`-th of the training; "reestimated", the last one with
    re-estimated batch statistics; and "validation", one minus the average
    precision on the validation scenes.
  """
  kind, size = arm
  images = scenes.load(pool, config.sizes(), seeds, len(rates))
  assert images.validation is not None
  norm = kind if kind in LEARNED else "bn"
  engine = new_engine(
    Detector(norm_factory(norm), config.hidden, images.num_classes),
    grid.loss(images.prepare),
    images,
    size,
    config.examples,
    kept=kind == "frozen",
  )
  state = engine.init(
    [seed + AGAIN * again for seed in seeds], learning_rate=rates
  )
  if kind in FINE_TUNED:
    backbone = traverse_util.unflatten_dict(
      {
        name: jnp.concatenate([jnp.asarray(leaf)] * len(rates))
        for name, leaf in start(seeds).items()
        if "/" in name
      },
      sep="/",
    )
    state = dataclasses.replace(
      state,
      params={**state.params, "backbone": backbone["params"]},
      collections={"batch_stats": {"backbone": backbone["batch_stats"]}},
    )
  curve = []
  with frozen() if kind == "frozen" else contextlib.nullcontext():
    for _ in range(CHECKS):
      state, _ = engine.train(state, config.examples // size // CHECKS)
      curve.append(tested(engine.model, state.variables, images, images.test))
  variables = state.variables
  found = {
    "ap": np.stack(curve, axis=1),
    "reestimated": curve[-1],
    "validation": 1 - tested(engine.model, variables, images, images.validation),
  }
  if norm == "bn" and kind != "frozen":
    variables = classification.reestimated(engine, state, images.train)
    found["reestimated"] = tested(engine.model, variables, images, images.test)
  return lanes.by_rate(found, len(rates))


def tested(
  model: nn.Module,
  variables: Any,
  images: Images[Members],
  members: Members,
) -> np.ndarray:
  """Returns the average precision of every lane on its scenes, `[lanes]`."""
  found = []
  for lane in range(len(members.chosen)):
    own = members.lane(lane)
    outputs = _outputs(model)(
      lanes.one(variables, lane), images.prepare(own.inputs)
    )
    found.append(average_precision(grid.detections(outputs), grid.true(own)))
  return np.array(found)


@functools.cache
def _outputs(model: nn.Module) -> Callable[..., jax.Array]:
  return jax.jit(functools.partial(model.apply, train=False))


def _labelled(members: Members | None) -> Any:
  """Returns scenes of one digit with its class as the target."""
  assert members is not None
  pool = members.pool
  labels = jnp.asarray(pool.targets)[:, 0, -1].astype(jnp.int32)
  return members._replace(pool=pool._replace(targets=labels, counted=None))
