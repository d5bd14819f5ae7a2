"""Batch renormalization."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from normjax.functional import sharding
from normjax.functional.arguments import (
  Axes,
  AxisIndexGroups,
  AxisName,
  as_array,
  canonical_axes,
  canonical_mask,
  check_floating,
  check_parameters,
  complement,
  jit,
  statistics_dtype,
)
from normjax.functional.axes import fold
from normjax.functional.batch import (
  as_moments,
  batch_norm,
  check_stats,
)
from normjax.functional.groups import Groups
from normjax.functional.moments import Moments, masked
from normjax.functional.running import (
  RunningStats,
  Stats,
  check_mode,
  check_running,
  seen,
  updated,
)

_LIMITS = {"r_max": 1.0, "d_max": 0.0}  # Their smallest values.


def renorm_r_max(
  step: int | jax.Array,
  *,
  final: float = 3.0,
  begin: int = 5_000,
  end: int = 40_000,
) -> jax.Array:
  """Returns `r_max` of batch renormalization after `step` steps of training.

  It is one until `begin`, then rises on a line to `final`, which it reaches at
  `end`. It is a schedule like those of optax; `functools.partial` makes others.

  Args:
    step: Number of steps of training so far, which may be traced.
    final: The value from `end` on.
    begin, end: The steps between which it rises.

  Example:
    >>> import normjax
    >>> for step in 0, 5_000, 22_500, 40_000, 100_000:
    ...   print(normjax.renorm_r_max(step), normjax.renorm_d_max(step))
    1.0 0.0
    1.0 0.0
    2.0 4.375
    3.0 5.0
    3.0 5.0

  Reference: Ioffe, 2017, https://arxiv.org/abs/1702.03275, section 4.
  """
  return _ramp(step, _LIMITS["r_max"], final, begin, end)


def renorm_d_max(
  step: int | jax.Array,
  *,
  final: float = 5.0,
  begin: int = 5_000,
  end: int = 25_000,
) -> jax.Array:
  """Returns `d_max` of batch renormalization after `step` steps of training.

  As `renorm_r_max`, but it starts at zero.
  """
  return _ramp(step, _LIMITS["d_max"], final, begin, end)


def _ramp(
  step: int | jax.Array, start: float, final: float, begin: int, end: int
) -> jax.Array:
  steps = jnp.asarray([begin, end], jnp.float32)
  values = jnp.asarray([start, final], jnp.float32)
  return jnp.interp(jnp.asarray(step, jnp.float32), steps, values)


def _check_given(given: Mapping[str, Any]) -> None:
  """Raises unless `stats`, `momentum` and the limits make sense."""
  check_running(given)
  for name, smallest in _LIMITS.items():
    limit = as_array(name, given.get(name, smallest))
    if isinstance(limit, jax.core.Tracer):
      continue
    if isinstance(limit, jax.Array):
      # Inside of jax.jit, JAX would trace the comparison.
      limit = np.asarray(limit)
    if limit is None or np.ndim(limit) or not limit >= smallest:
      raise ValueError(
        f"{name} must be a number of at least {smallest:g}, got {limit}. With"
        " r_max=1 and d_max=0, batch renormalization is batch normalization."
      )


@jit(
  "use_running_average", "axis", "epsilon", "axis_name", "axis_index_groups",
  "running_var_ddof", "scale_offset", check=_check_given,
)  # fmt: skip
def batch_renorm(
  x: jax.Array,
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  stats: Stats | None = None,
  *,
  use_running_average: bool,
  r_max: float | jax.Array = 3.0,
  d_max: float | jax.Array = 5.0,
  axis: Axes = -1,
  momentum: float | jax.Array = 0.99,
  epsilon: float | jax.Array = 1e-5,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  running_var_ddof: int = 0,
  scale_offset: float = 0.0,
) -> tuple[jax.Array, Stats]:
  """Standardizes by the batch, corrected towards the running statistics.

  Batch norm computes one function in training and another one in evaluation.
  Here training standardizes by the batch and then multiplies by `r` and adds
  `d`, for every channel, so that the result is that of evaluation:

      r = std(batch) / std(running)             within [1 / r_max, r_max]
      d = (mean(batch) - mean(running)) / std(running)  within [-d_max, d_max]

  where a deviation is `sqrt(var + epsilon)`. It helps where batches are small
  or not drawn independently. `r` and `d` are constants for the derivative.

  Evaluation is that of `batch_norm`.

  Args:
    x, scale, bias: As in `batch_norm`.
    stats: Running statistics before this batch, shaped like `scale`. Training
      needs them too.
    use_running_average: False in training, True in evaluation.
    r_max, d_max: Limits of the correction, which may be traced. Start training
      with one and zero, batch norm, until the running statistics are good:
      `renorm_r_max` and `renorm_d_max` are the schedules of the paper.
    axis, momentum, epsilon, mask, axis_name, axis_index_groups,
      running_var_ddof, scale_offset: As in `batch_norm`.

  Returns:
    As `batch_norm`.

  Raises:
    As `batch_norm`. Also ValueError: no `stats`, or `r_max` below one or
      `d_max` below zero.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> x = jnp.array([[1.0], [3.0]])
    >>> stats = normjax.BatchStats(mean=jnp.array([1.0]), var=jnp.array([4.0]))
    >>> y, new = normjax.batch_renorm(x, stats=stats, use_running_average=False)
    >>> print(y.T, new.mean)  # (x - 1) / 2, as in evaluation.
    [[0. 1.]] [1.01]
    >>> y, new = normjax.batch_renorm(
    ...   x, stats=stats, use_running_average=False, r_max=1.0, d_max=0.1)
    >>> print(y.T)  # Standardized, plus 0.1.
    [[-0.9  1.1]]

  Reference: Ioffe, 2017, https://arxiv.org/abs/1702.03275, algorithm 1.
  """
  check_floating(x, "batch_renorm")
  check_mode("batch_renorm", "BatchStats", use_running_average, stats)
  features = canonical_axes(axis, x.ndim, "axis")
  if stats is None:
    raise ValueError(
      "batch_renorm corrects towards running statistics, got stats=None. Start"
      " with normjax.BatchStats(jnp.zeros(channels), jnp.ones(channels))."
    )
  check_stats(stats, x, features, f"axis={axis}")
  mask = canonical_mask(mask, x.shape)
  normalize = functools.partial(
    batch_norm,
    axis=features,
    epsilon=epsilon,
    mask=mask,
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
  )
  if use_running_average:
    return normalize(
      x,
      scale,
      bias,
      stats,
      use_running_average=use_running_average,
      running_var_ddof=running_var_ddof,
      scale_offset=scale_offset,
    )
  check_parameters(x, features, f"axis={axis}", scale=scale, bias=bias)
  wide = x.astype(statistics_dtype(x.dtype))
  zeros = jax.tree.map(jnp.zeros_like, (stats.mean, stats.var))
  empty = Moments(zeros[1], zeros[0], zeros[0], zeros[1])
  y, batch = normalize(wide, stats=empty, use_running_average=False)
  r, d = jax.lax.stop_gradient(
    _correction(batch, stats, r_max, d_max, epsilon, running_var_ddof)
  )
  gain = jnp.ones_like(r, wide.dtype)
  if scale is not None:
    gain = scale_offset + scale.astype(wide.dtype)
  r, d = r.astype(gain.dtype), d.astype(gain.dtype)
  y = _affine(y, r * gain, d * gain, bias, mask, features)
  stats = updated(stats, batch, momentum, running_var_ddof)
  return y.astype(x.dtype), stats


def _correction(
  batch: Moments,
  stats: RunningStats,
  r_max: float | jax.Array,
  d_max: float | jax.Array,
  epsilon: float | jax.Array,
  ddof: int,
) -> tuple[jax.Array, jax.Array]:
  """Returns r and d, in the dtype of `batch.mean`.

  They are one and zero where statistics are missing: those of the batch, if it
  has no or infinite values, or running statistics of no batch.
  """
  running = as_moments(stats, ddof)
  known = seen(stats) & (batch.count > 0)

  def real(value: float | jax.Array) -> jax.Array:
    return jnp.asarray(value).astype(batch.m2.dtype)

  deviation = jnp.sqrt(running.variance() + real(epsilon))
  ratio = jnp.sqrt(batch.var + real(epsilon)) / deviation
  r = jnp.clip(ratio, 1 / real(r_max), real(r_max))
  gap = (batch.mean - running.mean) + (batch.mean_tail - running.mean_tail)
  d = gap / deviation.astype(gap.dtype)
  # Complex numbers keep their direction.
  size = jnp.minimum(jnp.abs(d), real(d_max))
  d = jnp.sign(d) * size.astype(d.dtype)
  return (
    sharding.where(known, r, jnp.ones_like(r)),
    sharding.where(known, d, jnp.zeros_like(d)),
  )


def _affine(
  y: jax.Array,
  gain: jax.Array,
  shift: jax.Array,
  bias: jax.Array | None,
  mask: jax.Array | None,
  features: tuple[int, ...],
) -> jax.Array:
  """Returns `y * gain + shift + bias`; `bias` where the mask is False."""
  axes = complement(features, y.ndim)
  view = fold(y, mask, Groups(axes), features)

  def spread(value: jax.Array) -> jax.Array:
    value = view.parameter(value, features).astype(y.dtype)
    return jnp.expand_dims(value, view.axes(axes))

  y = masked(view.array(y) * spread(gain) + spread(shift), view.array(mask))
  return view.unfold(y if bias is None else y + spread(bias))
