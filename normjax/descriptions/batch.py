"""Batch normalization, and what its relatives have in common with it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax.nn import initializers

from normjax import functional
from normjax.descriptions.norm import (
  RunningNorm,
  Shape,
  Statistic,
  description,
)
from normjax.descriptions.parameters import widened
from normjax.functional.arguments import Axes, AxisIndexGroups, AxisName
from normjax.functional.running import Stats, after_microbatch


@description
class AnyBatchNorm(RunningNorm):
  """What batch norm and its relatives have in common.

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
  bias_init: Initializer = initializers.zeros
  scale_init: Initializer = initializers.ones
  axis_name: AxisName | None = None
  axis_index_groups: AxisIndexGroups | None = None
  use_fast_variance: bool = True
  force_float32_reductions: bool = True
  scale_offset: float = 0.0
  running_var_ddof: int = 0
  debias: bool = False

  def statistics(self, features: Shape, dtype: Dtype) -> dict[str, Statistic]:
    """Returns the mean, the variance and, for `debias`, their weight."""
    real = jnp.finfo(dtype).dtype
    found = {
      "mean": Statistic(jnp.zeros, features, dtype),
      "var": Statistic(jnp.ones, features, real),
    }
    if self.debias:
      found["weight"] = Statistic(jnp.zeros, features, real, training_only=True)
    return found

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
    """Returns what `normjax.batch_norm` or its relative does."""
    y, stats = self._called(
      self.function(),
      x,
      parameters,
      running(statistics, x.dtype),
      use_running_average=use_running_average,
      mask=mask,
      axis_name=axis_name,
      **arguments,
    )
    return y, stats._asdict()

  def function(self) -> Callable[..., tuple[jax.Array, Any]]:
    """Returns `normjax.batch_norm`, or that of a relative."""
    return functional.batch_norm

  def _called(
    self,
    function: Callable[..., tuple[jax.Array, Any]],
    x: jax.Array,
    parameters: Mapping[str, jax.Array],
    stats: Stats,
    **arguments: Any,
  ) -> tuple[jax.Array, Any]:
    """Calls a function of the library with the options of this norm."""
    return function(
      x,
      **parameters,
      stats=stats,
      axis=self.axis,
      momentum=self.momentum,
      epsilon=self.epsilon,
      axis_index_groups=self.axis_index_groups,
      running_var_ddof=self.running_var_ddof,
      scale_offset=self.scale_offset,
      **arguments,
    )


def running(
  statistics: Mapping[str, jax.Array], dtype: jnp.dtype
) -> functional.BatchStats | functional.DebiasedStats:
  """Returns running statistics of values of this dtype."""
  real = jnp.finfo(dtype).dtype
  mean = widened(statistics["mean"], dtype)
  var = widened(statistics["var"], real)
  if "weight" in statistics:
    weight = widened(statistics["weight"], real)
    return functional.DebiasedStats(mean, var, weight)
  return functional.BatchStats(mean, var)


@description
class BatchNorm(AnyBatchNorm):
  """Batch normalization, https://arxiv.org/abs/1502.03167.

  The function is `normjax.batch_norm`.

  Attributes:
    use_running_average: False in training, True in evaluation. In Linen it is
      given either here or in the call. In NNX, `train()` and `eval()` set it,
      and a call may decide otherwise.
    axis: The feature axis, or axes. Everything else is averaged over.
    momentum: The share of the old statistic that is kept. PyTorch's number is
      one minus this.
    epsilon: Added to the variance, inside the square root.
    dtype, param_dtype, use_bias, use_scale, bias_init, scale_init, axis_name,
      axis_index_groups, use_fast_variance, force_float32_reductions,
      scale_offset: As in `LayerNorm`.
    running_var_ddof: The running variance divides by `count` minus this number:
      0 as in Flax and Keras, 1 as in PyTorch.
    debias: Keeps the initial mean and variance, zero and one, out of the
      running average: the first batch replaces them. With `momentum=1.0` it is
      the cumulative average of all batches, PyTorch's `momentum=None`. See
      `normjax.DebiasedStats`, whose `weight` joins the statistics.
    microbatches: Number of calls after which the running statistics change, by
      the statistics of all their values together. If gradients are accumulated
      over as many calls, as by `optax.MultiSteps`, these are the statistics of
      the whole batch. Each call standardizes by those of its own `x`. The
      moments so far, `pending`, and the number of `calls` join the statistics.
  """

  microbatches: int = 1

  def statistics(self, features: Shape, dtype: Dtype) -> dict[str, Statistic]:
    """As for all batch norms, and what waits for the last microbatch."""
    if not isinstance(self.microbatches, int) or self.microbatches < 1:
      raise ValueError(
        f"microbatches must be a positive integer, got {self.microbatches!r}."
        " It is the number of calls whose values make one batch; 1 means that"
        " each call is a batch."
      )
    found = super().statistics(features, dtype)
    if self.microbatches > 1:
      found["pending"] = Statistic(
        functional.Moments.empty, features, dtype, training_only=True
      )
      found["calls"] = Statistic(jnp.zeros, (), jnp.int32, training_only=True)
    return found

  def normalize_running(
    self,
    x: jax.Array,
    parameters: Mapping[str, jax.Array],
    statistics: Mapping[str, Any],
    **arguments: Any,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """As `normjax.batch_norm`; statistics wait for the last microbatch."""
    if self.microbatches == 1 or arguments["use_running_average"]:
      return super().normalize_running(x, parameters, statistics, **arguments)
    y, pending = self._called(
      self.function(), x, parameters, statistics["pending"], **arguments
    )
    stats, pending, calls = after_microbatch(
      running(statistics, x.dtype),
      pending,
      statistics["calls"],
      self.microbatches,
      momentum=self.momentum,
      running_var_ddof=self.running_var_ddof,
    )
    return y, {**stats._asdict(), "pending": pending, "calls": calls}
