"""Text from a language model, a token at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.transformer import LanguageModel

PyTree = Any


def sample(
  model: LanguageModel,
  params: PyTree,
  batch_stats: PyTree,
  *,
  count: int,
  key: jax.Array,
  start: int = 0,
) -> np.ndarray:
  """Draws tokens, each given those before it.

  Args:
    model: Sees the last `model.context` tokens.
    params, batch_stats: Of one seed.
    count: How many tokens.
    key: Decides on them.
    start: The token before the first, which is not returned. Of characters, 0
      is the first in the order of code points: in most texts a line's end.

  Returns:
    Tokens `[count]`.
  """
  context = model.context

  def step(
    carry: tuple[jax.Array, jax.Array], number: jax.Array
  ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    window, length = carry
    # What is to the right of them, causal logits do not see.
    logits = model.apply(
      {"params": params, "batch_stats": batch_stats}, window[None], train=False
    )
    logits = jnp.asarray(logits)[0, length - 1]
    token = jax.random.categorical(jax.random.fold_in(key, number), logits)
    token = token.astype(window.dtype)
    shifted = jnp.where(length < context, window, jnp.roll(window, -1))
    window = shifted.at[jnp.minimum(length, context - 1)].set(token)
    return (window, jnp.minimum(length + 1, context)), token

  window = jnp.full(context, start, jnp.int32)
  _, tokens = jax.jit(
    lambda: jax.lax.scan(
      step, (window, jnp.ones((), jnp.int32)), jnp.arange(count)
    )
  )()
  return np.asarray(tokens)
