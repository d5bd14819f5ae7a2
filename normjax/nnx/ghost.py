"""Ghost batch normalization."""

from normjax import descriptions
from normjax.nnx.shell import BatchShell, shell


@shell(descriptions.GhostBatchNorm)
class GhostBatchNorm(BatchShell):
  """An NNX module. Statistics are variables of type `nnx.BatchStat`.

  The examples are along the first axis of `x`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import GhostBatchNorm
    >>> norm = GhostBatchNorm(1, ghost_size=2, rngs=nnx.Rngs(0))
    >>> print(norm(jnp.array([[1.0], [3.0], [10.0], [30.0]])).T)
    [[-1.  1. -1.  1.]]
  """
