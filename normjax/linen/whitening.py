"""Whitening: batch norm that also removes correlations."""

from normjax import descriptions
from normjax.linen.shell import BatchShell, shell


@shell
class DecorrelatedBatchNorm(BatchShell, descriptions.DecorrelatedBatchNorm):
  """A Linen module. Statistics are in the collection `batch_stats`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import DecorrelatedBatchNorm
    >>> x = jnp.array([[1.0, 1.0], [2.0, 4.0], [3.0, 1.0], [4.0, 4.0]])
    >>> norm = DecorrelatedBatchNorm(momentum=0.9)
    >>> variables = norm.init(jax.random.key(0), x, use_running_average=False)
    >>> y, updates = norm.apply(
    ...   variables, x, use_running_average=False, mutable=["batch_stats"])
    >>> print(y.T @ y / 4)  # The covariance.
    [[1. 0.]
     [0. 1.]]
    >>> print(updates["batch_stats"]["cov"])
    [[[1.025 0.075]
      [0.075 1.125]]]
    >>> y = norm.apply({**variables, **updates}, x, use_running_average=True)
  """


@shell
class IterNorm(BatchShell, descriptions.IterNorm):
  """A Linen module. Statistics are in the collection `batch_stats`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import IterNorm
    >>> x = jax.random.normal(jax.random.key(0), (512, 8)).at[:, 0].mul(0.01)
    >>> norm = IterNorm(use_running_average=False)
    >>> y, _ = norm.init_with_output(jax.random.key(1), x)
    >>> print(y.std(0))
    [0.03  0.999 1.    1.    1.    1.    0.999 1.   ]
  """


@shell
class ComplexBatchNorm(BatchShell, descriptions.ComplexBatchNorm):
  """A Linen module. Statistics are in the collection `batch_stats`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import ComplexBatchNorm
    >>> x = jnp.array([[1 + 1j], [2 + 4j], [3 + 1j], [4 + 4j]])
    >>> norm = ComplexBatchNorm(use_running_average=False)
    >>> y, variables = norm.init_with_output(jax.random.key(0), x)
    >>> print(jnp.cov(y[:, 0].real, y[:, 0].imag, ddof=0))
    [[0.5 0. ]
     [0.  0.5]]
  """
