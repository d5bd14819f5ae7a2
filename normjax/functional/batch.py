"""Batch normalization and its running statistics."""

from collections.abc import Mapping
from typing import Any, NamedTuple

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
from normjax.functional.moments import GroupMoments


class BatchStats(NamedTuple):
  """Running mean and variance, shaped like the feature axes, >= float32."""

  mean: jax.Array
  var: jax.Array


def _check_given(given: Mapping[str, Any]) -> None:
  """Raises unless `stats` are BatchStats and `momentum` is in [0, 1]."""
  stats = given.get("stats")
  if stats is not None and not isinstance(stats, BatchStats):
    raise TypeError(
      f"stats must be a normjax.BatchStats, got {type(stats).__name__}. Pass"
      " normjax.BatchStats(mean, var)."
    )
  momentum = as_array("momentum", given.get("momentum", 0.0))
  if isinstance(momentum, jax.core.Tracer):
    return
  if isinstance(momentum, jax.Array):
    # Inside of jax.jit, JAX would trace the comparison.
    momentum = np.asarray(momentum)
  if momentum is None or np.ndim(momentum) or not 0 <= momentum <= 1:
    raise ValueError(
      f"momentum must be a number between 0 and 1, got {momentum}. It is the"
      " share of the old statistics that is kept, such as 0.99. PyTorch's is"
      " one minus this: its 0.1 is 0.9 here."
    )


@jit(
  "use_running_average", "axis", "epsilon", "axis_name", "axis_index_groups",
  "running_var_ddof", "scale_offset", check=_check_given,
)  # fmt: skip
def batch_norm(
  x: jax.Array,
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  stats: BatchStats | None = None,
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
) -> tuple[jax.Array, BatchStats]:
  """Standardizes each channel over the batch, or by running statistics.

  Training (`use_running_average=False`) standardizes by the mean and the
  biased variance of the batch and returns updated running statistics,
  `momentum * old + (1 - momentum) * new`. Evaluation standardizes by `stats`
  and returns them unchanged.

  Args:
    x: Real or complex floating array `[batch, ..., channels]`.
    scale: Gain, shaped like the feature axes of `x` in ascending order; None
      means one.
    bias: Shift, shaped like `scale`; None means zero.
    stats: Running mean and variance, shaped like `scale`. If None in training,
      the statistics of the batch are returned.
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
    An array with the shape and dtype of `x`, and `BatchStats`. Half precision
    is computed in float32 and rounded once, at the end.

  Raises:
    TypeError: `x`, `scale`, `bias` or `stats` is not floating, `stats` are
      narrower than float32 or no `BatchStats`, `mask` or `use_running_average`
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
  if not isinstance(use_running_average, bool):
    raise TypeError(
      "use_running_average must be False (training) or True (evaluation), got"
      f" {use_running_average!r}."
    )
  features = canonical_axes(axis, x.ndim, "axis")
  check_parameters(x, features, f"axis={axis}", scale=scale, bias=bias)
  _check_stats(stats, x, features, f"axis={axis}")
  mask = canonical_mask(mask, x.shape)
  axes = complement(features, x.ndim)
  groups = Groups(
    axes, axis_name=axis_name, axis_index_groups=axis_index_groups
  )
  norm = Norm(groups, features, scale_offset=scale_offset)
  if use_running_average:
    if stats is None:
      raise ValueError(
        "batch_norm with use_running_average=True standardizes by running"
        " statistics, got stats=None. Pass the BatchStats that training"
        " returned, or use_running_average=False."
      )
    return _evaluate(x, scale, bias, stats, mask, epsilon, norm), stats
  check_axis_name(axis_name)
  check_more_than_one(
    groups,
    x,
    "batch_norm in training",
    element="one value per channel",
    advice="Use a larger batch, use_running_average=True, or a norm that does"
    " not look at the batch, such as layer_norm or group_norm.",
  )
  y, batch = apply_norm(x, scale, bias, mask, epsilon, norm)
  return y, _update(stats, batch.squeeze(axes), momentum, running_var_ddof)


def _evaluate(
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  stats: BatchStats,
  mask: jax.Array | None,
  epsilon: float | jax.Array,
  norm: Norm,
) -> jax.Array:
  """Returns `x` standardized by running statistics."""
  features = norm.features
  traced, norm = with_epsilon(epsilon, norm)
  view = fold(x, mask, norm.groups, features)
  wide = view.array(x).astype(statistics_dtype(x.dtype))
  running = BatchStats(*(view.parameter(value, features) for value in stats))
  y = normalize_by(
    _as_moments(running, wide, view.axes(norm.groups.axes)),
    wide,
    view.parameter(scale, features),
    view.parameter(bias, features),
    view.array(mask),
    traced,
    norm.of_view(view),
  )
  return view.unfold(y.astype(x.dtype))


def _as_moments(
  stats: BatchStats, x: jax.Array, axes: tuple[int, ...]
) -> GroupMoments:
  """Returns running statistics as moments that broadcast, with count one."""
  mean = jnp.expand_dims(stats.mean.astype(x.dtype), axes)
  var = jnp.expand_dims(stats.var.astype(jnp.finfo(x.dtype).dtype), axes)
  return GroupMoments(jnp.ones_like(var), mean, jnp.zeros_like(mean), var)


def _update(
  stats: BatchStats | None,
  batch: GroupMoments,
  momentum: float | jax.Array,
  ddof: int,
) -> BatchStats:
  """Returns updated running statistics in their old dtype and sharding.

  A channel keeps its old statistics if it has no elements, or if its new
  statistics are not finite: an infinite value would never leave the average.
  """
  new = BatchStats(batch.mean, batch.variance(ddof))
  if stats is None:
    return new
  finite = jnp.isfinite(new.mean) & jnp.isfinite(new.var)

  def mix(old: jax.Array, new: jax.Array, known: jax.Array) -> jax.Array:
    share = jnp.asarray(momentum).astype(jnp.finfo(old.dtype).dtype)
    new = sharding.placed_like(new.astype(old.dtype), old)
    mixed = share * old + (1 - share) * new
    return sharding.where(sharding.placed_like(known, old), mixed, old)

  return BatchStats(
    mean=mix(stats.mean, new.mean, finite & (batch.count > 0)),
    var=mix(stats.var, new.var, finite & (batch.count > ddof)),
  )


def _check_stats(
  stats: BatchStats | None,
  x: jax.Array,
  features: tuple[int, ...],
  origin: str,
) -> None:
  if stats is None:
    return
  for name, value in zip(("stats.mean", "stats.var"), stats, strict=True):
    if value is None:
      raise TypeError(f"{name} must be an array, got None.")
    check_parameters(x, features, origin, **{name: value})
    if statistics_dtype(value.dtype) != value.dtype:
      raise TypeError(
        f"{name} must be float32 or wider, got {value.dtype}. Convert it: in"
        " half precision, rounding would lose the updates."
      )
  if jnp.iscomplexobj(x) and not jnp.iscomplexobj(stats.mean):
    raise TypeError(
      f"stats.mean is {stats.mean.dtype} but x is {x.dtype}, so its mean is"
      " complex. Start with a complex mean and a real var."
    )
