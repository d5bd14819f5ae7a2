"""Trains and tests the seeds and rates of an arm."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import tuning
from experiments.lab.study import Parts
from experiments.lab.training import lanes
from experiments.policy import cart_pole
from experiments.policy.agent import Agent, State
from experiments.policy.options import Arm, Config
from normjax import linen

PyTree = Any
RATES = tuning.half_decades(-8, -4)


def evaluate(
  agent: Agent,
  state: State,
  scales: jax.Array,
  key: jax.Array,
  variables: PyTree,
  *,
  train: bool,
) -> jax.Array:
  """Returns the mean return of a new episode of every environment.

  Args:
    agent: The agent.
    state: Gives the moments of observations.
    scales: Factors of the observations.
    key: Draws starts and actions.
    variables: Variables of the net.
    train: Whether batch norm uses the statistics of the observations of all
      environments at this time. Where an episode has ended, another one goes
      on, so that there are always as many.
  """
  start_key, key = jax.random.split(key)

  def decide(observed: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
    x = agent.inputs(state, scales, observed)
    answer, _ = agent.answer(variables, x, train=train)
    return jax.random.categorical(key, answer.logits), None

  poles = cart_pole.start(start_key, agent.config.environments)
  _, done, _ = agent.played(decide, poles, key, agent.config.longest)
  return 1 + jnp.mean(jnp.argmax(done.ended, axis=0), dtype=jnp.float32)


def _trained(
  agent: Agent, seed: jax.Array, rate: jax.Array, scales: jax.Array
) -> dict[str, jax.Array]:
  """Trains with one seed; see `train`."""
  init_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
  state = agent.init(init_key, scales)

  def turn(state: State, key: jax.Array) -> Any:
    rollout_key, update_key = jax.random.split(key)
    state, seen = agent.rollout(state, scales, rollout_key)
    state, apart = agent.update(state, seen, rate, update_key)
    return state, (jnp.mean(state.lengths), apart, seen.observed)

  state, (curve, apart, observed) = jax.lax.scan(
    turn, state, jax.random.split(train_key, agent.config.updates)
  )
  tested = functools.partial(evaluate, agent, state, scales, test_key)
  found = {"curve": curve, "divergence": apart}
  if "batch_stats" not in state.variables:
    return found | {"running": tested(state.variables, train=False)}
  x = observed[-1].reshape(-1, cart_pole.OBSERVED)
  again = linen.reestimate(agent.net, state.variables, [x], train=False)
  both = jax.tree.map(lambda *x: jnp.stack(x), state.variables, again)
  running, reestimated = jax.vmap(functools.partial(tested, train=False))(both)
  return found | {
    "running": running,
    "re-estimated": reestimated,
    "batch": tested(state.variables, train=True),
  }


@functools.cache
def _compiled(arm: Arm, config: Config) -> Any:
  """Returns the compiled training of a seed at a rate."""
  return jax.jit(functools.partial(_trained, Agent(arm, config)))


def train(
  arm: Arm,
  scales: Sequence[float],
  config: Config,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  """Trains an arm.

  Args:
    arm: How observations are normalized.
    scales: Factors of the four observations.
    config: The settings.
    rates, seeds: Learning rates, and seeds for each.

  Returns:
    `[rates, seeds]`: mean returns after training, "running", and where there
    are running statistics also "re-estimated" (on the last rollout) and "batch"
    (acting by the statistics of all environments); "return", that of the
    statistics with which the arm acts; "validation", its negative. Also
    `[rates, seeds, updates]`: "curve", the mean length of the last whole
    episode of every environment, and "divergence", KL(acting || updating) in
    nats at the start of every update.
  """
  run = _compiled(arm, config)
  factors = jnp.asarray(scales, jnp.float32)

  def of_lane(rate: float, seed: int) -> Parts:
    found = run(jnp.uint32(seed), jnp.float32(rate), factors)
    return {name: np.asarray(x, np.float64) for name, x in found.items()}

  # One after the other: on CPUs as fast as all at once, and the same code for
  # any number of rates and seeds, which takes longer to compile than to run.
  found = lanes.each(of_lane, rates, seeds)
  found["return"] = found[arm.acts]
  found["validation"] = -found["return"]
  return found
