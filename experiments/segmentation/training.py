"""Trains one net after the other, and tests it on crops and on whole scenes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lab.data.batch import Batch
from experiments.lab.models import nets
from experiments.lab.models.norms import norm_factory
from experiments.lab.study import Parts, Run
from experiments.lab.training import lanes
from experiments.lab.training.batches import Shuffled
from experiments.lab.training.engine import Engine
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.losses import cross_entropy
from experiments.lab.training.step import Update
from experiments.segmentation.digits import digits
from experiments.segmentation.metric import mean_iou
from experiments.segmentation.model import UNet
from experiments.segmentation.options import BATCHES, GROUPS, Config
from experiments.segmentation.scenes import (
  Look,
  Sets,
  Task,
  sets,
  shapes,
  tiles,
)
from normjax.linen import reestimate

PyTree = Any

REESTIMATED = 256  # Crops of the training for re-estimating statistics.
SHOWN = 3  # Scenes of which the answers are kept, for the figure.
# Mean IoU on crops and on whole scenes, in percent; percent of the pixels in
# the middle third of a crop that get another class in the whole scene.
MEASURED = ("crops", "whole", "changed")
AGAIN = 500_000  # What is added to a seed for other kernels and batches.


def load_task(config: Config, run: Run) -> Task:
  """Returns the task; loads the images of digits if it needs them."""
  look = Look(config.side, config.lighting)
  if config.task == "digits":
    images = run.load_images(
      config.dataset, train_fraction=0.8, halved=config.halve
    )
    return digits(images, look)
  run.data = config.task
  return shapes(look)


class Trainer:
  """The compiled functions of a norm; nets are trained one after the other.

  Lanes would have to be unrolled, because they are convolutions, and take as
  many times longer to compile.
  """

  def __init__(self, norm: str, config: Config, task: Task):
    self.task, self.config = task, config
    groups = {"num_groups": GROUPS} if norm == "gn" else {}
    self.model = UNet(
      norm=norm_factory(norm, **groups),
      num_classes=len(task.classes),
      hidden=config.hidden,
      convolutions=config.convolutions,
    )
    # Takes no memory; every net brings its own crops.
    shape = (config.examples, config.crop, config.crop, 1)
    blank = np.broadcast_to(np.float32(0), shape)
    crops = Batch(blank, np.broadcast_to(np.int32(0), shape[:-1]))
    self._engines = {
      size: Engine(
        self.model,
        Update(cross_entropy(), swept(optax.adam)),
        Shuffled(crops, size),
        sample=blank[:1],
        gain=config.gain,
        scan=nets.scans_convolutions(),
      )
      for size in BATCHES
    }
    # What does not depend on the batch size is compiled once.
    self._first = self._engines[BATCHES[0]]
    self._predict = jax.jit(self._classes, static_argnames="train")

  def _classes(self, variables: PyTree, x: Any, train: bool) -> jax.Array:
    logits, _ = self.model.apply(
      variables, x, train=train, mutable=["batch_stats"]
    )
    return jnp.argmax(logits, axis=-1)

  def predicted(
    self, variables: PyTree, inputs: Any, size: int = 0
  ) -> np.ndarray:
    """Returns the class of each pixel.

    Args:
      variables: Of one net.
      inputs: Images `[n, height, width, 1]`.
      size: If given, batch norm uses the statistics of every batch of this
        size; otherwise those that it has.
    """
    step = size or len(inputs)
    parts = [
      self._predict(variables, inputs[at : at + step], train=size > 0)
      for at in range(0, len(inputs), step)
    ]
    return np.concatenate(parts)

  def result(
    self, size: int, rate: float, seed: int, again: bool
  ) -> dict[str, Any]:
    """Trains a net with batches of a size, and tests it; see `train`."""
    drawn = self.sets(seed, again)
    engine = self._engines[size]
    engine.source = Shuffled(drawn.train, size)  # Of the same shapes.
    state = self._first.init([seed + AGAIN * again], learning_rate=[rate])
    state, _ = engine.train(state, engine.source.period * self.config.epochs)
    variables = lanes.one(state.variables, 0)
    validation = self._tested(variables, drawn.validation)["crops"]
    found = self._tested(variables, drawn.test)
    other, batch = found, found["crops"]
    if "batch_stats" in variables:
      crops = drawn.train.inputs[:REESTIMATED]
      batches = range(0, len(crops) // size * size, size)
      inputs = [crops[at : at + size] for at in batches]
      population = reestimate(self.model, variables, inputs, train=False)
      other = self._tested(population, drawn.test)
      batch = self._in_batches(variables, drawn.test, size)
    renamed = {f"{name}, re-estimated": other[name] for name in MEASURED}
    return found | renamed | {"missed": 100 - validation, "crops, batch": batch}

  def sets(self, seed: int, again: bool = False) -> Sets:
    """Returns the examples of a seed."""
    config = self.config
    return _sets(
      self.task, seed, config.crop, config.examples, config.test, again
    )

  def _tiles(self, array: Any) -> Any:
    return tiles(array, self.config.crop)

  def _tested(self, variables: PyTree, test: Batch) -> dict[str, Any]:
    """Returns what `MEASURED` names, and the classes of some whole scenes."""
    truth, count = np.asarray(test.targets), len(self.task.classes)
    whole = self.predicted(variables, test.inputs)
    parts = self.predicted(variables, self._tiles(test.inputs))
    margin = self.config.crop // 3
    inner = slice(margin, self.config.crop - margin)
    differs = (self._tiles(whole) != parts)[:, inner, inner]
    return {
      "crops": mean_iou(self._tiles(truth), parts, count),
      "whole": mean_iou(truth, whole, count),
      "changed": 100 * differs.mean(),
      "shown": whole[:SHOWN].astype(np.uint8),
    }

  def _in_batches(
    self, variables: PyTree, test: Batch, size: int
  ) -> np.floating:
    """Returns the mean IoU on crops with the statistics of each batch.

    A batch has crops of different scenes, as in training.
    """
    inputs, truth = self._tiles(test.inputs), np.asarray(test.targets)
    order = np.random.default_rng(0).permutation(len(inputs))
    found = self.predicted(variables, np.asarray(inputs)[order], size)
    classes = len(self.task.classes)
    return mean_iou(self._tiles(truth)[order], found, classes)


@functools.lru_cache(maxsize=10)  # As many as there are seeds by default.
def _sets(
  task: Task, seed: int, crop: int, train: int, test: int, again: bool
) -> Sets:
  """Draws the examples of a seed once for all arms."""
  more = AGAIN * again
  return sets(task, seed, crop=crop, train=train, test=test, again=more)


def train(
  trainer: Trainer,
  size: int,
  rates: Sequence[float],
  seeds: Sequence[int],
  again: bool = False,
) -> Parts:
  """Returns the results `[rates, seeds]` of an arm.

  Args:
    trainer: Trains the norm of the arm.
    size: Batch size of the arm.
    rates, seeds: Learning rates, and seeds for each.
    again: Whether to take other kernels and batches, tested on the same scenes.

  Returns:
    Arrays `[rates, seeds, ...]`: what `MEASURED` names, with running and with
    "re-estimated" statistics; "crops, batch", with those of each batch;
    "missed", 100 minus the mean IoU on crops for the validation; and "shown",
    the classes of some scenes.
  """
  found = [
    trainer.result(size, rate, seed, again) for rate in rates for seed in seeds
  ]
  stacked = {name: np.stack([net[name] for net in found]) for name in found[0]}
  return lanes.by_rate(stacked, len(rates))
