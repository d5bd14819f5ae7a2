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
from experiments.policy.cart_pole import CartPoles, Step
from experiments.policy.nets import ActorCritic, Answer, standardized
from experiments.policy.options import Arm, Config
from normjax import functional

PyTree = Any


@struct.dataclass
class State:
  """What changes in a training.

  Attributes:
    variables: Parameters and running statistics of the net.
    opt_state: State of the optimizer.
    seen: Moments of all observations so far, if they are standardized.
    poles: The environments.
    lengths: Steps of the last whole episode of each environment, zero before
      its end.
  """

  variables: Mapping[str, PyTree]
  opt_state: optax.OptState
  seen: functional.Moments | None
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
    """Returns the state before the first action."""
    net_key, start_key, random_key = jax.random.split(key, 3)
    sample = jnp.zeros((1, cart_pole.OBSERVED))
    variables = dict(self.net.init(net_key, sample, train=False))
    variables["params"] = kernels.scaled(variables["params"], self.config.gain)
    poles = cart_pole.start(start_key, self.config.environments)
    return State(
      variables,
      ppo.optimizer(0.0, 1).init(variables["params"]),
      self._seen_at_random(poles, scales, random_key),
      poles,
      jnp.zeros(self.config.environments, jnp.int32),
    )

  def _seen_at_random(
    self, poles: CartPoles, scales: jax.Array, key: jax.Array
  ) -> functional.Moments | None:
    """Returns the moments of a rollout with random actions."""
    if not self.arm.standardize:
      return None

    def decide(observed: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
      shape = observed.shape[:1]
      return jax.random.randint(key, shape, 0, cart_pole.ACTIONS), None

    _, done, _ = self.played(decide, poles, key)
    return _moments(done, scales)

  def played(
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

  def inputs(
    self, state: State, scales: jax.Array, observed: jax.Array
  ) -> jax.Array:
    x = cart_pole.in_units(observed, scales)
    return x if state.seen is None else standardized(x, state.seen)

  def rollout(
    self, state: State, scales: jax.Array, key: jax.Array
  ) -> tuple[State, ppo.Rollout]:
    """Lets the policy act; returns what was seen, `[t, n]`."""
    inputs = functools.partial(self.inputs, state, scales)
    answers = functools.partial(
      self.answer, state.variables, train=self.arm.acts == "batch"
    )

    def decide(observed: jax.Array, key: jax.Array) -> Any:
      x = inputs(observed)
      answer, _ = answers(x)
      actions = jax.random.categorical(key, answer.logits)
      return actions, (x, actions, answer)

    poles, done, (x, actions, answer) = self.played(decide, state.poles, key)
    # Mapped over time, so that batches are those of acting.
    reached, _ = jax.vmap(answers)(inputs(done.reached))
    gains = ppo.advantages(
      jnp.full_like(answer.value, ppo.REWARD),
      answer.value,
      reached.value,
      done.fell,
      done.ended,
    )
    seen = state.seen
    if seen is not None:
      seen = functional.merge_moments(seen, _moments(done, scales))
    lengths = cart_pole.last_lengths(done, state.lengths)
    state = dataclasses.replace(state, poles=poles, lengths=lengths, seen=seen)
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


def _moments(done: Step, scales: jax.Array) -> functional.Moments:
  reached = cart_pole.in_units(done.reached, scales)
  return functional.moments(reached, axes=(0, 1))
