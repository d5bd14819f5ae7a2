"""Running statistics: what the statistics of a batch do to those so far.

The type of the statistics says what they are an average of: `BatchStats`,
`DebiasedStats` and `WhiteningStats` of recent batches, `Moments` of all values
alike.
"""

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from normjax.functional import sharding
from normjax.functional.arguments import as_array, jit, statistics_dtype
from normjax.functional.moments import GroupMoments, Moments, merge_moments

if TYPE_CHECKING:
  from typing_extensions import TypeVar


class BatchStats(NamedTuple):
  """Running mean and variance, shaped like the feature axes, >= float32.

  An exponential average: a batch changes them to `momentum * old + (1 -
  momentum) * new`. What they are at first is a part of it for long.
  """

  mean: jax.Array
  var: jax.Array


class DebiasedStats(NamedTuple):
  """Running statistics in which what they are at first has no part.

  The batches have the weights of an exponential average, divided by their sum.
  So the first batch replaces what was there. A momentum of one gives all
  batches the same weight: the cumulative average.

  Attributes:
    mean, var: As in `BatchStats`.
    weight: The sum of the weights of the batches so far, where that of the last
      one is one; shaped like `var`. Start with zeros.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> stats = normjax.DebiasedStats(jnp.zeros(1), jnp.ones(1), jnp.zeros(1))
    >>> for x in jnp.array([[[1.0], [3.0]], [[5.0], [9.0]]]):
    ...   y, stats = normjax.batch_norm(
    ...     x, stats=stats, use_running_average=False, momentum=1.0)
    ...   print(stats.mean, stats.var)
    [2.] [1.]
    [4.5] [2.5]

  Reference: Kingma & Ba, 2015, https://arxiv.org/abs/1412.6980, section 3.
  """

  mean: jax.Array
  var: jax.Array
  weight: jax.Array


class WhiteningStats(NamedTuple):
  """Running mean and covariance of norms that whiten, >= float32.

  An exponential average, as in `BatchStats`.

  Attributes:
    mean: `[channels]`.
    cov: The biased covariance in every group, `[groups, size, size]`.
  """

  mean: jax.Array
  cov: jax.Array


RunningStats = BatchStats | DebiasedStats | Moments
if TYPE_CHECKING:
  # The default is what a call without statistics returns.
  Stats = TypeVar("Stats", bound=RunningStats, default=BatchStats)
else:
  Stats = RunningStats


def check_running(given: Mapping[str, Any]) -> None:
  """Raises unless `stats` are statistics and `momentum` is in [0, 1]."""
  stats = given.get("stats")
  if stats is not None and not isinstance(stats, RunningStats):
    raise TypeError(
      "stats must be a normjax.BatchStats, got"
      f" {type(stats).__name__}. Pass normjax.BatchStats(mean, var), or"
      " normjax.DebiasedStats or Moments."
    )
  _check_momentum(given)


def check_whitening(given: Mapping[str, Any]) -> None:
  """As `check_running`, for norms that whiten."""
  stats = given.get("stats")
  if stats is not None and not isinstance(stats, WhiteningStats):
    raise TypeError(
      f"stats must be a normjax.WhiteningStats, got {type(stats).__name__}."
      " Pass normjax.WhiteningStats(mean, cov)."
    )
  _check_momentum(given)


def _check_momentum(given: Mapping[str, Any]) -> None:
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


def check_mode(
  function: str, kind: str, use_running_average: bool, stats: Any
) -> None:
  """Raises unless the mode is boolean, and evaluation has statistics.

  Args:
    function: The name of the norm.
    kind: The name of the statistics that it returns.
    use_running_average, stats: Arguments of the norm.
  """
  if not isinstance(use_running_average, bool):
    raise TypeError(
      "use_running_average must be False (training) or True (evaluation), got"
      f" {use_running_average!r}."
    )
  if use_running_average and stats is None:
    raise ValueError(
      f"{function} with use_running_average=True needs running statistics, got"
      f" stats=None. Pass the {kind} that training returned, or"
      " use_running_average=False."
    )


def check_statistic(name: str, value: jax.Array | None) -> None:
  """Raises TypeError unless a statistic is an array, float32 or wider."""
  if value is None:
    raise TypeError(f"{name} must be an array, got None.")
  floating = jnp.issubdtype(value.dtype, jnp.inexact)
  if not floating or statistics_dtype(value.dtype) != value.dtype:
    raise TypeError(
      f"{name} must be float32 or wider, got {value.dtype}. Convert it: in"
      " half precision, rounding would lose the updates."
    )


def _check_given(given: Mapping[str, Any]) -> None:
  if given.get("stats") is None:
    raise TypeError(
      "update_stats changes running statistics, got stats=None. Start with"
      " normjax.BatchStats(jnp.zeros(channels), jnp.ones(channels))."
    )
  check_running(given)
  batch = given.get("batch")
  if not isinstance(batch, Moments):
    raise TypeError(
      "batch must be the Moments of the batch, as normjax.moments returns them,"
      f" got {type(batch).__name__}."
    )
  shapes = {name: value.shape for name, value in batch._asdict().items()}
  for name, value in given["stats"]._asdict().items():
    if np.shape(value) != shapes["mean"]:
      raise ValueError(
        f"stats.{name} has shape {np.shape(value)}, but the moments of the"
        f" batch have {shapes['mean']}. Take the moments over all axes but"
        " those of the features."
      )


@jit("running_var_ddof", check=_check_given)
def update_stats(
  stats: Stats,
  batch: Moments,
  *,
  momentum: float | jax.Array = 0.99,
  running_var_ddof: int = 0,
) -> Stats:
  """Returns running statistics after one more batch, which may have parts.

  `batch_norm` does this for the batch that it standardizes. If the batch has
  parts, as when gradients are accumulated over microbatches, merge the moments
  of the parts first. The result is that of the whole batch.

  Args:
    stats: `BatchStats`, `DebiasedStats` or `Moments`, which say what they do.
    batch: Moments of the batch, shaped like `stats.mean`.
    momentum: The share of the old statistics that is kept, as in `batch_norm`.
    running_var_ddof: The running variance divides by `count` minus this number.

  Returns:
    Statistics of the type and dtype of `stats`. A channel keeps its old ones if
    it has no elements, or if its new ones are not finite.

  Raises:
    TypeError: `stats` are no statistics, or `batch` is not `Moments`.
    ValueError: `momentum` is not between 0 and 1, or shapes differ.

  Example:
    >>> import functools, jax.numpy as jnp, normjax
    >>> x = jnp.arange(12.0).reshape(6, 2)
    >>> stats = normjax.BatchStats(mean=jnp.zeros(2), var=jnp.ones(2))
    >>> parts = [normjax.moments(part, axes=0) for part in (x[:4], x[4:])]
    >>> batch = functools.reduce(normjax.merge_moments, parts)
    >>> print(normjax.update_stats(stats, batch, momentum=0.9).mean)
    [0.5 0.6]
    >>> _, stats = normjax.batch_norm(
    ...   x, stats=stats, use_running_average=False, momentum=0.9)
    >>> print(stats.mean)
    [0.5 0.6]
  """
  return updated(stats, batch, momentum, running_var_ddof)


def after_microbatch(
  stats: Stats,
  pending: Moments,
  calls: jax.Array,
  microbatches: int,
  *,
  momentum: float | jax.Array,
  running_var_ddof: int,
) -> tuple[Stats, Moments, jax.Array]:
  """Returns statistics that change with the last microbatch of a batch.

  Args:
    stats: Statistics before the batch.
    pending: Moments of the batch so far, with those of this microbatch.
    calls: How many microbatches came before this one, an integer.
    microbatches: The number of microbatches in a batch.
    momentum, running_var_ddof: As in `update_stats`.

  Returns:
    Statistics, pending moments and calls, for the next microbatch.
  """
  last = calls + 1 >= microbatches
  whole = updated(stats, pending, momentum, running_var_ddof)
  after = whole, jax.tree.map(jnp.zeros_like, pending), jnp.zeros_like(calls)
  return jax.tree.map(
    functools.partial(sharding.where, last),
    after,
    (stats, pending, calls + 1),
  )


def updated(
  stats: Stats | None,
  batch: GroupMoments | Moments,
  momentum: float | jax.Array,
  ddof: int,
) -> Stats:
  """Returns running statistics in their old dtype and sharding.

  Without old ones they are those of the batch, as `BatchStats`.

  A channel keeps its old statistics if it has no elements, or if its new
  statistics are not finite: an infinite value would never leave the average.
  """
  finite = jnp.isfinite(batch.mean) & jnp.isfinite(batch.m2)
  new: RunningStats
  if stats is None:
    new = BatchStats(batch.mean, batch.variance(ddof))
  elif isinstance(stats, Moments):
    new = _merged(stats, Moments(*batch), finite)
  elif isinstance(stats, DebiasedStats):
    new = _debiased(stats, batch, finite, momentum, ddof)
  else:
    new = _exponential(stats, batch, finite, momentum, ddof)
  return new  # type: ignore[return-value]  # See `Stats` for its default.


def _merged(stats: Moments, batch: Moments, finite: jax.Array) -> Moments:
  batch = Moments(*map(_cast, batch, stats))
  merged = merge_moments(stats, batch)
  return Moments(
    *(_where(finite, *pair) for pair in zip(merged, stats, strict=True))
  )


def _debiased(
  stats: DebiasedStats,
  batch: GroupMoments | Moments,
  finite: jax.Array,
  momentum: float | jax.Array,
  ddof: int,
) -> DebiasedStats:
  # There is one weight, so a batch counts for mean and variance or for none.
  known = finite & (batch.count > ddof)
  seen = _number(momentum, stats.weight) * stats.weight

  def mixed(old: jax.Array, new: jax.Array) -> jax.Array:
    new = _cast(new, old)
    before = sharding.where(seen > 0, old, new)
    # A step: an average of equal values stays as it is, in every digit.
    step = (new - before) / _number(1 + seen, old)
    return _where(known, before + step, old)

  return DebiasedStats(
    mixed(stats.mean, batch.mean),
    mixed(stats.var, batch.variance(ddof)),
    _where(known, 1 + seen, stats.weight),
  )


def _exponential(
  stats: BatchStats,
  batch: GroupMoments | Moments,
  finite: jax.Array,
  momentum: float | jax.Array,
  ddof: int,
) -> BatchStats:
  some, enough = finite & (batch.count > 0), finite & (batch.count > ddof)
  return BatchStats(
    _mixed(stats.mean, batch.mean, some, momentum),
    _mixed(stats.var, batch.variance(ddof), enough, momentum),
  )


def updated_whitening(
  stats: WhiteningStats,
  batch: WhiteningStats,
  known: jax.Array,
  momentum: float | jax.Array,
) -> WhiteningStats:
  """As `updated`, for norms that whiten.

  Args:
    stats: Those so far.
    batch: Those of the batch.
    known: For each group whether its statistics change, `[groups]`.
    momentum: The share of the old statistics that is kept.
  """

  def mixed(old: jax.Array, new: jax.Array) -> jax.Array:
    return _mixed(old, new, _repeated(known, old.shape), momentum)

  return WhiteningStats(*map(mixed, stats, batch))


def merged_covariance(
  cov: jax.Array, new: jax.Array, before: Moments, after: Moments
) -> jax.Array:
  """Returns covariances of all values, for those so far and those of a batch.

  They are exact where masks do not differ among the channels of a group.

  Args:
    cov: Covariances of the values so far, `[groups, size, size]`.
    new: Those of the batch.
    before: Moments of the values so far, `[channels]`, or complex `[groups]`.
    after: Moments of all values.

  Returns:
    Covariances like `cov`. A group keeps `cov` if it has no values in the
    batch, or if `new` is not finite.
  """

  def split(value: jax.Array) -> jax.Array:
    value = sharding.whole(value)
    if jnp.iscomplexobj(value):
      value = jnp.stack([value.real, value.imag], -1)
    return _repeated(value, cov.shape[:2])

  def scaled(cov: jax.Array, share: jax.Array) -> jax.Array:
    root = jnp.sqrt(share)
    return cov * root[:, :, None] * root[:, None, :]

  seen, total = split(before.count), split(after.count)
  added = total - seen + split(after.count_tail - before.count_tail)
  gap = after.mean - before.mean + (after.mean_tail - before.mean_tail)
  # From the old mean to the new one. The batch's is farther by total / added.
  step = split(gap) * jnp.sqrt(seen / jnp.maximum(added, 1))
  merged = (
    scaled(sharding.whole(cov), seen / jnp.maximum(total, 1))
    + scaled(new.astype(cov.dtype), added / jnp.maximum(total, 1))
    + step[:, :, None] * step[:, None, :]
  )
  known = jnp.all(jnp.isfinite(new), (-2, -1)) & jnp.all(added > 0, -1)
  return _where(known[:, None, None], _cast(merged, cov), cov)


def _mixed(
  old: jax.Array,
  new: jax.Array,
  known: jax.Array,
  momentum: float | jax.Array,
) -> jax.Array:
  """Returns an exponential average; the old one where `new` is not known."""
  share = _number(momentum, old)
  mixed = share * old + (1 - share) * _cast(new, old)
  return _where(known, mixed, old)


def _repeated(value: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Returns every entry as many times in a row as gives an array of a shape."""
  # `jnp.repeat` refuses meshes with explicit axes in old versions of JAX.
  times = math.prod(shape) // max(value.size, 1)
  rows = jnp.broadcast_to(value.reshape(-1, 1), (value.size, times))
  return rows.reshape(shape)


def _number(value: float | jax.Array, old: jax.Array) -> jax.Array:
  """Returns a number in the dtype of `old`, which may be complex."""
  return jnp.asarray(value).astype(old.dtype)


def _cast(value: jax.Array, old: jax.Array) -> jax.Array:
  """Returns `value` in the dtype and sharding of `old`."""
  return sharding.placed_like(value.astype(old.dtype), old)


def _where(known: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
  """Returns `new` for the channels that are known, else `old`."""
  return sharding.where(sharding.placed_like(known, old), new, old)


def seen(stats: RunningStats) -> jax.Array:
  """Returns for each channel whether a batch has a part in its statistics.

  `BatchStats` do not know; they count as seen.
  """
  if isinstance(stats, DebiasedStats):
    return stats.weight > 0
  if isinstance(stats, Moments):
    return stats.count > 0
  return jnp.ones_like(stats.var, dtype=bool)
