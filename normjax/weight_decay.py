"""Which parameters should have weight decay."""

import re
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any

# In Flax and JAX, Haiku and Keras; PyTorch and Equinox say weight and bias.
_GAINS_AND_BIASES = {"scale", "bias", "offset", "gamma", "beta"}
_NORM = re.compile("norm(?!al)")  # A layer may be called `normal_mlp`.


def decay_mask(params: PyTree) -> PyTree:
  """Returns which parameters to decay, for `mask` of optax's optimizers.

  Kernels and embeddings are decayed; gains and biases are not. A smaller
  kernel is a simpler function, or, before a norm, the same function with a
  higher effective learning rate. A smaller gain of a norm weakens the signal of
  the network, and a smaller bias has no benefit.

  Args:
    params: Any tree of arrays, such as from Flax, Haiku, Equinox or NNX. Its
      leaves may be boxed, as by `flax.linen.with_partitioning`.

  Returns:
    A tree of booleans of the same structure. True for arrays with at least two
    axes, except
    - those named `scale`, `bias`, `offset`, `gamma` or `beta`: norms over
      several axes have gains with several axes, layers in a scan have one more,
      and attention biases are `[heads, features]`;
    - those directly in something with "norm" in its name, such as the `weight`
      of `layer_norm`; but not a `kernel`, which no norm has.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    ...           "norm": {"scale": jnp.ones((2, 3))}}
    >>> normjax.decay_mask(params)
    {'dense': {'bias': False, 'kernel': True}, 'norm': {'scale': False}}

  With optax: `optax.adamw(1e-3, weight_decay=0.1, mask=normjax.decay_mask)`.
  """

  def decays(path: jax.tree_util.KeyPath, leaf: Any) -> bool:
    parent, name = ["", "", *_names(path)][-2:]
    in_norm = name != "kernel" and bool(_NORM.search(parent.lower()))
    spared = name in _GAINS_AND_BIASES or in_norm
    return jnp.ndim(leaf) >= 2 and not spared

  return jax.tree_util.tree_map_with_path(decays, params)


def _names(path: jax.tree_util.KeyPath) -> list[str]:
  """Returns the names on the way to a parameter, without numbers and boxes."""
  text = jax.tree_util.keystr(path, simple=True, separator="/")
  names = [name for name in re.split("[/.]", text) if not name.isdigit()]
  boxed = bool(path) and path[-1] == jax.tree_util.GetAttrKey("value")
  return names[:-1] if boxed else names
