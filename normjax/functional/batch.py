"""Batch normalization."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from normjax.functional import sharding
from normjax.functional.arguments import (
  Axes,
  AxisIndexGroups,
  AxisName,
  canonical_axes,
  canonical_mask,
  check_axis_name,
  check_epsilon,
  check_floating,
  check_parameters,
  complement,
  jit,
  statistics_dtype,
)
from normjax.functional.axes import fold
from normjax.functional.dispatch import apply_norm, with_epsilon
from normjax.functional.formulas import Norm, normalize_by
from normjax.functional.groups import Groups, check_more_than_one
from normjax.functional.moments import GroupMoments, Moments
from normjax.functional.running import (
  RunningStats,
  Stats,
  check_mode,
  check_running,
  check_statistic,
  updated,
)


@jit(
  "use_running_average", "axis", "epsilon", "axis_name", "axis_index_groups",
  "running_var_ddof", "scale_offset", check=check_running,
)  # fmt: skip
def batch_norm(
  x: jax.Array,
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  stats: Stats | None = None,
  *,
  use_running_average: bool,
  axis: Axes = -1,
  momentum: float | jax.Array = 0.99,
  epsilon: float | jax.Array = 1e-5,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  running_var_ddof: int = 0,
  scale_offset: float = 0.0,
) -> tuple[jax.Array, Stats]:
  """Standardizes each channel over the batch, or by running statistics.

  Training (`use_running_average=False`) standardizes by the mean and the
  biased variance of the batch and returns updated running statistics. The type
  of `stats` says how they are updated:

  - `BatchStats`: `momentum * old + (1 - momentum) * new`.
  - `DebiasedStats`: the same average without the initial statistics. With
    `momentum=1.0` it is the cumulative average, which weighs all batches alike.
  - `Moments`: those of all values so far, exactly. There is no momentum.

  Evaluation standardizes by `stats` and returns them unchanged.

  Args:
    x: Real or complex floating array `[batch, ..., channels]`.
    scale: Gain, shaped like the feature axes of `x` in ascending order; None
      means one.
    bias: Shift, shaped like `scale`; None means zero.
    stats: Running statistics, shaped like `scale`. If None in training, those
      of the batch are returned, as `BatchStats`.
    use_running_average: False in training, True in evaluation.
    axis: The feature axis, or axes. Everything else is averaged over.
    momentum: The share of the old statistic that is kept. A number or a scalar
      array, which may be traced. PyTorch's number is one minus this.
    epsilon: Added to the variance, inside the square root. A number or a scalar
      array, which may be traced.
    mask: Boolean, broadcasts to `x`; True counts. Masked places may hold NaN,
      influence nothing and come out as `bias`. If all of a channel is masked,
      its running statistics do not change.
    axis_name: Name or names of mapped axes that are averaged over too.
    axis_index_groups: Indices along `axis_name` that belong together; see
      `jax.lax.psum`.
    running_var_ddof: The running variance divides by `count` minus this number:
      0 as in Flax and Keras, 1 as in PyTorch. `x` is always standardized by the
      biased variance.
    scale_offset: The gain is `scale_offset + scale`.

  Returns:
    An array with the shape and dtype of `x`, and statistics of the type of
    `stats`. Half precision is computed in float32 and rounded once, at the end.

  Raises:
    TypeError: `x`, `scale`, `bias` or `stats` is not floating, `stats` are
      narrower than float32 or of another type, `mask` or `use_running_average`
      is not boolean, or an axis is not an integer.
    ValueError: training with one value per channel, evaluation without
      `stats`, a parameter or statistic of the wrong shape, an axis out of
      range or repeated, an `epsilon` that is not a positive float, a `momentum`
      that is not between 0 and 1, or a `mask` that does not broadcast to `x`.
    NameError: `axis_name` is not bound.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    >>> stats = normjax.BatchStats(mean=jnp.zeros(2), var=jnp.ones(2))
    >>> y, stats = normjax.batch_norm(
    ...   x, stats=stats, use_running_average=False, momentum=0.9)
    >>> print(y)
    [[-1. -1.]
     [ 1.  1.]]
    >>> print(stats.mean, stats.var)
    [0.2 2. ] [ 1.  10.9]
    >>> y, _ = normjax.batch_norm(x, stats=stats, use_running_average=True)

  Reference: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167,
    algorithms 1 and 2.
  """
  check_floating(x, "batch_norm")
  check_epsilon(epsilon)
  check_mode("batch_norm", "BatchStats", use_running_average, stats)
  features = canonical_axes(axis, x.ndim, "axis")
  check_parameters(x, features, f"axis={axis}", scale=scale, bias=bias)
  check_stats(stats, x, features, f"axis={axis}")
  mask = canonical_mask(mask, x.shape)
  axes = complement(features, x.ndim)
  groups = Groups(
    axes, axis_name=axis_name, axis_index_groups=axis_index_groups
  )
  norm = Norm(groups, features, scale_offset=scale_offset)
  if stats is not None and use_running_average:
    running = as_moments(stats, running_var_ddof)
    return _evaluate(x, scale, bias, running, mask, epsilon, norm), stats
  check_axis_name(axis_name)
  check_more_than_one(
    groups,
    x,
    "batch_norm in training",
    element="one value per channel",
    advice="Use a larger batch, use_running_average=True, or a norm that does"
    " not look at the batch, such as layer_norm or group_norm.",
  )
  y, kept = apply_norm(x, scale, bias, mask, epsilon, norm)
  batch = kept.squeeze(axes)
  return y, updated(stats, batch, momentum, running_var_ddof)


def as_moments(stats: RunningStats, ddof: int) -> GroupMoments:
  """Returns running statistics as moments with count one."""
  tail, var = jnp.zeros_like(stats.mean), stats.var
  if isinstance(stats, Moments):
    tail, var = stats.mean_tail, stats.variance(ddof)
    # As untrained statistics are: mean zero, variance one.
    var = sharding.where(stats.count > 0, var, jnp.ones_like(var))
  return GroupMoments(jnp.ones_like(var), stats.mean, tail, var)


def _evaluate(
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  running: GroupMoments,
  mask: jax.Array | None,
  epsilon: float | jax.Array,
  norm: Norm,
) -> jax.Array:
  """Returns `x` standardized by running statistics."""
  features = norm.features
  traced, norm = with_epsilon(epsilon, norm)
  view = fold(x, mask, norm.groups, features)
  wide = view.array(x).astype(statistics_dtype(x.dtype))
  real = jnp.finfo(wide.dtype).dtype
  axes = view.axes(norm.groups.axes)

  def broadcast(value: jax.Array, dtype: jnp.dtype) -> jax.Array:
    value = view.parameter(value, features).astype(dtype)
    return jnp.expand_dims(value, axes)

  y = normalize_by(
    GroupMoments(
      *map(broadcast, running, (real, wide.dtype, wide.dtype, real))
    ),
    wide,
    view.parameter(scale, features),
    view.parameter(bias, features),
    view.array(mask),
    traced,
    norm.of_view(view),
  )
  return view.unfold(y.astype(x.dtype))


def check_stats(
  stats: RunningStats | None,
  x: jax.Array,
  features: tuple[int, ...],
  origin: str,
) -> None:
  """Raises unless `stats` are None, or floating with the right shape.

  Args:
    stats: The running statistics.
    x, origin: As in `check_parameters`.
    features: The axes of `x` that the statistics vary along.
  """
  if stats is None:
    return
  for field, value in stats._asdict().items():
    name = f"stats.{field}"
    check_parameters(x, features, origin, **{name: value})
    check_statistic(name, value)
  if jnp.iscomplexobj(x) and not jnp.iscomplexobj(stats.mean):
    raise TypeError(
      f"stats.mean is {stats.mean.dtype} but x is {x.dtype}, so its mean is"
      " complex. Start with a complex mean and a real var."
    )
