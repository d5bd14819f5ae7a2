"""Batch normalization and its running statistics."""

import functools
import math
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
from normjax.functional.running import after_microbatch
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


@explained
class BatchNorm(nn.Module):
  """Batch normalization, https://arxiv.org/abs/1502.03167.

  Owns the parameters and running statistics of `normjax.batch_norm`. Drop-in
  for `flax.linen.BatchNorm`; the fields from `scale_offset` on are additions.

  Attributes:
    use_running_average: False in training, True in evaluation. Given here or
      in the call.
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
      `normjax.DebiasedStats`, whose `weight` joins the collection.
    microbatches: Number of calls after which the running statistics change, by
      the statistics of all their values together. If gradients are accumulated
      over as many calls, as by `optax.MultiSteps`, these are the statistics of
      the whole batch. Each call standardizes by those of its own `x`. The
      moments so far, `pending`, and the number of `calls` join the collection.

  The running `mean` and `var` are in the collection `batch_stats`. Training
  updates it, so it must be mutable. They are float32, or float64 if `x`, the
  parameters or `dtype` are float64. The mean is complex if `x` is.

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
  microbatches: int = 1

  @nn.compact
  def __call__(
    self,
    x: ArrayLike,
    use_running_average: bool | None = None,
    *,
    mask: ArrayLike | None = None,
  ) -> jax.Array:
    """Normalizes `x`; in training, updates the running statistics.

    Initializing does not update them. It accepts any `x`, also one example.

    Args:
      x: Array `[batch, ..., channels]`, or with the channels elsewhere.
      use_running_average: Give either this or the field of the same name.
      mask: Broadcasts to `x`; True counts. Masked places come out as `bias`,
        also in evaluation, where Flax normalizes them.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.

    Raises:
      ValueError: training with one value per channel, or a `microbatches` that
        is not a positive integer.
      ModifyScopeVariableError: training while `batch_stats` is not mutable.
    """
    use_running_average = nn.merge_param(
      "use_running_average", self.use_running_average, use_running_average
    )
    x = jnp.asarray(x)
    shape = feature_shape(x, self.axis, "axis")
    scale = scale_parameter(self, shape)
    bias = bias_parameter(self, shape)
    dtype = result_dtype(x, scale, bias, self.dtype)
    x = widened(x, dtype)
    if self.is_initializing() and x.size == math.prod(shape):
      use_running_average = True  # One value per channel is enough to init.
    train = not option("use_running_average", use_running_average)
    kept = self._declare(shape, x.dtype, train or self.is_initializing())
    normalize = functools.partial(
      functional.batch_norm,
      x,
      scale,
      bias,
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
    stats = _running(kept, x.dtype)
    if train and self.microbatches > 1:
      y, pending = normalize(stats=kept["pending"].value)
      stats, pending, calls = after_microbatch(
        stats,
        pending,
        kept["calls"].value,
        self.microbatches,
        momentum=self.momentum,
        running_var_ddof=self.running_var_ddof,
      )
      new = {**stats._asdict(), "pending": pending, "calls": calls}
    else:
      y, stats = normalize(stats=stats)
      new = stats._asdict()
    if train and not self.is_initializing():
      assign(kept, new)
    return y.astype(dtype)

  def _declare(
    self, shape: tuple[int, ...], dtype: jnp.dtype, train: bool
  ) -> dict[str, nn.Variable]:
    """Declares the variables in `batch_stats`: in evaluation, mean and var."""
    if not isinstance(self.microbatches, int) or self.microbatches < 1:
      raise ValueError(
        f"microbatches must be a positive integer, got {self.microbatches!r}."
        " It is the number of calls whose values make one batch; 1 means that"
        " each call is a batch."
      )
    real = jnp.finfo(dtype).dtype
    inits: dict[str, Any] = {
      "mean": (jnp.zeros, shape, dtype),
      "var": (jnp.ones, shape, real),
    }
    if train and self.debias:
      inits["weight"] = jnp.zeros, shape, real
    if train and self.microbatches > 1:
      inits["pending"] = functional.Moments.empty, shape, dtype
      inits["calls"] = jnp.zeros, (), jnp.int32
    return {
      name: self.variable("batch_stats", name, *init)
      for name, init in inits.items()
    }


def _running(
  kept: dict[str, nn.Variable], dtype: jnp.dtype
) -> functional.BatchStats | functional.DebiasedStats:
  """Returns the values of the variables as running statistics."""
  real = jnp.finfo(dtype).dtype
  mean = widened(kept["mean"].value, dtype)
  var = widened(kept["var"].value, real)
  if "weight" in kept:
    return functional.DebiasedStats(mean, var, kept["weight"].value)
  return functional.BatchStats(mean, var)
