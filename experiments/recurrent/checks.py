"""Identities of the nets, which need no training."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.data.batch import Batch
from experiments.recurrent import nets, task
from experiments.recurrent.options import Config

PyTree = Any
_COUNT = 16  # Sequences.


def alone(config: Config, norm: str) -> float:
  """Returns by how much the answers depend on the rest of the batch.

  Args:
    config: The cell and its size.
    norm: Name of the norm.

  Returns:
    The largest difference of an answer in training mode, with the others and
    with itself instead, over the largest answer.
  """
  model, variables, batch = _net(config, norm)
  together = _answers(model, variables, batch)[0]
  # Twice each, because batch norm needs two values.
  pairs = batch.some(np.stack([np.arange(_COUNT)] * 2, axis=1))
  answer = functools.partial(_answers, model, variables)
  by_itself = jax.jit(jax.vmap(answer))(pairs)[0][:, 0]
  return float(jnp.abs(together - by_itself).max() / jnp.abs(together).max())


def padding(config: Config, norm: str) -> float:
  """Returns by how much answers and statistics depend on the padding.

  Args:
    config, norm: As in `alone`.

  Returns:
    The largest difference if the padding holds NaN instead of numbers.
  """
  model, variables, batch = _net(config, norm)
  assert batch.mask is not None
  empty = jnp.where(batch.mask[..., None], batch.inputs, jnp.nan)
  both = [
    _answers(model, variables, each)
    for each in (batch, batch._replace(inputs=empty))
  ]
  differences = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), *both)
  return float(np.max([*map(float, jax.tree.leaves(differences))]))


def _net(config: Config, norm: str) -> tuple[nets.Reader, PyTree, Batch]:
  model = nets.Reader(
    config.cell, nets.norm_of(norm, config.length), config.units, 1
  )
  init_key, draw_key = jax.random.split(jax.random.key(config.seed))
  batch = task.draw_sums(draw_key, config.lengths, _COUNT)
  variables = model.init(init_key, batch.inputs, batch.mask, train=False)
  return model, variables, batch


def _answers(
  model: nets.Reader, variables: PyTree, batch: Batch
) -> tuple[jax.Array, PyTree]:
  """Returns the answers in training mode, and the new statistics."""
  found: tuple[jax.Array, PyTree] = model.apply(
    variables, batch.inputs, batch.mask, train=True, mutable=["batch_stats"]
  )
  return found
