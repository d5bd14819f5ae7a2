"""Trains one net after the other, and tests it on crops and on whole scenes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lab import options, parsers
from experiments.lab.data.batch import Batch
from experiments.lab.errors import RefusedError
from experiments.lab.models import nets
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.study import Parts
from experiments.lab.training import lanes
from experiments.lab.training.batches import Drawn
from experiments.lab.training.engine import Engine
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.losses import cross_entropy
from experiments.lab.training.step import Update
from experiments.segmentation.metric import mean_iou
from experiments.segmentation.model import UNet
from experiments.segmentation.scenes import Task, crops, tiles
from normjax.linen import reestimate

PyTree = Any
Arm = tuple[str, int]  # Norm, batch size.

NORMS = ("none", "bn", "gn", "ln", "in")
BATCHES = (2, 16)
# Two channels or more in a group; with the eight groups of other studies, group
# norm would be instance norm where there are eight channels.
GROUPS = 4
REESTIMATED = 256  # Crops for re-estimating statistics.
SHOWN = 3  # Scenes of which the answers are kept, for the figure.
# Mean IoU on crops and on whole scenes, in percent; percent of the pixels in
# the middle third of a crop that get another class in the whole scene.
MEASURED = ("crops", "whole", "changed")
AGAIN = 500_000  # What is added to a seed for other kernels and batches.


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The task, the net, and how long to train."""

  task: str = option(
    "shapes",
    "shapes: disks and bars on stripes; digits: zeros and ones among halves of"
    " all digits.",
    parsers.one_of(("shapes", "digits")),
  )
  examples: int = option(
    1_920, "Crops to train on, whatever the batch size.", parsers.COUNT
  )
  side: int = option(48, "Height and width of a scene, pixels.", parsers.COUNT)
  crop: int = option(
    24, "Height and width of the crops to train on, pixels.", parsers.COUNT
  )
  lighting: float = option(
    1.0,
    "How much the light differs between scenes: a gain of up to two to this"
    " power, and an offset of up to this.",
    parsers.NOT_NEGATIVE,
  )
  hidden: tuple[int, ...] = option(
    (8, 16, 32),
    "Channels of each level of the U-Net, from the largest maps on.",
    parsers.COUNTS,
  )
  convolutions: int = option(
    1, "Convolutions of a level in each direction.", parsers.COUNT
  )
  test: int = option(64, "Scenes of the test set of a seed.", parsers.COUNT)

  def unused(self) -> dict[str, str]:
    if self.task == "digits":
      return super().unused()
    return dict.fromkeys(
      ("dataset", "halve", "data_dir"), "on shapes, which are generated"
    )

  def check(self) -> None:
    """Raises RefusedError if the settings do not fit together."""
    step = 2 ** (len(self.hidden) - 1)
    if self.crop % step or self.side % self.crop:
      raise RefusedError(
        f"--crop must be a multiple of {step}, because {len(self.hidden)}"
        " levels halve it, and --side a multiple of --crop; got"
        f" --crop={self.crop} and --side={self.side}."
      )
    if any(width % GROUPS for width in self.hidden):
      raise RefusedError(
        f"Each number of --hidden must be a multiple of {GROUPS}, because group"
        f" norm has {GROUPS} groups; got {','.join(map(str, self.hidden))}."
      )
    if self.examples < max(BATCHES):
      raise RefusedError(
        f"--examples must be at least {max(BATCHES)}, the largest batch; got"
        f" {self.examples}."
      )


class Trainer:
  """The compiled functions of an arm; nets are trained one after the other.

  Lanes would have to be unrolled, because they are convolutions, and take as
  many times longer to compile.
  """

  def __init__(self, arm: Arm, config: Config, task: Task):
    norm, self.size = arm
    self.task, self.config = task, config
    groups = {"num_groups": GROUPS} if norm == "gn" else {}
    self.model = UNet(
      norm=norm_factory(norm, **groups),
      num_classes=len(task.classes),
      hidden=config.hidden,
      convolutions=config.convolutions,
    )
    self.engine = Engine(
      self.model,
      Update(cross_entropy(), swept(optax.adam)),
      Drawn(self._draw, task.train, self.size),
      sample=jnp.zeros((1, config.crop, config.crop, 1)),
      eval_size=256,
      gain=config.gain,
      scan=nets.scans_convolutions(),
    )
    self._predict = jax.jit(self._classes, static_argnames="train")

  def _draw(self, key: jax.Array, data: PyTree, size: int) -> Batch:
    scenes_key, crops_key = jax.random.split(key)
    scenes = self.task.draw(scenes_key, data, size)
    return crops(crops_key, scenes, self.config.crop)

  def _classes(self, variables: PyTree, x: Any, train: bool) -> jax.Array:
    logits, _ = self.model.apply(
      variables, x, train=train, mutable=["batch_stats"]
    )
    return jnp.argmax(logits, axis=-1)

  def predicted(
    self, variables: PyTree, inputs: np.ndarray, size: int = 0
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

  def result(self, rate: float, seed: int, again: bool) -> dict[str, Any]:
    """Trains and tests a net; see `train`."""
    state = self.engine.init([seed + AGAIN * again], learning_rate=[rate])
    state, _ = self.engine.train(state, self.config.examples // self.size)
    validation, test, more = self.sets(seed)
    validation = jax.tree.map(self._tiles, validation)
    loss = self.engine.evaluate(state.variables, validation)["loss"][0]
    variables = lanes.one(state.variables, 0)
    found = self._tested(variables, test)
    other, batch = found, found["crops"]
    if "batch_stats" in variables:
      batches = range(0, REESTIMATED, self.size)
      inputs = [more.inputs[at : at + self.size] for at in batches]
      population = reestimate(self.model, variables, inputs, train=False)
      other = self._tested(population, test)
      batch = self._in_batches(variables, test)
    renamed = {f"{name}, re-estimated": other[name] for name in MEASURED}
    return found | renamed | {"validation": loss, "crops, batch": batch}

  def sets(self, seed: int) -> tuple[Batch, Batch, Batch]:
    """Returns scenes for validation and test, and crops like in training."""
    config, key = self.config, jax.random.key(seed)
    keys = [jax.random.fold_in(key, number) for number in range(3)]
    return (
      self.task.draw(keys[0], self.task.validation, config.test),
      self.task.draw(keys[1], self.task.test, config.test),
      self._draw(keys[2], self.task.train, REESTIMATED),
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

  def _in_batches(self, variables: PyTree, test: Batch) -> np.floating:
    """Returns the mean IoU on crops with the statistics of each batch.

    A batch has crops of different scenes, as in training.
    """
    inputs, truth = self._tiles(test.inputs), np.asarray(test.targets)
    order = np.random.default_rng(0).permutation(len(inputs))
    found = self.predicted(variables, np.asarray(inputs)[order], self.size)
    classes = len(self.task.classes)
    return mean_iou(self._tiles(truth)[order], found, classes)


def train(
  trainer: Trainer,
  rates: Sequence[float],
  seeds: Sequence[int],
  again: bool = False,
) -> Parts:
  """Returns the results `[rates, seeds]` of an arm.

  Args:
    trainer: Trains the arm.
    rates, seeds: Learning rates, and seeds for each.
    again: Whether to take other kernels and batches, tested on the same scenes.

  Returns:
    Arrays `[rates, seeds, ...]`: what `MEASURED` names, with running and with
    "re-estimated" statistics; "crops, batch", with those of each batch;
    "validation", the cross-entropy; and "shown", the classes of some scenes.
  """
  found = [
    trainer.result(rate, seed, again) for rate in rates for seed in seeds
  ]
  stacked = {name: np.stack([net[name] for net in found]) for name in found[0]}
  return lanes.by_rate(stacked, len(rates))
