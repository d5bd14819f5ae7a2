"""Batch normalization."""

from normjax import descriptions
from normjax.nnx.shell import BatchShell, shell


@shell(descriptions.BatchNorm)
class BatchNorm(BatchShell):
  """An NNX module, drop-in for `flax.nnx.BatchNorm`.

  The arguments `scale_offset`, `running_var_ddof`, `debias` and `microbatches`
  are additions. The statistics, the running `mean` and `var`, are variables of
  type `nnx.BatchStat`: float32, or float64 if the parameters or `dtype` are
  float64. A new module trains; `train()` and `eval()` of the model, or
  `nnx.view`, change the mode.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import BatchNorm
    >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    >>> norm = BatchNorm(2, momentum=0.9, rngs=nnx.Rngs(0))
    >>> print(norm(x))
    [[-1. -1.]
     [ 1.  1.]]
    >>> print(norm.mean.get_value())
    [0.2 2. ]
    >>> norm.eval()
    >>> y = norm(x)
  """
