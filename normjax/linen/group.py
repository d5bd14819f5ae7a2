"""Group normalization and instance normalization."""

from normjax import descriptions
from normjax.linen.shell import Shell, shell


@shell
class GroupNorm(Shell, descriptions.GroupNorm):
  """A Linen module, drop-in for `flax.linen.GroupNorm`.

  The fields `scale_offset` and `channel_axis` are additions. Masked places come
  out as `bias`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import GroupNorm
    >>> x = jnp.arange(8.0).reshape(1, 2, 4)  # One image, 2 pixels, 4 channels.
    >>> y, _ = GroupNorm(num_groups=2).init_with_output(jax.random.key(0), x)
    >>> print(y)
    [[[-1.213 -0.728 -1.213 -0.728]
      [ 0.728  1.213  0.728  1.213]]]
  """


@shell
class InstanceNorm(Shell, descriptions.InstanceNorm):
  """A Linen module, drop-in for `flax.linen.InstanceNorm`.

  The field `scale_offset` is an addition. `x` needs at least one spatial axis.
  Masked places come out as `bias`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import InstanceNorm
    >>> x = jnp.array([[[1.0, 30.0], [2.0, 20.0], [3.0, 10.0]]])
    >>> y, _ = InstanceNorm().init_with_output(jax.random.key(0), x)
    >>> print(y)
    [[[-1.225  1.225]
      [ 0.     0.   ]
      [ 1.225 -1.225]]]
  """
