"""Sampling from a language model, one token at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.models.transformer import LanguageModel

PyTree = Any


def sample(
  model: LanguageModel,
  variables: PyTree,
  *,
  count: int,
  key: jax.Array,
  start: int = 0,
) -> np.ndarray:
  """Samples tokens, each given the tokens before it.

  Args:
    model: Language model; it sees the last `model.context` tokens.
    variables: Variables of the model, of one seed.
    count: Number of tokens.
    key: Key of the random numbers.
    start: Token before the first one, which is not returned. For characters, 0
      is the lowest code point of the text, usually the end of a line.

  Returns:
    Tokens `[count]`.
  """
  context = model.context

  def step(
    carry: tuple[jax.Array, jax.Array], number: jax.Array
  ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    window, length = carry
    # Causal logits do not depend on later positions.
    logits = model.apply(variables, window[None], train=False)
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
