"""Batch renormalization."""

from normjax import descriptions
from normjax.linen.shell import BatchShell, shell


@shell
class BatchRenorm(BatchShell, descriptions.BatchRenorm):
  """A Linen module. Statistics are in the collection `batch_stats`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import BatchRenorm
    >>> x = jnp.array([[1.0], [3.0]])
    >>> norm = BatchRenorm(use_running_average=False, r_max=3.0, d_max=5.0)
    >>> variables = norm.init(jax.random.key(0), x)
    >>> y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    >>> print(y.T)  # By mean 0 and variance 1, as in evaluation.
    [[1. 3.]]
  """
