"""Batch normalization."""

from normjax import descriptions
from normjax.linen.shell import BatchShell, shell


@shell
class BatchNorm(BatchShell, descriptions.BatchNorm):
  """A Linen module, drop-in for `flax.linen.BatchNorm`.

  The fields `scale_offset`, `running_var_ddof`, `debias` and `microbatches` are
  additions. The statistics, the running `mean` and `var`, are in the collection
  `batch_stats`. Training updates it, so it must be mutable. They are float32,
  or float64 if `x`, the parameters or `dtype` are float64. The mean is complex
  if `x` is.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import BatchNorm
    >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    >>> norm = BatchNorm(momentum=0.9)
    >>> variables = norm.init(jax.random.key(0), x, use_running_average=False)
    >>> y, updates = norm.apply(
    ...   variables, x, use_running_average=False, mutable=["batch_stats"])
    >>> print(y)
    [[-1. -1.]
     [ 1.  1.]]
    >>> print(updates["batch_stats"]["mean"])
    [0.2 2. ]
    >>> y = norm.apply({**variables, **updates}, x, use_running_average=True)
  """
