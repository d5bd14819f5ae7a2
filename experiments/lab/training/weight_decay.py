"""Which parameters should have weight decay."""

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any

_GAINS_AND_BIASES = ("scale", "bias")


def decay_mask(params: PyTree) -> PyTree:
  """Returns which parameters to decay, for `mask` of optax's optimizers.

  Kernels and embeddings are decayed; gains and biases are not. A smaller
  kernel is a simpler function, or, before a norm, the same function with a
  higher effective learning rate. A smaller gain of a norm weakens the signal of
  the network, and a smaller bias has no benefit.

  Args:
    params: Any tree of arrays, such as from Flax, Haiku or NNX.

  Returns:
    A tree of booleans of the same structure: True for arrays with at least two
    axes that are not called `scale` or `bias`. (Norms over several axes have
    gains with several axes, and attention biases are `[heads, features]`.)

  >>> params = {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
  ...           "LayerNorm_0": {"scale": jnp.ones(3)}}
  >>> decay_mask(params)
  {'Dense_0': {'bias': False, 'kernel': True}, 'LayerNorm_0': {'scale': False}}
  """

  def decays(path: jax.tree_util.KeyPath, leaf: Any) -> bool:
    names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    return jnp.ndim(leaf) >= 2 and not set(names[-2:]) & set(_GAINS_AND_BIASES)

  return jax.tree_util.tree_map_with_path(decays, params)
