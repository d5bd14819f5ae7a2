"""Group normalization and instance normalization."""

from normjax import descriptions
from normjax.nnx.shell import Shell, shell


@shell(descriptions.GroupNorm, "num_groups", "group_size")
class GroupNorm(Shell):
  """An NNX module, drop-in for `flax.nnx.GroupNorm`.

  The arguments `scale_offset` and `channel_axis` are additions. Masked places
  come out as `bias`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import GroupNorm
    >>> x = jnp.arange(8.0).reshape(1, 2, 4)  # One image, 2 pixels, 4 channels.
    >>> print(GroupNorm(4, num_groups=2, rngs=nnx.Rngs(0))(x))
    [[[-1.213 -0.728 -1.213 -0.728]
      [ 0.728  1.213  0.728  1.213]]]
  """


@shell(descriptions.InstanceNorm)
class InstanceNorm(Shell):
  """An NNX module, drop-in for `flax.nnx.InstanceNorm`.

  The argument `scale_offset` is an addition. `x` needs at least one spatial
  axis. Masked places come out as `bias`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import InstanceNorm
    >>> x = jnp.array([[[1.0, 30.0], [2.0, 20.0], [3.0, 10.0]]])
    >>> print(InstanceNorm(2, rngs=nnx.Rngs(0))(x))
    [[[-1.225  1.225]
      [ 0.     0.   ]
      [ 1.225 -1.225]]]
  """
