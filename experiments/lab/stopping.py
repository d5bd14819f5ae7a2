"""Early stopping, which keeps the best epoch of a seed."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from experiments.lab.train_step import Sums

PyTree = Any


@struct.dataclass
class Stopping:
  """Early stopping: the best epoch of a seed, and whether it is done.

  Attributes:
    best_params, best_batch_stats: After the best epoch.
    best_loss: Validation loss of the best epoch; infinite before the first.
    best_epoch: Counted from 1; 0 stands for the initial parameters.
    waited: Epochs since the best one.
    stopped: Whether the seed is done; nothing here changes any more.
    diverged: Whether it is done because a loss was not finite.
  """

  best_params: PyTree
  best_batch_stats: PyTree
  best_loss: jax.Array
  best_epoch: jax.Array
  waited: jax.Array
  stopped: jax.Array
  diverged: jax.Array


def start(params: PyTree, batch_stats: PyTree) -> Stopping:
  """Returns the state before the first epoch."""
  return Stopping(
    best_params=params,
    best_batch_stats=batch_stats,
    best_loss=jnp.full((), jnp.inf, jnp.float32),
    best_epoch=jnp.zeros((), jnp.int32),
    waited=jnp.zeros((), jnp.int32),
    stopped=jnp.zeros((), bool),
    diverged=jnp.zeros((), bool),
  )


def update(
  stopping: Stopping,
  variables: tuple[PyTree, PyTree],
  train: Sums,
  validation: Sums,
  epoch: jax.Array,
  *,
  patience: int,
  min_delta: float,
) -> Stopping:
  """Takes an epoch into account.

  Args:
    stopping: One seed's, as are the following three.
    variables: Parameters and batch statistics after the epoch.
    train, validation: The epoch's metrics.
    epoch: Its number, from 1.
    patience: Stop after this many epochs without improvement.
    min_delta: What counts as one: a validation loss below the best by more
      than this.

  Returns:
    The new state; the old one, where the seed had stopped before.
  """
  val_loss = validation.loss / validation.count
  finite = jnp.isfinite(train.loss) & jnp.isfinite(val_loss)
  running = ~stopping.stopped
  improved = running & finite & (val_loss < stopping.best_loss - min_delta)
  diverged = stopping.diverged | (running & ~finite)
  waited = jnp.where(improved, 0, stopping.waited + running.astype(jnp.int32))
  best_params, best_batch_stats = jax.tree.map(
    lambda new, old: jnp.where(improved, new, old),
    variables,
    (stopping.best_params, stopping.best_batch_stats),
  )
  return Stopping(
    best_params=best_params,
    best_batch_stats=best_batch_stats,
    best_loss=jnp.where(improved, val_loss, stopping.best_loss),
    best_epoch=jnp.where(improved, epoch, stopping.best_epoch),
    waited=waited,
    stopped=stopping.stopped | diverged | (waited >= patience),
    diverged=diverged,
  )
