"""Proximal policy optimization: its advantages and its loss.

Schulman et al., 2017, https://arxiv.org/abs/1707.06347. Shapes: t steps, n
environments.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.policy.nets import Answer

DISCOUNT, DECAY = 0.99, 0.95  # Gamma and lambda of the source, table 3.
CLIP = 0.2
# Of a step; a value is then between zero and one.
REWARD = 1 - DISCOUNT
LARGEST = 0.5  # Norm of gradients.
VALUE_WEIGHT, ENTROPY_WEIGHT = 0.5, 0.01


class Rollout(NamedTuple):
  """What was seen while acting, `[t, n]`; in the update, `[examples]`.

  Attributes:
    observed: Observations, `[..., 4]`, as the net got them.
    actions: Actions taken.
    logits: Logits of the policy that acted, `[..., actions]`.
    advantages: Advantages of the actions.
    returns: What the value should be.
  """

  observed: jax.Array
  actions: jax.Array
  logits: jax.Array
  advantages: jax.Array
  returns: jax.Array


def advantages(
  rewards: jax.Array,
  values: jax.Array,
  next_values: jax.Array,
  fell: jax.Array,
  ended: jax.Array,
) -> jax.Array:
  """Returns generalized advantage estimates `[t, n]`.

  Schulman et al., 2015, https://arxiv.org/abs/1506.02438, equation 16, with the
  discount 0.99 and lambda 0.95.

  Args:
    rewards: Rewards of the steps, `[t, n]`.
    values: Values before the steps.
    next_values: Values after them, before a new episode begins.
    fell: Whether a step ended in failure: nothing comes after it.
    ended: Whether the next step belongs to another episode. An episode that was
      only cut off goes on, as far as its value is concerned.
  """
  errors = rewards + DISCOUNT * jnp.where(fell, 0, next_values) - values

  def earlier(later: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple:
    error, ended = at
    now = error + DISCOUNT * DECAY * jnp.where(ended, 0, later)
    return now, now

  zero = jnp.zeros_like(errors[0])
  return jax.lax.scan(earlier, zero, (errors, ended), reverse=True)[1]


def loss(answer: Answer, batch: Rollout) -> jax.Array:
  """Returns the clipped loss of a batch, equation 9 of the source.

  Args:
    answer: What the net says of the observations now.
    batch: Examples `[b]`. Their advantages are standardized here.
  """
  now, then = (
    jnp.take_along_axis(
      jax.nn.log_softmax(logits), batch.actions[:, None], axis=1
    )[:, 0]
    for logits in (answer.logits, batch.logits)
  )
  gain = batch.advantages - batch.advantages.mean()
  gain /= jnp.std(batch.advantages) + 1e-8
  ratio = jnp.exp(now - then)
  clipped = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
  policy = -jnp.minimum(ratio * gain, clipped * gain).mean()
  value = ((answer.value - batch.returns) ** 2).mean()
  return (
    policy
    + VALUE_WEIGHT * value
    - ENTROPY_WEIGHT * entropy(answer.logits).mean()
  )


def entropy(logits: jax.Array) -> jax.Array:
  """Returns entropies in nats of `[..., actions]`."""
  logs = jax.nn.log_softmax(logits)
  return -(jnp.exp(logs) * logs).sum(axis=-1)


def divergence(first: jax.Array, second: jax.Array) -> jax.Array:
  """Returns KL(first || second) in nats, given logits `[..., actions]`.

  >>> first, second = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
  >>> print(f"{divergence(first, second):.4f}")  # log(2) / 2 + log(2/3) / 2
  0.1438
  """
  logs, others = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
  return (jnp.exp(logs) * (logs - others)).sum(axis=-1)


def optimizer(
  rate: float | jax.Array, steps: int
) -> optax.GradientTransformation:
  """Returns Adam with a rate that falls linearly to zero in `steps`."""
  return optax.chain(
    optax.clip_by_global_norm(LARGEST),
    optax.adam(lambda step: rate * (1 - step / steps), eps=1e-5),
  )
