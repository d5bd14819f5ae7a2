"""Whitening: batch norm that also removes correlations."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from normjax import functional
from normjax.functional.arguments import AxisIndexGroups, AxisName
from normjax.functional.groups import count_groups
from normjax.linen.constructors import explained
from normjax.linen.parameters import (
  assign,
  bias_parameter,
  boolean,
  feature_shape,
  mapped_axis,
  result_dtype,
  scale_parameter,
  widened,
)
from normjax.linen.running import evaluates


@explained
class DecorrelatedBatchNorm(nn.Module):
  """Decorrelated batch normalization, https://arxiv.org/abs/1804.08450.

  Owns the parameters and running statistics of
  `normjax.decorrelated_batch_norm`.

  Attributes:
    use_running_average: False in training, True in evaluation. Given here or
      in the call.
    num_groups: Number of groups of adjacent channels.
    group_size: Channels in a group. Give either this or `num_groups`, and set
      the other to None.
    axis: The axis of the channels; 1 for channels first.
    iterations: Steps of Newton's method that approximate the inverse root; None
      means an eigendecomposition.
    momentum: The share of the old statistic that is kept.
    epsilon: Added to the variances.
    dtype, param_dtype, use_bias, use_scale, bias_init, scale_init, axis_name,
      axis_index_groups, scale_offset: As in `LayerNorm`.

  The running `mean` `[channels]` and `cov` `[groups, size, size]` are in the
  collection `batch_stats`. Training updates it, so it must be mutable. They are
  float32, or float64 if `x`, the parameters or `dtype` are float64.

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

  use_running_average: bool | None = None
  num_groups: int | None = 1
  group_size: int | None = None
  axis: int = -1
  iterations: int | None = None
  momentum: float = 0.99
  epsilon: float = 1e-5
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  use_bias: bool = True
  use_scale: bool = True
  bias_init: Initializer = nn.initializers.zeros
  scale_init: Initializer = nn.initializers.ones
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None
  scale_offset: float = 0.0

  @nn.compact
  def __call__(
    self,
    x: ArrayLike,
    use_running_average: bool | None = None,
    *,
    mask: ArrayLike | None = None,
  ) -> jax.Array:
    """Whitens `x`; in training, updates the running statistics.

    Initializing does not update them. It accepts any `x`, also one example.

    Args:
      x: Real array `[batch, ..., channels]`, or with the channels elsewhere.
      use_running_average: Give either this or the field of the same name.
      mask: Broadcasts to `x`; True counts. Masked places come out as `bias`.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.

    Raises:
      ValueError: training with one value per channel.
      ModifyScopeVariableError: training while `batch_stats` is not mutable.
    """
    x = jnp.asarray(x)
    shape = feature_shape(x, self.axis, "axis")
    channels = math.prod(shape)
    use_running_average = evaluates(self, use_running_average, x.size, channels)
    groups = count_groups(channels, self.num_groups, self.group_size)
    scale = scale_parameter(self, shape)
    bias = bias_parameter(self, shape)
    dtype = result_dtype(x, scale, bias, self.dtype)
    x = widened(x, dtype)
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape, x.dtype)
    cov = self.variable(
      "batch_stats", "cov", _identities, groups, channels // groups, x.dtype
    )
    y, stats = functional.decorrelated_batch_norm(
      x,
      scale,
      bias,
      functional.WhiteningStats(
        widened(mean.value, x.dtype), widened(cov.value, x.dtype)
      ),
      use_running_average=use_running_average,
      num_groups=self.num_groups,
      group_size=self.group_size,
      axis=self.axis,
      iterations=self.iterations,
      momentum=self.momentum,
      epsilon=self.epsilon,
      mask=boolean(mask),
      axis_name=mapped_axis(self),
      axis_index_groups=self.axis_index_groups,
      scale_offset=self.scale_offset,
    )
    if not use_running_average and not self.is_initializing():
      assign({"mean": mean, "cov": cov}, stats._asdict())
    return y.astype(dtype)


@explained
class IterNorm(DecorrelatedBatchNorm):
  """Iterative normalization, https://arxiv.org/abs/1904.03441.

  `DecorrelatedBatchNorm` with the paper's five steps of Newton's method. They
  whiten directions of little variance only in part.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import IterNorm
    >>> x = jax.random.normal(jax.random.key(0), (512, 8)).at[:, 0].mul(0.01)
    >>> norm = IterNorm(use_running_average=False)
    >>> y, _ = norm.init_with_output(jax.random.key(1), x)
    >>> print(y.std(0))
    [0.03  0.999 1.    1.    1.    1.    0.999 1.   ]
  """

  iterations: int | None = 5


def _circular(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
  """Initializes gains so that the mean of |y|^2 is one."""
  del key
  return jnp.broadcast_to(jnp.array([0.5**0.5, 0.5**0.5, 0.0], dtype), shape)


@explained
class ComplexBatchNorm(nn.Module):
  """Batch normalization of complex numbers, https://arxiv.org/abs/1705.09792.

  Owns the parameters and running statistics of `normjax.complex_batch_norm`,
  which whitens the real against the imaginary part of each channel. `BatchNorm`
  divides both by one deviation. Both start with a mean of |y|^2 of one.

  Attributes:
    use_running_average, momentum, epsilon: As in `BatchNorm`.
    axis: The axis of the channels; 1 for channels first.
    param_dtype: The dtype of `bias`. `scale` has the dtype of its real part.
    scale_init: Initializes `scale`, `[channels, 3]`: real-real,
      imaginary-imaginary and real-imaginary.
    dtype: The complex dtype of the result; None means that of `x`.
    use_bias, use_scale, bias_init, axis_name, axis_index_groups: As in
      `LayerNorm`.

  The running `mean` `[channels]`, complex, and `cov` `[channels, 2, 2]`, real,
  are in the collection `batch_stats`, in the precision of `x`. Training updates
  it, so it must be mutable.

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

  use_running_average: bool | None = None
  axis: int = -1
  momentum: float = 0.99
  epsilon: float = 1e-5
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.complex64
  use_bias: bool = True
  use_scale: bool = True
  bias_init: Initializer = nn.initializers.zeros
  scale_init: Initializer = _circular
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None

  @nn.compact
  def __call__(
    self,
    x: ArrayLike,
    use_running_average: bool | None = None,
    *,
    mask: ArrayLike | None = None,
  ) -> jax.Array:
    """Whitens complex `x`; in training, updates the running statistics.

    Args, Returns and Raises as in `DecorrelatedBatchNorm`; `x` is complex.
    """
    x = jnp.asarray(x)
    shape = feature_shape(x, self.axis, "axis")
    channels = math.prod(shape)
    use_running_average = evaluates(self, use_running_average, x.size, channels)
    scale = None
    if self.use_scale:
      real = jnp.finfo(self.param_dtype).dtype
      scale = self.param("scale", self.scale_init, (channels, 3), real)
    bias = bias_parameter(self, shape)
    dtype = result_dtype(x, None, None, self.dtype)
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape, x.dtype)
    cov = self.variable(
      "batch_stats", "cov", _halves, channels, jnp.finfo(x.dtype).dtype
    )
    y, stats = functional.complex_batch_norm(
      x,
      scale,
      bias,
      functional.WhiteningStats(mean.value, cov.value),
      use_running_average=use_running_average,
      axis=self.axis,
      momentum=self.momentum,
      epsilon=self.epsilon,
      mask=boolean(mask),
      axis_name=mapped_axis(self),
      axis_index_groups=self.axis_index_groups,
    )
    if not use_running_average and not self.is_initializing():
      assign({"mean": mean, "cov": cov}, stats._asdict())
    return y.astype(dtype)


def _identities(number: int, size: int, dtype: jnp.dtype) -> jax.Array:
  """Returns identity matrices, `[number, size, size]`."""
  return jnp.broadcast_to(jnp.eye(size, dtype=dtype), (number, size, size))


def _halves(number: int, dtype: jnp.dtype) -> jax.Array:
  """Returns the covariances of complex numbers with a mean of |x|^2 of one."""
  return _identities(number, 2, dtype) / 2
