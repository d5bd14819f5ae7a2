"""Whitening: batch norm that also removes correlations."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax.nn import initializers

from normjax import functional
from normjax.descriptions.norm import (
  Parameter,
  RunningNorm,
  Shape,
  Statistic,
  description,
)
from normjax.descriptions.parameters import result_dtype, widened
from normjax.functional.arguments import AxisIndexGroups, AxisName
from normjax.functional.groups import count_groups


@description
class DecorrelatedBatchNorm(RunningNorm):
  """Decorrelated batch normalization, https://arxiv.org/abs/1804.08450.

  The function is `normjax.decorrelated_batch_norm`.

  Attributes:
    use_running_average: As in `BatchNorm`.
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

  The statistics are the running `mean` `[channels]` and `cov` `[groups, size,
  size]`. They are float32, or float64 if `x`, the parameters or `dtype` are
  float64.
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
  bias_init: Initializer = initializers.zeros
  scale_init: Initializer = initializers.ones
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None
  scale_offset: float = 0.0

  def statistics(self, features: Shape, dtype: Dtype) -> dict[str, Statistic]:
    """Returns the mean and the covariances of groups of channels."""
    channels = math.prod(features)
    groups = count_groups(channels, self.num_groups, self.group_size)
    size = channels // groups
    return {
      "mean": Statistic(jnp.zeros, features, dtype),
      "cov": Statistic(_identities, (groups, size, size), dtype),
    }

  def normalize_running(
    self,
    x: jax.Array,
    parameters: Mapping[str, jax.Array],
    statistics: Mapping[str, Any],
    *,
    use_running_average: bool,
    mask: jax.Array | None,
    axis_name: AxisName | None,
    **arguments: Any,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Returns what `normjax.decorrelated_batch_norm` does."""
    y, stats = functional.decorrelated_batch_norm(
      x,
      **parameters,
      stats=_running(statistics, x.dtype),
      use_running_average=use_running_average,
      num_groups=self.num_groups,
      group_size=self.group_size,
      axis=self.axis,
      iterations=self.iterations,
      momentum=self.momentum,
      epsilon=self.epsilon,
      mask=mask,
      axis_name=axis_name,
      axis_index_groups=self.axis_index_groups,
      scale_offset=self.scale_offset,
      **arguments,
    )
    return y, stats._asdict()


@description
class IterNorm(DecorrelatedBatchNorm):
  """Iterative normalization, https://arxiv.org/abs/1904.03441.

  `DecorrelatedBatchNorm` with the paper's five steps of Newton's method. They
  whiten directions of little variance only in part.

  Attributes:
    All: As in `DecorrelatedBatchNorm`.
  """

  iterations: int | None = 5


def _circular(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
  """Initializes gains so that the mean of |y|^2 is one."""
  del key
  return jnp.broadcast_to(jnp.array([0.5**0.5, 0.5**0.5, 0.0], dtype), shape)


@description
class ComplexBatchNorm(RunningNorm):
  """Batch normalization of complex numbers, https://arxiv.org/abs/1705.09792.

  The function is `normjax.complex_batch_norm`,
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

  The statistics are the running `mean` `[channels]`, complex, and `cov`
  `[channels, 2, 2]`, real, in the precision of `x`.
  """

  use_running_average: bool | None = None
  axis: int = -1
  momentum: float = 0.99
  epsilon: float = 1e-5
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.complex64
  use_bias: bool = True
  use_scale: bool = True
  bias_init: Initializer = initializers.zeros
  scale_init: Initializer = _circular
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None

  def parameters(self, features: Shape) -> dict[str, Parameter]:
    """Returns the gains of both parts, and the bias."""
    found = {}
    if self.use_scale:
      real = jnp.finfo(self.param_dtype).dtype
      shape = (math.prod(features), 3)
      found["scale"] = Parameter(self.scale_init, shape, real)
    if self.use_bias:
      found["bias"] = Parameter(self.bias_init, features, self.param_dtype)
    return found

  def result_dtype(
    self, x: jax.Array, parameters: Mapping[str, jax.Array]
  ) -> Any:
    """Returns `dtype`, or that of `x`."""
    del parameters
    return result_dtype(x, dtype=self.dtype)

  def statistics(self, features: Shape, dtype: Dtype) -> dict[str, Statistic]:
    """Returns the mean and the covariances of the two parts."""
    shape = (math.prod(features), 2, 2)
    return {
      "mean": Statistic(jnp.zeros, features, dtype),
      "cov": Statistic(_halves, shape, jnp.finfo(dtype).dtype),
    }

  def normalize_running(
    self,
    x: jax.Array,
    parameters: Mapping[str, jax.Array],
    statistics: Mapping[str, Any],
    *,
    use_running_average: bool,
    mask: jax.Array | None,
    axis_name: AxisName | None,
    **arguments: Any,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Returns what `normjax.complex_batch_norm` does."""
    y, stats = functional.complex_batch_norm(
      x,
      **parameters,
      stats=_running(statistics, x.dtype),
      use_running_average=use_running_average,
      axis=self.axis,
      momentum=self.momentum,
      epsilon=self.epsilon,
      mask=mask,
      axis_name=axis_name,
      axis_index_groups=self.axis_index_groups,
      **arguments,
    )
    return y, stats._asdict()


def _running(
  statistics: Mapping[str, jax.Array], dtype: jnp.dtype
) -> functional.WhiteningStats:
  """Returns running statistics of values of this dtype."""
  return functional.WhiteningStats(
    widened(statistics["mean"], dtype),
    widened(statistics["cov"], jnp.finfo(dtype).dtype),
  )


def _identities(shape: Shape, dtype: Any) -> jax.Array:
  """Returns identity matrices, `[number, size, size]`."""
  return jnp.broadcast_to(jnp.eye(shape[-1], dtype=dtype), shape)


def _halves(shape: Shape, dtype: Any) -> jax.Array:
  """Returns the covariances of complex numbers with a mean of |x|^2 of one."""
  return _identities(shape, dtype) / 2
