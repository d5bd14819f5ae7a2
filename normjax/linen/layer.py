"""Layer normalization and root-mean-square normalization."""

from normjax import descriptions
from normjax.linen.shell import Shell, shell


@shell
class LayerNorm(Shell, descriptions.LayerNorm):
  """A Linen module, drop-in for `flax.linen.LayerNorm`.

  The fields `scale_offset`, `ddof` and `epsilon_outside_sqrt` are additions.
  Masked places come out as `bias`; Flax normalizes them by the statistics of
  the others.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import LayerNorm
    >>> x = jnp.array([[1.0, 2.0, 3.0, 4.0]]) + 1e4
    >>> variables = LayerNorm().init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, variables)
    {'params': {'bias': (4,), 'scale': (4,)}}
    >>> print(LayerNorm().apply(variables, x))
    [[-1.342 -0.447  0.447  1.342]]
  """


@shell
class RMSNorm(Shell, descriptions.RMSNorm):
  """A Linen module, drop-in for `flax.linen.RMSNorm`.

  The field `scale_offset` is an addition. Masked places come out as zero.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import RMSNorm
    >>> norm = RMSNorm(scale_offset=1.0)  # The gain is 1 + scale, as in Gemma.
    >>> y, variables = norm.init_with_output(
    ...   jax.random.key(0), jnp.array([3.0, 4.0, 0.0, 0.0]))
    >>> print(y, variables["params"]["scale"])
    [1.2 1.6 0.  0. ] [0. 0. 0. 0.]
  """
