"""Batch renormalization."""

from normjax import descriptions
from normjax.nnx.shell import BatchShell, shell


@shell(descriptions.BatchRenorm)
class BatchRenorm(BatchShell):
  """An NNX module. Statistics are variables of type `nnx.BatchStat`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import BatchRenorm
    >>> norm = BatchRenorm(1, r_max=3.0, d_max=5.0, rngs=nnx.Rngs(0))
    >>> y = norm(jnp.array([[1.0], [3.0]]))
    >>> print(y.T)  # By mean 0 and variance 1, as in evaluation.
    [[1. 3.]]
  """
