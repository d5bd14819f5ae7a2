"""Backbones that a detector gets from a classifier, and their norms."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from experiments.lab.study import Parts
from experiments.lab.training.step import TrainState
from normjax.linen import frozen_mask


def handed_over(state: TrainState, found: Parts, rates: int) -> TrainState:
  """Returns the state of detectors with the backbones of classifiers.

  Args:
    state: State of every lane.
    found: From `Trainer.pretrain`, `[seeds, ...]`.
    rates: Number of learning rates.
  """
  backbone = traverse_util.unflatten_dict(
    {
      name: jnp.array(np.concatenate([leaf] * rates))
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


def mask(model: nn.Module, sample: Any) -> Any:
  """Returns which parameters are the gains and biases of batch norms."""
  init = functools.partial(model.init, train=False)
  return frozen_mask(jax.eval_shape(init, jax.random.key(0), sample))


def norms(variables: Any) -> list[np.ndarray]:
  """Returns the gains, biases and statistics of all norms, on the host."""
  flat = traverse_util.flatten_dict(variables, sep="/")
  return [np.asarray(v) for name, v in sorted(flat.items()) if "Norm_" in name]


def changes(before: list[np.ndarray], after: list[np.ndarray]) -> np.ndarray:
  """Returns the largest change of every lane, `[lanes]`."""
  changes = [
    np.abs(old - new).reshape(len(old), -1).max(axis=1)
    for old, new in zip(before, after, strict=True)
  ]
  largest: np.ndarray = np.max(changes, axis=0)
  return largest
