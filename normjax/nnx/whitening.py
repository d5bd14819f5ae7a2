"""Whitening: batch norm that also removes correlations."""

from normjax import descriptions
from normjax.nnx.shell import BatchShell, shell


@shell(descriptions.DecorrelatedBatchNorm)
class DecorrelatedBatchNorm(BatchShell):
  """An NNX module. Statistics are variables of type `nnx.BatchStat`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import DecorrelatedBatchNorm
    >>> x = jnp.array([[1.0, 1.0], [2.0, 4.0], [3.0, 1.0], [4.0, 4.0]])
    >>> norm = DecorrelatedBatchNorm(2, momentum=0.9, rngs=nnx.Rngs(0))
    >>> y = norm(x)
    >>> print(y.T @ y / 4)  # The covariance.
    [[1. 0.]
     [0. 1.]]
    >>> print(norm.cov.get_value())
    [[[1.025 0.075]
      [0.075 1.125]]]
  """


@shell(descriptions.IterNorm)
class IterNorm(BatchShell):
  """An NNX module. Statistics are variables of type `nnx.BatchStat`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import IterNorm
    >>> x = jax.random.normal(jax.random.key(0), (512, 8)).at[:, 0].mul(0.01)
    >>> print(IterNorm(8, rngs=nnx.Rngs(0))(x).std(0))
    [0.03  0.999 1.    1.    1.    1.    0.999 1.   ]
  """


@shell(descriptions.ComplexBatchNorm)
class ComplexBatchNorm(BatchShell):
  """An NNX module. Statistics are variables of type `nnx.BatchStat`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import ComplexBatchNorm
    >>> x = jnp.array([[1 + 1j], [2 + 4j], [3 + 1j], [4 + 4j]])
    >>> y = ComplexBatchNorm(1, rngs=nnx.Rngs(0))(x)
    >>> print(jnp.cov(y[:, 0].real, y[:, 0].imag, ddof=0))
    [[0.5 0. ]
     [0.  0.5]]
  """
