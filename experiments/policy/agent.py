"""An agent: it acts, it updates its net, and so on.

The lab's engine is for batches that do not depend on the net. Here the net
itself chooses what it sees. Shapes: n environments, t steps.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from experiments.lab.models import kernels
from experiments.lab.models.norms import norm_factory
from experiments.policy import cart_pole, ppo
from experiments.policy.cart_pole import CartPoles
from experiments.policy.nets import ActorCritic, Answer, standardized
from experiments.policy.options import Arm, Config
from normjax import functional, linen

PyTree = Any


@struct.dataclass
class State:
  """What changes in a training.

  Attributes:
    variables: Parameters and running statistics of the net.
    opt_state: State of the optimizer.
    seen: Moments of all observations so far.
    poles: The environments.
    lengths: Steps of the last whole episode of each environment, zero before
      its end.
  """

  variables: Mapping[str, PyTree]
  opt_state: optax.OptState
  seen: functional.Moments
  poles: CartPoles
  lengths: jax.Array


class Agent:
  """The training of one arm.

  Attributes:
    arm, config: The settings.
    net: The net.
  """

  def __init__(self, arm: Arm, config: Config):
    self.arm, self.config = arm, config
    # As in Lillicrap et al., batch norm also normalizes the observations.
    self.net = ActorCritic(
      norm_factory(arm.norm), norm_inputs=arm.norm == "bn", hidden=config.hidden
    )

  def init(self, key: jax.Array, scales: jax.Array) -> State:
    """Returns the state before the first action.

    The moments of observations are those of one rollout with random actions.
    """
    net_key, start_key, random_key = jax.random.split(key, 3)
    count = self.config.environments
    sample = jnp.zeros((1, cart_pole.OBSERVED))
    variables = dict(self.net.init(net_key, sample, train=False))
    variables["params"] = kernels.scaled(variables["params"], self.config.gain)

    def at_random(
      observed: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, None]:
      return jax.random.randint(key, (count,), 0, cart_pole.ACTIONS), None

    poles = cart_pole.start(start_key, count)
    _, done, _ = self._played(at_random, poles, random_key)
    return State(
      variables,
      ppo.optimizer(0.0, 1).init(variables["params"]),
      functional.moments(cart_pole.in_units(done.reached, scales), axes=(0, 1)),
      poles,
      jnp.zeros(count, jnp.int32),
    )

  def _played(
    self, decide: Any, poles: CartPoles, key: jax.Array, steps: int = 0
  ) -> Any:
    config = self.config
    return cart_pole.played(
      decide,
      poles,
      key,
      steps=steps or config.horizon,
      longest=config.longest,
    )

  def answer(
    self, variables: PyTree, x: jax.Array, *, train: bool
  ) -> tuple[Answer, PyTree]:
    """Returns the answer to inputs `[n, 4]`, and the variables afterwards."""
    answer, changed = self.net.apply(
      variables, x, train=train, mutable=["batch_stats"]
    )
    return answer, {**variables, **changed}

  def _inputs(
    self, state: State, scales: jax.Array, observed: jax.Array
  ) -> jax.Array:
    x = cart_pole.in_units(observed, scales)
    return standardized(x, state.seen) if self.arm.standardize else x

  def rollout(
    self, state: State, scales: jax.Array, key: jax.Array
  ) -> tuple[State, ppo.Rollout]:
    """Lets the policy act; returns what was seen, `[t, n]`."""
    inputs = functools.partial(self._inputs, state, scales)
    answers = functools.partial(
      self.answer, state.variables, train=self.arm.acts == "batch"
    )

    def decide(observed: jax.Array, key: jax.Array) -> Any:
      x = inputs(observed)
      answer, _ = answers(x)
      actions = jax.random.categorical(key, answer.logits)
      return actions, (x, actions, answer)

    poles, done, (x, actions, answer) = self._played(decide, state.poles, key)
    # Mapped over time, so that batches are those of acting.
    reached, _ = jax.vmap(answers)(inputs(done.reached))
    gains = ppo.advantages(
      jnp.full_like(answer.value, ppo.REWARD),
      answer.value,
      reached.value,
      done.fell,
      done.ended,
    )
    more = functional.moments(
      cart_pole.in_units(done.reached, scales), axes=(0, 1)
    )
    state = dataclasses.replace(
      state,
      poles=poles,
      lengths=cart_pole.last_lengths(done, state.lengths),
      seen=functional.merge_moments(state.seen, more),
    )
    returns = gains + answer.value
    return state, ppo.Rollout(x, actions, answer.logits, gains, returns)

  def update(
    self, state: State, seen: ppo.Rollout, rate: jax.Array, key: jax.Array
  ) -> tuple[State, jax.Array]:
    """Returns the state after an update, and KL(acting || updating).

    The divergence is that of the first batch, where the parameters are still
    those that acted.
    """
    config = self.config
    optimizer = ppo.optimizer(
      rate, config.updates * config.epochs * config.batches
    )
    seen = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen)

    def objective(params: PyTree, variables: PyTree, batch: ppo.Rollout) -> Any:
      variables = {**variables, "params": params}
      answer, variables = self.answer(variables, batch.observed, train=True)
      apart = ppo.divergence(batch.logits, answer.logits).mean()
      return ppo.loss(answer, batch), (variables, apart)

    def improve(carry: Any, chosen: jax.Array) -> Any:
      variables, opt_state = carry
      params = variables["params"]
      batch = jax.tree.map(lambda x: x[chosen], seen)
      gradients, (variables, apart) = jax.grad(objective, has_aux=True)(
        params, variables, batch
      )
      changes, opt_state = optimizer.update(gradients, opt_state, params)
      params = optax.apply_updates(params, changes)
      return ({**variables, "params": params}, opt_state), apart

    orders = jax.vmap(jax.random.permutation, in_axes=(0, None))(
      jax.random.split(key, config.epochs), len(seen.actions)
    )
    used = config.batches * config.batch_size
    (variables, opt_state), apart = jax.lax.scan(
      improve,
      (state.variables, state.opt_state),
      orders[:, :used].reshape(-1, config.batch_size),
    )
    return dataclasses.replace(
      state, variables=variables, opt_state=opt_state
    ), apart[0]

  def evaluate(
    self, state: State, scales: jax.Array, key: jax.Array, *, train: bool
  ) -> jax.Array:
    """Returns the mean return of a new episode of every environment.

    Args:
      state: Gives the net.
      scales: Factors of the observations.
      key: Draws starts and actions.
      train: Whether batch norm uses the statistics of the observations of all
        environments at this time. Where an episode has ended, another one goes
        on, so that there are always as many.
    """
    start_key, key = jax.random.split(key)

    def decide(observed: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
      x = self._inputs(state, scales, observed)
      answer, _ = self.answer(state.variables, x, train=train)
      return jax.random.categorical(key, answer.logits), None

    poles = cart_pole.start(start_key, self.config.environments)
    _, done, _ = self._played(decide, poles, key, self.config.longest)
    return 1 + jnp.mean(jnp.argmax(done.ended, axis=0), dtype=jnp.float32)

  def train(
    self, seed: jax.Array, rate: jax.Array, scales: jax.Array
  ) -> dict[str, jax.Array]:
    """Trains with one seed; see `training.train`."""
    init_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
    state = self.init(init_key, scales)

    def turn(state: State, key: jax.Array) -> Any:
      rollout_key, update_key = jax.random.split(key)
      state, seen = self.rollout(state, scales, rollout_key)
      state, apart = self.update(state, seen, rate, update_key)
      return state, (jnp.mean(state.lengths), apart, seen.observed)

    state, (curve, apart, observed) = jax.lax.scan(
      turn, state, jax.random.split(train_key, self.config.updates)
    )
    evaluate = functools.partial(
      self.evaluate, scales=scales, key=test_key, train=False
    )
    found = {"curve": curve, "divergence": apart, "running": evaluate(state)}
    if "batch_stats" in state.variables:
      size = self.config.batch_size
      x = observed[-1].reshape(-1, cart_pole.OBSERVED)
      batches = [x[at : at + size] for at in range(0, len(x), size)]
      again = linen.reestimate(self.net, state.variables, batches, train=False)
      found["re-estimated"] = evaluate(
        dataclasses.replace(state, variables=again)
      )
      found["batch"] = evaluate(state, train=True)
    return found
