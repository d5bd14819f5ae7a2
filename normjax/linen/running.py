"""What the norms with running statistics have in common."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from normjax import functional
from normjax.functional.arguments import (
  Axes,
  AxisIndexGroups,
  AxisName,
  option,
)
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


class RunningNorm(nn.Module):
  """The fields, parameters and variables of a norm with running statistics.

  Attributes:
    All: As in `BatchNorm`.
  """

  use_running_average: bool | None = None
  axis: Axes = -1
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
  use_fast_variance: bool = True
  force_float32_reductions: bool = True
  scale_offset: float = 0.0
  running_var_ddof: int = 0
  debias: bool = False

  def _normalized(
    self,
    normalize: Callable[..., tuple[jax.Array, Any]],
    x: ArrayLike,
    use_running_average: bool | None,
    mask: ArrayLike | None,
    *,
    rows: tuple[int, ...] = (),
    parameter_rows: tuple[int, ...] = (),
  ) -> jax.Array:
    """Returns normalized `x`; in training, updates the running statistics.

    Args:
      normalize: Like `normjax.batch_norm`. Called with `x`, and the rest by
        name.
      x, use_running_average, mask: Of the call.
      rows: First axes of the statistics, before those of the features.
      parameter_rows: First axes of gain and bias.
    """
    x = jnp.asarray(x)
    shape = feature_shape(x, self.axis, "axis")
    use_running_average = evaluates(
      self, use_running_average, x.size, math.prod(shape)
    )
    scale = scale_parameter(self, (*parameter_rows, *shape))
    bias = bias_parameter(self, (*parameter_rows, *shape))
    dtype = result_dtype(x, scale, bias, self.dtype)
    x = widened(x, dtype)
    train = not use_running_average
    kept = self._declare((*rows, *shape), x.dtype, train)
    y, stats = normalize(
      x,
      scale=scale,
      bias=bias,
      stats=_running(kept, x.dtype),
      use_running_average=use_running_average,
      axis=self.axis,
      momentum=self.momentum,
      epsilon=self.epsilon,
      mask=boolean(mask),
      axis_name=mapped_axis(self),
      axis_index_groups=self.axis_index_groups,
      running_var_ddof=self.running_var_ddof,
      scale_offset=self.scale_offset,
    )
    if train and not self.is_initializing():
      assign(kept, stats._asdict())
    return y.astype(dtype)

  def _declare(
    self, shape: tuple[int, ...], dtype: jnp.dtype, train: bool
  ) -> dict[str, nn.Variable]:
    """Declares the running statistics; evaluation can do without a weight."""
    real = jnp.finfo(dtype).dtype
    inits: dict[str, Any] = {
      "mean": (jnp.zeros, shape, dtype),
      "var": (jnp.ones, shape, real),
    }
    if self.debias and (
      train
      or self.is_initializing()
      or self.has_variable("batch_stats", "weight")
    ):
      inits["weight"] = jnp.zeros, shape, real
    return {
      name: self.variable("batch_stats", name, *init)
      for name, init in inits.items()
    }


def _running(
  kept: Mapping[str, nn.Variable], dtype: jnp.dtype
) -> functional.BatchStats | functional.DebiasedStats:
  """Returns the values of the variables as running statistics."""
  real = jnp.finfo(dtype).dtype
  mean = widened(kept["mean"].value, dtype)
  var = widened(kept["var"].value, real)
  if "weight" in kept:
    weight = widened(kept["weight"].value, real)
    return functional.DebiasedStats(mean, var, weight)
  return functional.BatchStats(mean, var)


def evaluates(
  module: Any, use_running_average: bool | None, size: int, channels: int
) -> bool:
  """Returns whether running statistics are used, by the field or the call.

  Args:
    module: A norm with running statistics.
    use_running_average: The argument of the call.
    size, channels: Numbers of values and of channels of its input.
  """
  mode = nn.merge_param(
    "use_running_average", module.use_running_average, use_running_average
  )
  if module.is_initializing() and size == channels:
    return True  # One value per channel is enough to initialize.
  return option("use_running_average", mode)


def check_rows(name: str, number: int) -> tuple[int]:
  """Returns the first axis of statistics that are kept many times.

  Raises:
    ValueError: the field of that name is not a positive integer.
  """
  if not isinstance(number, int) or number < 1:
    raise ValueError(
      f"{name} must be a positive integer, got {number!r}. It is the number of"
      " rows of the running statistics."
    )
  return (number,)
