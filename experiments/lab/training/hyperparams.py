"""Optimizers whose hyperparameters differ between lanes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def swept(
  optimizer: Callable[..., optax.GradientTransformation], *names: str
) -> optax.GradientTransformation:
  """Returns an optimizer with a learning rate per lane.

  Args:
    optimizer: Called as `optimizer(learning_rate=..., **others)`.
    *names: Other hyperparameters that differ between lanes.
  """
  ones = dict.fromkeys(("learning_rate", *names), 1.0)
  return optax.inject_hyperparams(optimizer)(**ones)


def with_values(
  opt_states: tuple[optax.OptState, ...], name: str, values: jax.Array
) -> tuple[optax.OptState, ...]:
  """Returns optimizer states with new values of a hyperparameter.

  Args:
    opt_states: States of the updates of a step; those without this
      hyperparameter are unchanged.
    name: Name of the hyperparameter.
    values: One value per lane.

  Raises:
    ValueError: No optimizer has it.
  """

  def has_it(opt_state: Any) -> bool:
    return name in getattr(opt_state, "hyperparams", {})

  if not any(map(has_it, opt_states)):
    raise ValueError(
      f"No optimizer has a {name} per lane; make one with `swept`."
    )
  return tuple(
    # A copy for each, because an array must not be donated twice.
    opt_state._replace(
      hyperparams={**opt_state.hyperparams, name: jnp.array(values, copy=True)}
    )
    if has_it(opt_state)
    else opt_state
    for opt_state in opt_states
  )
