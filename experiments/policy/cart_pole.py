"""The cart-pole: a pole on a cart that is pushed left or right.

Many environments at once: every function takes arrays `[..., n]` of them. The
equations are those of Barto, Sutton & Anderson, 1983, appendix,
https://doi.org/10.1109/TSMC.1983.6313077, without friction, as in Gym's
CartPole-v1. There, a step is one of Euler's method; an episode ends when the
cart is more than 2.4 m from the middle or the pole more than 12 degrees from
the vertical, and is cut off after 500 steps. Every step gives a reward of one,
so that the return is the number of steps.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

GRAVITY = 9.8  # m/s²
CART, POLE = 1.0, 0.1  # Masses in kg.
HALF = 0.5  # Half of the length of the pole, in m.
FORCE = 10.0  # N
SECONDS = 0.02  # Of a step.
FARTHEST = 2.4  # m
STEEPEST = math.radians(12)
START = 0.05  # Every number starts uniformly within this of zero.
ACTIONS = 2  # Left, right.
OBSERVED = 4  # Position (m), velocity, angle of the pole (radians), velocity.

Thought = TypeVar("Thought")  # What a decision brings besides actions.


class CartPoles(NamedTuple):
  """Environments.

  Attributes:
    observed: Position, velocity, angle and its velocity, `[n, 4]`.
    steps: Steps since the start of the episode, `[n]`.
  """

  observed: jax.Array
  steps: jax.Array


class Step(NamedTuple):
  """What a step gives.

  Attributes:
    poles: The environments, in which an episode that ended has begun anew.
    reached: What was reached before that, `[n, 4]`.
    fell: Whether the episode ended by a failure, `[n]`.
    ended: Whether it ended, by a failure or after the longest time, `[n]`.
    length: Steps of the episode so far, `[n]`.
  """

  poles: CartPoles
  reached: jax.Array
  fell: jax.Array
  ended: jax.Array
  length: jax.Array


def start(key: jax.Array, count: int) -> CartPoles:
  """Returns environments at the start of an episode."""
  observed = jax.random.uniform(
    key, (count, OBSERVED), minval=-START, maxval=START
  )
  return CartPoles(observed, jnp.zeros(count, jnp.int32))


def in_units(observed: jax.Array, scales: jax.Array) -> jax.Array:
  """Returns observations `[..., 4]` times their factors `[4]`."""
  return observed * jnp.expand_dims(scales, range(observed.ndim - 1))


def moved(observed: jax.Array, actions: jax.Array) -> jax.Array:
  """Returns where a step leads.

  Args:
    observed: Position, velocity, angle and its velocity, `[n, 4]`.
    actions: 0 for a push to the left, 1 to the right, `[n]`.

  Returns:
    The same four numbers 0.02 seconds later.

  >>> print(moved(jnp.zeros((1, 4)), jnp.array([1])).round(3))
  [[ 0.     0.195  0.    -0.293]]
  """
  _, velocity, angle, turning = jnp.moveaxis(observed, -1, 0)
  force = jnp.where(actions == 1, FORCE, -FORCE)
  sine, cosine = jnp.sin(angle), jnp.cos(angle)
  mass = CART + POLE
  push = (force + POLE * HALF * turning**2 * sine) / mass
  spin = (GRAVITY * sine - cosine * push) / (
    HALF * (4 / 3 - POLE * cosine**2 / mass)
  )
  pull = push - POLE * HALF * spin * cosine / mass
  change = jnp.stack([velocity, pull, turning, spin], axis=-1)
  return observed + SECONDS * change


def step(
  poles: CartPoles, actions: jax.Array, key: jax.Array, longest: int
) -> Step:
  """Takes a step in every environment; where an episode ends, one begins.

  Args:
    poles: The environments.
    actions: 0 for a push to the left, 1 to the right, `[n]`.
    key: Draws where new episodes start.
    longest: Steps after which an episode is cut off.
  """
  reached = moved(poles.observed, actions)
  length = poles.steps + 1
  fell = (jnp.abs(reached[:, 0]) > FARTHEST) | (
    jnp.abs(reached[:, 2]) > STEEPEST
  )
  ended = fell | (length >= longest)
  again = start(key, len(length))
  poles = CartPoles(
    jnp.where(ended[:, None], again.observed, reached),
    jnp.where(ended, again.steps, length),
  )
  return Step(poles, reached, fell, ended, length)


def played(
  decide: Callable[[jax.Array, jax.Array], tuple[jax.Array, Thought]],
  poles: CartPoles,
  key: jax.Array,
  *,
  steps: int,
  longest: int,
) -> tuple[CartPoles, Step, Thought]:
  """Takes many steps in every environment.

  Args:
    decide: Returns actions `[n]` and anything else for what is observed,
      `[n, 4]`, and a key.
    poles: The environments.
    key: Draws actions and starts.
    steps: How many steps to take.
    longest: As in `step`.

  Returns:
    The environments afterwards; and with a leading axis of steps, all of them
    and what `decide` returned besides the actions.
  """

  def once(
    poles: CartPoles, key: jax.Array
  ) -> tuple[CartPoles, tuple[Step, Thought]]:
    chance, start_key = jax.random.split(key)
    actions, thought = decide(poles.observed, chance)
    done = step(poles, actions, start_key, longest)
    return done.poles, (done, thought)

  poles, (done, thoughts) = jax.lax.scan(
    once, poles, jax.random.split(key, steps)
  )
  return poles, done, thoughts


def last_lengths(done: Step, before: jax.Array) -> jax.Array:
  """Returns the length of the last episode that ended, `[n]`.

  Args:
    done: Steps `[t, n]`.
    before: What to return where none ended, `[n]`.
  """
  lengths = jnp.where(done.ended, done.length, 0)
  last = len(lengths) - 1 - jnp.argmax(done.ended[::-1], axis=0)
  found = jnp.take_along_axis(lengths, last[None], axis=0)[0]
  return jnp.where(done.ended.any(axis=0), found, before)
