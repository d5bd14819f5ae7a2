"""Running statistics: what the statistics of a batch do to those so far.

The type of the statistics says what they are an average of: `BatchStats` and
`DebiasedStats` of recent batches, `Moments` of all values alike.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from normjax.functional import sharding
from normjax.functional.arguments import as_array, jit
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
  stats: Stats,
  batch: GroupMoments | Moments,
  momentum: float | jax.Array,
  ddof: int,
) -> Stats:
  """Returns running statistics in their old dtype and sharding.

  A channel keeps its old statistics if it has no elements, or if its new
  statistics are not finite: an infinite value would never leave the average.
  """
  finite = jnp.isfinite(batch.mean) & jnp.isfinite(batch.m2)
  new: RunningStats
  if isinstance(stats, Moments):
    new = _merged(stats, Moments(*batch), finite)
  elif isinstance(stats, DebiasedStats):
    new = _debiased(stats, batch, finite, momentum, ddof)
  else:
    new = _exponential(stats, batch, finite, momentum, ddof)
  return new  # type: ignore[return-value]  # Of the type of `stats`.


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
  seen = _real(momentum, stats.weight) * stats.weight

  def mixed(old: jax.Array, new: jax.Array) -> jax.Array:
    new = _cast(new, old)
    before = sharding.where(seen > 0, old, new)
    # A step: an average of equal values stays as it is, in every digit.
    step = (new - before) / _real(1 + seen, old)
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
  def mixed(old: jax.Array, new: jax.Array, known: jax.Array) -> jax.Array:
    share = _real(momentum, old)
    mix = share * old + (1 - share) * _cast(new, old)
    return _where(finite & known, mix, old)

  return BatchStats(
    mixed(stats.mean, batch.mean, batch.count > 0),
    mixed(stats.var, batch.variance(ddof), batch.count > ddof),
  )


def _real(value: float | jax.Array, old: jax.Array) -> jax.Array:
  """Returns a real number in the precision of `old`."""
  return jnp.asarray(value).astype(jnp.finfo(old.dtype).dtype)


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
