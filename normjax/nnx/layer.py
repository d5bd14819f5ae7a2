"""Layer normalization and root-mean-square normalization."""

import jax
from jax.typing import ArrayLike

from normjax import descriptions
from normjax.nnx.shell import Shell, shell


@shell(descriptions.LayerNorm)
class LayerNorm(Shell):
  """An NNX module, drop-in for `flax.nnx.LayerNorm`.

  The arguments `scale_offset`, `ddof` and `epsilon_outside_sqrt` are additions.
  Masked places come out as `bias`; Flax normalizes them by the statistics of
  the others.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import LayerNorm
    >>> norm = LayerNorm(4, rngs=nnx.Rngs(0))
    >>> print(norm(jnp.array([[1.0, 2.0, 3.0, 4.0]]) + 1e4))
    [[-1.342 -0.447  0.447  1.342]]
    >>> print(norm.scale.get_value())
    [1. 1. 1. 1.]
  """


@shell(descriptions.RMSNorm)
class RMSNorm(Shell):
  """An NNX module, drop-in for `flax.nnx.RMSNorm`.

  The argument `scale_offset` is an addition. Masked places come out as zero.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import RMSNorm
    >>> norm = RMSNorm(4, scale_offset=1.0, rngs=nnx.Rngs(0))  # As in Gemma.
    >>> print(norm(jnp.array([3.0, 4.0, 0.0, 0.0])), norm.scale.get_value())
    [1.2 1.6 0.  0. ] [0. 0. 0. 0.]
  """

  def __call__(self, x: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """Normalizes `x`; as in Flax, `mask` may be given by position."""
    return super().__call__(x, mask=mask)
