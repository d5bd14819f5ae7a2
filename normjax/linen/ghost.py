"""Ghost batch normalization."""

import jax

from normjax import descriptions
from normjax.linen.shell import BatchShell, shell


@shell
class GhostBatchNorm(BatchShell, descriptions.GhostBatchNorm):
  """A Linen module. Statistics are in the collection `batch_stats`.

  The examples are along the first axis of `x`. Initializing takes all of them
  as one ghost batch.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import GhostBatchNorm
    >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
    >>> norm = GhostBatchNorm(use_running_average=False, ghost_size=2)
    >>> variables = norm.init(jax.random.key(0), x)
    >>> y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    >>> print(y.T)
    [[-1.  1. -1.  1.]]
  """

  def ghosts(self, x: jax.Array) -> int:
    """Initializing takes any number of examples, as one ghost batch."""
    return len(x) if self.is_initializing() else self.ghost_size
