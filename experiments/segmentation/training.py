"""Trains one net after the other, and tests it on crops and on whole scenes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lab import tuning
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
from experiments.segmentation.options import (
  BATCHES,
  GROUPS,
  NORMS,
  SHAPES,
  Arm,
  Config,
)
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

RATES = tuning.half_decades(-7, -3)
REESTIMATED = 256  # Crops of the training for re-estimating statistics.
SHOWN = 3  # Scenes of which the answers are kept, for the figure.
# Mean IoU on crops and on whole scenes, in percent; percent of the pixels in
# the middle third of a crop that get another class in the whole scene.
MEASURED = ("crops", "whole", "changed")


def load_tasks(config: Config, run: Run) -> tuple[Task, Task]:
  """Returns the task, and the same in one light; loads digits if needed."""
  looks = [Look(config.side, lighting) for lighting in (config.lighting, 0.0)]
  if config.dataset == SHAPES:
    run.data = SHAPES
    task, same_light = map(shapes, looks)
  else:
    images = run.load_images(
      config.dataset, train_fraction=0.8, halved=config.halve
    )
    task, same_light = (digits(images, look) for look in looks)
  return task, same_light


def drawn(task: Task, config: Config, seed: int) -> Sets:
  """Returns the examples of a seed."""
  return sets(
    task, seed, crop=config.crop, train=config.crops, test=config.test
  )


class Trainer:
  """The compiled functions of a norm; nets are trained one after the other.

  Lanes would have to be unrolled, because they are convolutions, and take as
  many times longer to compile.
  """

  def __init__(self, norm: str, config: Config, classes: int):
    self.config, self.classes = config, classes
    groups = {"num_groups": GROUPS} if norm == "gn" else {}
    self.model = UNet(
      norm=norm_factory(norm, **groups),
      num_classes=classes,
      hidden=config.hidden,
      convolutions=config.convolutions,
    )
    # Takes no memory; every net brings its own crops.
    shape = (config.crops, config.crop, config.crop, 1)
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
    self, size: int, rate: float, seed: int, task: Task
  ) -> dict[str, Any]:
    """Trains a net with batches of a size, and tests it; see `train`."""
    examples = drawn(task, self.config, seed)
    engine = self._engines[size].on(Shuffled(examples.train, size))
    state = self._first.init([seed], learning_rate=[rate])
    state, _ = engine.train(state, engine.source.period * self.config.epochs)
    variables = lanes.one(state.variables, 0)
    validation = self._tested(variables, examples.validation)["crops"]
    found = self._tested(variables, examples.test)
    other, batch = found, found["crops"]
    if "batch_stats" in variables:
      crops = examples.train.inputs[:REESTIMATED]
      batches = range(0, len(crops) // size * size, size)
      inputs = [crops[at : at + size] for at in batches]
      population = reestimate(self.model, variables, inputs, train=False)
      other = self._tested(population, examples.test)
      batch = self._in_batches(variables, examples.test, size)
    renamed = {f"{name}, re-estimated": other[name] for name in MEASURED}
    return found | renamed | {"missed": 100 - validation, "crops, batch": batch}

  def _tiles(self, array: Any) -> Any:
    return tiles(array, self.config.crop)

  def _tested(self, variables: PyTree, test: Batch) -> dict[str, Any]:
    """Returns what `MEASURED` names, and the classes of some whole scenes."""
    truth, count = np.asarray(test.targets), self.classes
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
    return mean_iou(self._tiles(truth)[order], found, self.classes)


def train(
  trainer: Trainer,
  size: int,
  task: Task,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  """Returns the results `[rates, seeds]` of an arm.

  Args:
    trainer: Trains the norm of the arm.
    size: Batch size of the arm.
    task: The task; its scenes have the size that `trainer` knows.
    rates, seeds: Learning rates, and seeds for each.

  Returns:
    Arrays `[rates, seeds, ...]`: what `MEASURED` names, with running and with
    "re-estimated" statistics; "crops, batch", with those of each batch;
    "missed", 100 minus the mean IoU on crops for the validation; and "shown",
    the classes of some scenes.
  """
  return lanes.each(
    lambda rate, seed: trainer.result(size, rate, seed, task), rates, seeds
  )


def train_all(
  tasks: tuple[Task, Task], config: Config, run: Run
) -> tuple[dict[Arm, Parts], dict[str, Parts]]:
  """Returns the results of every arm at its best rate, and of the controls.

  Args:
    tasks: From `load_tasks`.
    config: The settings.
    run: Keeps the results.

  Returns:
    Results by arm; and those of batch and group norm in the same light, with
    the smaller batches, by norm.
  """
  task, same_light = tasks
  arms: dict[Arm, Parts] = {}
  controls: dict[str, Parts] = {}
  for norm in NORMS:
    trainer = Trainer(norm, config, len(task.classes))
    for size in BATCHES:
      part = functools.partial(train, trainer, size, task)
      arms[norm, size] = tuning.tuned(
        run, f"{norm}_{size}", part, RATES, config, by="missed"
      )
    if norm in ("bn", "gn"):
      controls[norm] = tuning.at_rate(
        run,
        f"{norm}_same_light",
        functools.partial(train, trainer, BATCHES[0], same_light),
        float(arms[norm, BATCHES[0]]["rate"]),
        config.seed_numbers,
      )
  return arms, controls
