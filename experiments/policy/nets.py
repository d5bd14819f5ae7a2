"""The policy and the value: one net with two heads."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from flax import linen as nn

from normjax import functional


class Answer(NamedTuple):
  """What a net says of observations.

  Attributes:
    logits: Of the actions, `[n, actions]`.
    value: The expected return, `[n]`.
  """

  logits: jax.Array
  value: jax.Array


class ActorCritic(nn.Module):
  """Dense layers with norm and tanh, and a head each for policy and value.

  Attributes:
    norm: Norm factory, called with `train=...`.
    norm_inputs: Whether the observations are normalized too.
    hidden: Width of each hidden layer.
    actions: Number of actions.

  >>> import functools
  >>> import jax.numpy as jnp
  >>> from normjax.linen import make_norm
  >>> net = ActorCritic(functools.partial(make_norm, "bn"), norm_inputs=True)
  >>> x = jnp.ones((8, 4))
  >>> variables = net.init(jax.random.key(0), x, train=False)
  >>> answer = net.apply(variables, x, train=False)
  >>> answer.logits.shape, answer.value.shape
  ((8, 2), (8,))
  >>> [*variables["batch_stats"]]
  ['BatchNorm_0', 'BatchNorm_1', 'BatchNorm_2']
  """

  norm: Callable[..., nn.Module]
  norm_inputs: bool = False
  hidden: Sequence[int] = (256, 256)
  actions: int = 2

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> Answer:
    """Returns logits and values of the observations `[n, features]`."""
    if self.norm_inputs:
      x = self.norm(train=train)(x)
    for width in self.hidden:
      x = nn.Dense(width)(x)
      x = nn.tanh(self.norm(train=train)(x))
    # A small kernel: the first policy takes all actions alike.
    small = nn.initializers.variance_scaling(1e-4, "fan_in", "normal")
    logits = nn.Dense(self.actions, kernel_init=small, name="policy")(x)
    value = nn.Dense(1, name="value")(x)
    return Answer(logits, value[:, 0])


def standardized(x: jax.Array, seen: functional.Moments) -> jax.Array:
  """Returns observations in units of those that were seen.

  Args:
    x: Observations `[..., features]`.
    seen: Count, mean and variance of all observations so far.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([[1.0, 100.0], [3.0, 300.0]])
  >>> print(standardized(x, functional.moments(x, axes=0)))
  [[-1. -1.]
   [ 1.  1.]]
  """
  # Far below the variance of any observation here, which 1e-5 is not.
  return functional.batch_norm(
    x, stats=seen, use_running_average=True, epsilon=1e-12
  )[0]
