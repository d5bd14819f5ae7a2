"""The classifier of a seed, whose features and answers measure samples."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util

from experiments.lab.data.arrays import Pool
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.study import Parts
from experiments.lab.training import classification

_HIDDEN = (128, 32)
_FEATURES = "Dense_1"  # The second hidden layer, before its ReLU.
_BATCH = 64
_RATE = 1e-3  # Of Adam.
_STEPS = 1_000


def _model(classes: int) -> MLP:
  return MLP(norm=norm_factory("none"), hidden=_HIDDEN, num_classes=classes)


def train(pool: Pool, seeds: Sequence[int]) -> Parts:
  """Trains a classifier on the training images of every seed.

  Args:
    pool: Images from which each seed draws, from 0 to 1.
    seeds: The seeds.

  Returns:
    The parameters by path, `{"Dense_0/kernel": [seeds, ...]}`, and "accuracy",
    percent of each seed's test images, `[seeds]`.
  """
  images = pool.split(seeds)
  engine, state, _ = classification.train_at_rates(
    _model(pool.num_classes),
    optax.adam,
    images,
    batch_size=_BATCH,
    seeds=seeds,
    rates=[_RATE],
    steps=_STEPS,
  )
  error = classification.error(engine, state.variables, images.test)
  params = traverse_util.flatten_dict(state.params, sep="/")
  return {**jax.tree.map(np.asarray, params), "accuracy": 100 - error}


class Yardstick:
  """The trained classifier of one seed."""

  def __init__(self, trained: Mapping[str, Any], number: int, classes: int):
    """Takes the classifier at a position of what `train` returned."""
    params = {k: v[number] for k, v in trained.items() if k != "accuracy"}
    self._params = traverse_util.unflatten_dict(params, sep="/")
    self._model = _model(classes)

  def features(self, images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns features `[n, 32]` and classes `[n]` of images from 0 to 1."""
    features, logits = _called(self._model, self._params, images)
    return np.asarray(features), np.asarray(logits).argmax(axis=-1)

  def shares(self, classes: np.ndarray) -> np.ndarray:
    """Returns the share of every class, `[classes]`."""
    counts = np.bincount(classes, minlength=self._model.num_classes)
    return counts / len(classes)


@functools.partial(jax.jit, static_argnums=0)
def _called(
  model: MLP, params: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
  logits, state = model.apply(
    {"params": params},
    images,
    train=False,
    capture_intermediates=lambda module, _: module.name == _FEATURES,
  )
  (features,) = state["intermediates"][_FEATURES]["__call__"]
  return features, logits
