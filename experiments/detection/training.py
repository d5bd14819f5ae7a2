"""Training: the classifier that gives a backbone, and the detectors."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
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
from experiments.lab.training.step import TrainState, Update
from normjax.linen import frozen, frozen_mask

RATES = tuning.half_decades(-6, -2)
SIZES = (2, 16)
CHECKS = 5  # How often average precision is taken during a training.
AGAIN = 500_000  # What is added to a seed for other kernels and batches.
LEARNED = ("bn", "gn", "none")  # Norms of the nets without pre-training.
FINE_TUNED = ("trained", "frozen")  # What becomes of pre-trained batch norms.

Arm = tuple[str, int]  # One of `LEARNED` or `FINE_TUNED`; batch size.
Start = Callable[[Sequence[int]], Parts]

_REESTIMATED = 1_024  # Scenes to re-estimate batch statistics over.


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


class Trainer:
  """Trains classifiers and detectors on the scenes of any seeds.

  It keeps scenes and engines, so that they are drawn and compiled once.
  """

  def __init__(self, config: Config, pool: Pool):
    self._config = config
    self._pool = pool
    self._engines: dict[Any, Engine] = {}
    self._scenes: dict[Any, Images[Members]] = {}

  def pretrain(self, rates: Sequence[float], seeds: Sequence[int]) -> Parts:
    """Trains nets with batch norms to classify scenes of one digit.

    Returns:
      `[rates, seeds, ...]`: "validation", the cross-entropy; "error", the test
      error in percent; and the variables of the backbone by their paths.
    """
    images = self.images(seeds, len(rates), whole=False)
    model = self._model(Classifier, "bn")
    size = max(SIZES)
    loss = losses.cross_entropy(images.prepare)
    engine = self._engine(model, loss, images, size)
    state = engine.init(seeds, learning_rate=rates)
    state, _ = engine.train(state, self._config.examples // size)
    validation = engine.evaluate(state.variables, _some(images.validation))
    backbone = {name: v["backbone"] for name, v in state.variables.items()}
    return lanes.by_rate(
      {
        "validation": validation["loss"],
        "error": classification.error(engine, state.variables, images.test),
        **traverse_util.flatten_dict(backbone, sep="/"),
      },
      len(rates),
    )

  def train(
    self,
    arm: Arm,
    start: Start,
    rates: Sequence[float],
    seeds: Sequence[int],
    again: bool = False,
  ) -> Parts:
    """Trains detectors.

    Args:
      arm: What to train; see `Arm`.
      start: Returns what `pretrain` found for seeds, `[seeds, ...]`.
      rates, seeds: Learning rates, and seeds for each.
      again: Whether to take other kernels and batches, on the same scenes.

    Returns:
      `[rates, seeds, ...]`: "validation", one minus the average precision on
      the validation scenes. For the seeds to judge, also that on the test
      scenes: "ap", after each `CHECKS`-th of the training, and "reestimated",
      the last one with re-estimated batch statistics.
    """
    kind, size = arm
    judged = [*seeds] == [*self._config.seed_numbers]
    images = self.images(seeds, len(rates))
    norm = kind if kind in LEARNED else "bn"
    engine = self._engine(
      self._model(Detector, norm),
      grid.loss(images.prepare),
      images,
      size,
      kept=kind == "frozen",
    )
    state = engine.init(
      [seed + AGAIN * again for seed in seeds], learning_rate=rates
    )
    if kind in FINE_TUNED:
      state = _with_backbone(state, start(seeds), len(rates))
    found: dict[str, Any] = {}
    curve = []
    steps = self._config.examples // size // CHECKS
    with frozen() if kind == "frozen" else contextlib.nullcontext():
      for _ in range(CHECKS):
        state, _ = engine.train(state, steps)
        if judged:
          curve.append(tested(engine.model, state.variables, images.test))
    if judged:
      found["ap"] = np.stack(curve, axis=1)
      variables = state.variables
      if norm == "bn" and kind != "frozen":
        some = images.train.first(_REESTIMATED)
        source = Shuffled(some, min(128, some.num_examples), ordered=True)
        variables = engine.reestimate(variables, source)
      found["reestimated"] = tested(engine.model, variables, images.test)
    validation = _some(images.validation)
    found["validation"] = 1 - tested(engine.model, state.variables, validation)
    return lanes.by_rate(found, len(rates))

  def images(
    self, seeds: Sequence[int], rates: int = 1, whole: bool = True
  ) -> Images[Members]:
    """Returns the scenes of seeds; see `scenes.load`.

    Args:
      seeds, rates: Seeds, and number of learning rates.
      whole: Whether they are for detectors. Those for classifiers are smaller,
        with one digit, whose label is the target.
    """
    key = (*seeds, rates, whole)
    if key not in self._scenes:
      sizes = self._config.sizes(whole)
      found = scenes.load(self._pool, sizes, seeds, rates)
      self._scenes[key] = found if whole else scenes.labelled(found)
    return self._scenes[key]

  def _model(self, made: Any, norm: str) -> nn.Module:
    model: nn.Module = made(
      norm_factory(norm), self._config.hidden, self._pool.num_classes
    )
    return model

  def _engine(
    self,
    model: nn.Module,
    loss: Loss,
    images: Images[Members],
    size: int,
    kept: bool = False,
  ) -> Engine:
    """Returns an engine; `kept` is whether gains and biases do not train."""
    key = (type(model), str(model), size, kept)
    source = Shuffled(images.train, size)
    if key not in self._engines:
      steps = self._config.examples // size
      mask = _mask(model, images.sample) if kept else None
      self._engines[key] = Engine(
        model,
        Update(loss, swept(lambda learning_rate: _adam(learning_rate, steps, mask))),
        source,
        sample=images.sample,
        scan=nets.scans_convolutions(),
        apart=True,
      )
    return self._engines[key].on(source)


def tested(
  model: nn.Module, variables: Any, members: Members
) -> np.ndarray:
  """Returns the average precision of every lane on its scenes, `[lanes]`."""
  found = []
  for lane in range(len(members.chosen)):
    own = members.lane(lane)
    outputs = answers(model, lanes.one(variables, lane), own.inputs)
    found.append(average_precision(grid.detections(outputs), grid.true(own)))
  return np.array(found)


def answers(model: nn.Module, variables: Any, inputs: Any) -> np.ndarray:
  """Returns the outputs of a detector for scenes, which are bytes."""
  return np.asarray(_compiled(model)(variables, scenes.prepare(inputs)))


@functools.cache
def _compiled(model: nn.Module) -> Callable[..., jax.Array]:
  return jax.jit(functools.partial(model.apply, train=False))


def _adam(
  learning_rate: float, steps: int, mask: Any
) -> optax.GradientTransformation:
  """Returns Adam; parameters where a mask is true do not train."""
  adam = optimizers.adamw(
    learning_rate=learning_rate,
    warmup_steps=steps // 20,
    schedule="cosine",
    steps=steps,
    weight_decay=0.0,
    clip_norm=0.0,
  )
  if mask is None:
    return adam
  return optax.selective_transform(adam, freeze_mask=mask)


def _mask(model: nn.Module, sample: Any) -> Any:
  """Returns which parameters are the gains and biases of batch norms."""
  init = functools.partial(model.init, train=False)
  return frozen_mask(jax.eval_shape(init, jax.random.key(0), sample))


def _with_backbone(state: TrainState, found: Parts, rates: int) -> TrainState:
  """Returns the state with the backbones that `pretrain` found."""
  backbone = traverse_util.unflatten_dict(
    {
      name: jnp.concatenate([jnp.asarray(leaf)] * rates)
      for name, leaf in found.items()
      if "/" in name
    },
    sep="/",
  )
  return dataclasses.replace(
    state,
    params={**state.params, "backbone": backbone["params"]},
    collections={"batch_stats": {"backbone": backbone["batch_stats"]}},
  )


def _some(members: Members | None) -> Members:
  assert members is not None
  return members
