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
from typing import NamedTuple

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
  position, velocity, angle, turning = jnp.moveaxis(observed, -1, 0)
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
