"""Training: the classifier that gives a backbone, and the detectors."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util

from experiments.detection import backbone, grid, scenes
from experiments.detection.config import (
  CHECKS,
  FINE_TUNED,
  LEARNED,
  SHOWN,
  SIZES,
  Arm,
  Config,
)
from experiments.detection.nets import Classifier, Detector
from experiments.lab import tuning
from experiments.lab.data.arrays import Images, Pool
from experiments.lab.data.batch import Members
from experiments.lab.models import nets
from experiments.lab.models.norms import norm_factory
from experiments.lab.study import Parts
from experiments.lab.training import classification, lanes, losses, optimizers
from experiments.lab.training.batches import Shuffled
from experiments.lab.training.engine import Engine
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.losses import Loss
from experiments.lab.training.step import Update
from normjax.linen import frozen

Start = Callable[[Sequence[int]], Parts]

_REESTIMATED = 1_024  # Scenes to re-estimate batch statistics over.


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
    model = _model(Classifier, "bn", self._config.hidden, images.num_classes)
    size = max(SIZES)
    loss = losses.cross_entropy(images.prepare)
    engine = self._engine(model, loss, images, size, self._config.steps)
    state = engine.init(seeds, learning_rate=rates)
    state, _ = engine.train(state, self._config.steps)
    validation = engine.evaluate(state.variables, _some(images.validation))
    kept = {name: v["backbone"] for name, v in state.variables.items()}
    return lanes.by_rate(
      {
        "validation": validation["loss"],
        "error": classification.error(engine, state.variables, images.test),
        **traverse_util.flatten_dict(kept, sep="/"),
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
      the last one with re-estimated batch statistics; further "outputs" for the
      first test scenes, and "change", the largest change of a number of a norm.
    """
    kind, size = arm
    steps = self._config.steps_of(arm)
    judged = [*seeds] == [*self._config.seed_numbers]
    images = self.images(seeds, len(rates))
    norm = kind if kind in LEARNED else "bn"
    engine = self._engine(
      _model(Detector, norm, self._config.hidden, images.num_classes),
      grid.loss(images.prepare),
      images,
      size,
      steps,
      kept=kind == "frozen",
    )
    state = engine.init(
      [seed + tuning.AGAIN * again for seed in seeds], learning_rate=rates
    )
    if kind in FINE_TUNED:
      state = backbone.handed_over(state, start(seeds), len(rates))
    before = backbone.norms(state.variables)
    found: dict[str, Any] = {}
    curve = []
    with frozen() if kind == "frozen" else contextlib.nullcontext():
      for _ in range(CHECKS):
        state, _ = engine.train(state, steps // CHECKS)
        if judged:
          curve.append(grid.tested(engine.model, state.variables, images.test))
    if judged:
      found["ap"] = np.stack(curve, axis=1)
      variables = state.variables
      if norm == "bn" and kind != "frozen":
        some = images.train.first(_REESTIMATED)
        source = Shuffled(some, min(128, some.num_examples), ordered=True)
        variables = engine.reestimate(variables, source)
      found["reestimated"] = grid.tested(engine.model, variables, images.test)
      first = images.test.first(SHOWN).lane
      found["outputs"] = np.stack(
        [
          grid.answers(
            engine.model, lanes.one(state.variables, at), first(at).inputs
          )
          for at in range(len(seeds))
        ]
      )
      if kind != "none":
        found["change"] = backbone.changes(
          before, backbone.norms(state.variables)
        )
    validation = _some(images.validation)
    found["validation"] = 1 - grid.tested(
      engine.model, state.variables, validation
    )
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

  def _engine(
    self,
    model: nn.Module,
    loss: Loss,
    images: Images[Members],
    size: int,
    steps: int,
    kept: bool = False,
  ) -> Engine:
    """Returns an engine; `kept` is whether gains and biases do not train."""
    key = (model, size, steps, kept)
    source = Shuffled(images.train, size)
    if key not in self._engines:
      mask = backbone.mask(model, images.sample) if kept else None

      def optimizer(learning_rate: float) -> optax.GradientTransformation:
        return _adam(learning_rate, steps, mask)

      self._engines[key] = Engine(
        model,
        Update(loss, swept(optimizer)),
        source,
        sample=images.sample,
        gain=self._config.gain,
        scan=nets.scans_convolutions(),
        apart=True,
      )
    return self._engines[key].on(source)


@functools.cache  # So that equal nets are the same, and compiled once.
def _model(
  kind: type[Classifier] | type[Detector],
  norm: str,
  hidden: tuple[int, ...],
  classes: int,
) -> nn.Module:
  return kind(norm_factory(norm), hidden, classes)


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


def _some(members: Members | None) -> Members:
  assert members is not None
  return members
