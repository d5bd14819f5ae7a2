"""Early stopping, which keeps the best variables of each seed."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

PyTree = Any


@struct.dataclass
class Stopping:
  """The best variables of a seed so far, and whether it has stopped.

  Attributes:
    best_variables: Variables at the best evaluation.
    best_loss: Validation loss at the best evaluation; infinite before the
      first.
    best_step: Step of the best evaluation; 0 means the initial variables.
    waited: Number of evaluations since the best one.
    stopped: Whether the seed has stopped; then nothing here changes any more.
    diverged: Whether it stopped because a loss was not finite.
  """

  best_variables: PyTree
  best_loss: jax.Array
  best_step: jax.Array
  waited: jax.Array
  stopped: jax.Array
  diverged: jax.Array


def start(variables: PyTree) -> Stopping:
  """Returns the state before the first evaluation."""
  return Stopping(
    best_variables=variables,
    best_loss=jnp.full((), jnp.inf, jnp.float32),
    best_step=jnp.zeros((), jnp.int32),
    waited=jnp.zeros((), jnp.int32),
    stopped=jnp.zeros((), bool),
    diverged=jnp.zeros((), bool),
  )


def update(
  stopping: Stopping,
  variables: PyTree,
  train_loss: jax.Array,
  val_loss: jax.Array,
  step: jax.Array,
  *,
  patience: int,
  min_delta: float,
) -> Stopping:
  """Updates the state with an evaluation.

  Args:
    stopping: State of one seed; the next three are of the same seed.
    variables: Current variables.
    train_loss: Training loss since the last evaluation.
    val_loss: Current validation loss.
    step: Number of steps taken.
    patience: Stop after this many evaluations without improvement.
    min_delta: The validation loss improves if it is below the best by more than
      this.

  Returns:
    The new state; the old one if the seed had stopped before.
  """
  finite = jnp.isfinite(train_loss) & jnp.isfinite(val_loss)
  running = ~stopping.stopped
  improved = running & finite & (val_loss < stopping.best_loss - min_delta)
  diverged = stopping.diverged | (running & ~finite)
  waited = jnp.where(improved, 0, stopping.waited + running.astype(jnp.int32))
  return Stopping(
    best_variables=jax.tree.map(
      lambda new, old: jnp.where(improved, new, old),
      variables,
      stopping.best_variables,
    ),
    best_loss=jnp.where(improved, val_loss, stopping.best_loss),
    best_step=jnp.where(improved, step, stopping.best_step),
    waited=waited,
    stopped=stopping.stopped | diverged | (waited >= patience),
    diverged=diverged,
  )
