"""Training a policy: act, update, and so on, in one compiled function."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import struct

from experiments.lab import options, parsers, tuning
from experiments.lab.models import kernels
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.study import Parts
from experiments.lab.training import lanes
from experiments.policy import cart_pole, ppo
from experiments.policy.cart_pole import CartPoles
from experiments.policy.nets import ActorCritic, Answer, standardized
from normjax import functional, linen

RATES = tuning.half_decades(-8, -4)
PyTree = Any


class Arm(NamedTuple):
  """How observations are normalized.

  Attributes:
    norm: Norm of the hidden layers.
    standardize: Whether observations are divided by the standard deviation of
      all that were seen so far.
    acts: Statistics of batch norm while acting: "running", or "batch": those of
      the observations of all environments at this time.
  """

  norm: str = "none"
  standardize: bool = False
  acts: str = "running"


ARMS = {
  "none": Arm(),
  "standardized inputs": Arm(standardize=True),
  "ln": Arm("ln"),
  "bn": Arm("bn"),
  "bn, acting on batches": Arm("bn", acts="batch"),
}
NATURAL = (1.0, 1.0, 1.0, 1.0)


class ScalesParser(flags.ArgumentParser):
  """A positive number for each observation."""

  def parse(self, argument: str) -> tuple[float, ...]:
    parts = [part for part in str(argument).split(",") if part.strip()]
    scales = tuple(map(parsers.POSITIVE.convert, parts))
    if len(scales) != cart_pole.OBSERVED:
      raise ValueError(
        f"must be {cart_pole.OBSERVED} numbers, for the position, its velocity,"
        " the angle and its velocity, such as 100,100,0.01,0.01."
      )
    return scales


@dataclasses.dataclass(frozen=True)
class Config(options.TuningConfig):
  """The net, and how long it acts and trains."""

  scales: tuple[float, ...] = option(
    (100.0, 100.0, 0.01, 0.01),
    "Factors of the four observations (position, its velocity, angle, its"
    " velocity) where these are badly scaled.",
    ScalesParser(),
  )
  hidden: tuple[int, ...] = option(
    (256, 256), "Width of each hidden layer.", parsers.COUNTS
  )
  environments: int = option(
    32, "Environments that act at once.", flags.IntegerParser(lower_bound=2)
  )
  horizon: int = option(32, "Steps of each between updates.", parsers.COUNT)
  updates: int = option(40, "Updates of the policy.", parsers.COUNT)
  epochs: int = option(4, "Epochs of an update.", parsers.COUNT)
  parts: int = option(4, "Batches of an epoch.", parsers.COUNT)
  longest: int = option(500, "Steps that end an episode.", parsers.COUNT)


@struct.dataclass
class State:
  """A training: the net, its optimizer, and where the environments are.

  Attributes:
    params, stats: Parameters and running statistics of the net.
    opt_state: Of the optimizer.
    seen: Moments of all observations.
    poles: The environments.
    lengths: Steps of the last whole episode of each.
  """

  params: PyTree
  stats: PyTree
  opt_state: Any
  seen: functional.Moments
  poles: CartPoles
  lengths: jax.Array


class Trainer:
  """Trains an arm; `scales` and `rate` are arrays, so compiled code serves all.

  Attributes:
    net: The net.
    arm, config: The settings.
  """

  def __init__(self, arm: Arm, config: Config):
    self.arm, self.config = arm, config
    # As Lillicrap et al. did: also the observations.
    self.net = ActorCritic(
      norm_factory(arm.norm), arm.norm == "bn", config.hidden, cart_pole.ACTIONS
    )

  def optimizer(self, rate: jax.Array) -> optax.GradientTransformation:
    """Returns Adam with a rate that falls linearly to zero."""
    config = self.config
    steps = config.updates * config.epochs * config.parts
    return optax.chain(
      optax.clip_by_global_norm(0.5),
      optax.adam(lambda step: rate * (1 - step / steps), eps=1e-5),
    )

  def init(self, key: jax.Array, scales: jax.Array, rate: jax.Array) -> State:
    """Returns the state before the first action."""
    keys = jax.random.split(key, 3)
    count = self.config.environments
    sample = jnp.zeros((1, cart_pole.OBSERVED))
    variables = dict(self.net.init(keys[0], sample, train=False))
    params = kernels.scaled(variables.pop("params"), self.config.gain)

    def at_random(poles: CartPoles, key: jax.Array) -> Any:
      keys = jax.random.split(key)
      actions = jax.random.randint(keys[0], (count,), 0, cart_pole.ACTIONS)
      after = cart_pole.step(poles, actions, keys[1], self.config.longest).poles
      return after, after.observed * scales

    random = jax.random.split(keys[2], self.config.horizon)
    poles = cart_pole.start(keys[1], count)
    _, observed = jax.lax.scan(at_random, poles, random)
    return State(
      params,
      variables.get("batch_stats", {}),
      self.optimizer(rate).init(params),
      functional.moments(observed, axes=(0, 1)),
      poles,
      jnp.zeros(count),
    )

  def answer(
    self, params: PyTree, stats: PyTree, x: jax.Array, train: bool
  ) -> tuple[Answer, PyTree]:
    """Returns what the net says, and its new running statistics."""
    answer, changed = self.net.apply(
      {"params": params, "batch_stats": stats},
      x,
      train=train,
      mutable=["batch_stats"],
    )
    return answer, changed.get("batch_stats", stats)

  def inputs(
    self, observed: jax.Array, seen: functional.Moments, scales: jax.Array
  ) -> jax.Array:
    """Returns what the net gets for observations `[..., 4]`."""
    x = observed * scales
    return standardized(x, seen) if self.arm.standardize else x

  def rollout(
    self, state: State, scales: jax.Array, key: jax.Array
  ) -> tuple[State, ppo.Rollout]:
    """Lets the policy act; returns what was seen, `[horizon, n]`."""
    answers = functools.partial(
      self.answer, state.params, state.stats, train=self.arm.acts == "batch"
    )

    def act(carry: tuple[CartPoles, jax.Array], key: jax.Array) -> Any:
      poles, lengths = carry
      keys = jax.random.split(key)
      x = self.inputs(poles.observed, state.seen, scales)
      answer, _ = answers(x)
      actions = jax.random.categorical(keys[0], answer.logits)
      done = cart_pole.step(poles, actions, keys[1], self.config.longest)
      lengths = jnp.where(done.ended, done.length, lengths)
      return (done.poles, lengths), (x, answer, actions, done)

    (poles, lengths), (x, answer, actions, done) = jax.lax.scan(
      act,
      (state.poles, state.lengths),
      jax.random.split(key, self.config.horizon),
    )
    after = self.inputs(done.reached, state.seen, scales)
    # Each time has its own batch, as while acting.
    next_values = jax.vmap(answers)(after)[0].value
    gains = ppo.advantages(
      jnp.ones_like(answer.value),
      answer.value,
      next_values,
      done.fell,
      done.ended,
    )
    seen = functional.moments(done.reached * scales, axes=(0, 1))
    state = state.replace(
      poles=poles,
      lengths=lengths,
      seen=functional.merge_moments(state.seen, seen),
    )
    return state, ppo.Rollout(
      x, actions, answer.logits, gains, gains + answer.value
    )

  def update(
    self, state: State, seen: ppo.Rollout, rate: jax.Array, key: jax.Array
  ) -> tuple[State, jax.Array]:
    """Returns the state after some epochs, and KL(acting || updating).

    The divergence is that of the first batch, where both have the same
    parameters.
    """
    config, optimizer = self.config, self.optimizer(rate)
    seen = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen)
    count = len(seen.actions)

    def objective(params: PyTree, stats: PyTree, batch: ppo.Rollout) -> Any:
      answer, stats = self.answer(params, stats, batch.observed, train=True)
      apart = ppo.divergence(batch.logits, answer.logits).mean()
      return ppo.loss(answer, batch), (stats, apart)

    def improve(carry: Any, chosen: jax.Array) -> Any:
      params, stats, opt_state = carry
      batch = jax.tree.map(lambda x: x[chosen], seen)
      gradients, (stats, apart) = jax.grad(objective, has_aux=True)(
        params, stats, batch
      )
      changes, opt_state = optimizer.update(gradients, opt_state, params)
      params = optax.apply_updates(params, changes)
      return (params, stats, opt_state), apart

    orders = jax.vmap(lambda key: jax.random.permutation(key, count))(
      jax.random.split(key, config.epochs)
    )
    chosen = orders[:, : count // config.parts * config.parts]
    (params, stats, opt_state), apart = jax.lax.scan(
      improve,
      (state.params, state.stats, state.opt_state),
      chosen.reshape(config.epochs * config.parts, -1),
    )
    state = state.replace(params=params, stats=stats, opt_state=opt_state)
    return state, apart[0]

  def evaluate(
    self, state: State, scales: jax.Array, key: jax.Array, batch: bool
  ) -> jax.Array:
    """Returns the mean return of one new episode of every environment."""
    config = self.config
    keys = jax.random.split(key)
    poles = cart_pole.start(keys[0], config.environments)

    def act(carry: Any, key: jax.Array) -> Any:
      poles, alive, total = carry
      keys = jax.random.split(key)
      x = self.inputs(poles.observed, state.seen, scales)
      answer, _ = self.answer(state.params, state.stats, x, train=batch)
      actions = jax.random.categorical(keys[0], answer.logits)
      done = cart_pole.step(poles, actions, keys[1], config.longest)
      return (done.poles, alive & ~done.ended, total + alive.sum()), None

    carry = poles, jnp.ones(config.environments, bool), jnp.zeros(())
    (_, _, total), _ = jax.lax.scan(
      act, carry, jax.random.split(keys[1], config.longest)
    )
    return total / config.environments

  def train(
    self, seed: jax.Array, rate: jax.Array, scales: jax.Array
  ) -> dict[str, jax.Array]:
    """Trains with one seed; returns what `train` does, without axes."""
    keys = jax.random.split(jax.random.key(seed), 3)
    state = self.init(keys[0], scales, rate)

    def one(state: State, key: jax.Array) -> Any:
      keys = jax.random.split(key)
      state, seen = self.rollout(state, scales, keys[0])
      state, apart = self.update(state, seen, rate, keys[1])
      return state, (state.lengths.mean(), apart, seen.observed[-1])

    state, (lengths, apart, _) = jax.lax.scan(
      one, state, jax.random.split(keys[1], self.config.updates)
    )
    found = {"curve": lengths, "divergence": apart}
    for name, batch in (("running", False), ("batch", True)):
      found[name] = self.evaluate(state, scales, keys[2], batch)
    return found


@functools.cache
def compiled(arm: Arm, config: Config) -> Any:
  train = Trainer(arm, config).train
  return jax.jit(lanes.vmapped(train, in_axes=(0, 0, None)))


def train(
  arm: Arm,
  scales: Sequence[float],
  config: Config,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  numbers = jnp.asarray([*seeds] * len(rates), jnp.uint32)
  found = compiled(arm, config)(
    numbers, lanes.per_lane(rates, len(seeds)), jnp.asarray(scales, jnp.float32)
  )
  found = {k: np.asarray(v) for k, v in found.items()}
  found["validation"] = -found[arm.acts]
  return lanes.by_rate(found, len(rates))
