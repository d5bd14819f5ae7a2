"""What may be wrong with the batch norms of a model."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.module import InterceptorContext

from normjax import functional
from normjax.linen.calls import Variables, intercepted, of_arrays
from normjax.linen.pooling import POOL, input_moments, variances, with_pools
from normjax.linen.selection import (
  Path,
  Which,
  arguments,
  chosen_paths,
  is_batch_norm,
  norm_paths,
)

# Fields of a norm that its numbers depend on, and what they are where a norm
# has no such field. They are noted as variables: if nn.jit takes the code of
# one block for another, only variables tell what the other has.
_FIELDS = {"epsilon": 1e-5, "running_var_ddof": 0, "scale_offset": 0}

# The mean of 16 values is off by a quarter of their standard deviation, and
# their variance by more than a third of itself.
FEW_VALUES = 16
# Half a standard deviation: a ReLU that half of the values pass lets 69% pass.
DRIFT = 0.5
# Three standard errors of the mean are not chance, if values are independent.
STANDARD_ERRORS = 3.0
# The output is larger or smaller by the root of two.
VARIANCE_RATIO = 2.0
# The output varies by a hundredth of what other channels' does.
SMALL_GAIN = 0.01


@dataclasses.dataclass(frozen=True)
class NormDiagnosis:
  """What a batch tells of one batch norm. Arrays are shaped like its mean.

  Attributes:
    path: Where the norm is in the model.
    values: The number of values that a channel's statistics are computed from:
      the smallest of all channels, in all calls of the norm together. Zero if
      the model does not call it.
    drift: The mean of the batch minus the running mean, in running standard
      deviations; its magnitude if it is complex. What comes out is that far
      from where it should be.
    variance_ratio: The variance of the batch over the running variance, each
      plus epsilon.
    constant: Whether the variance of the batch is below epsilon, which then
      decides what comes out.
    small_gain: Whether the gain is below 0.01 in magnitude.
    broken: Whether a running statistic is not finite, or the variance is
      negative.
    broken_input: Whether the batch has a value that is not finite.
    untrained: Whether all running means are zero and all variances one, as
      before training.
  """

  path: str
  values: int
  drift: np.ndarray
  variance_ratio: np.ndarray
  constant: np.ndarray
  small_gain: np.ndarray
  broken: np.ndarray
  broken_input: np.ndarray
  untrained: bool

  @property
  def typical_drift(self) -> float:
    """The root of the mean square of `drift`, over channels that have one."""
    drift = self.drift[np.isfinite(self.drift)]
    return float(np.sqrt(np.mean(drift**2))) if drift.size else math.nan

  @property
  def typical_ratio(self) -> float:
    """The median of `variance_ratio`, over channels that have one."""
    ratio = self.variance_ratio[np.isfinite(self.variance_ratio)]
    return float(np.median(ratio)) if ratio.size else math.nan

  @property
  def advice(self) -> tuple[str, ...]:
    """A sentence or two about each thing that may be wrong."""
    return tuple(_advice(self))


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """What a batch tells of the batch norms of a model; prints as a table.

  Attributes:
    norms: The norms by their paths, in the order of `batch_stats`.
  """

  norms: Mapping[str, NormDiagnosis]

  def __str__(self) -> str:
    if not self.norms:
      return "The model has no batch norm."
    header = (
      "norm", "channels", "values", "drift", "variance", "constant", "gain~0",
      "broken",
    )  # fmt: skip
    rows = [header, *(_row(norm) for norm in self.norms.values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
      "  ".join(
        [row[0].ljust(widths[0])]
        + [
          cell.rjust(width)
          for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
      )
      for row in rows
    ]
    advice = [
      f"{norm.path}: {sentence}"
      for norm in self.norms.values()
      for sentence in norm.advice
    ]
    return "\n".join([*lines, "", *(advice or ["Nothing seems to be wrong."])])


def diagnose(
  model: nn.Module,
  variables: Variables,
  *args: Any,
  which: Which = None,
  **options: Any,
) -> Diagnosis:
  """Returns what a batch tells of the batch norms of a model.

  Each batch norm of `normjax.linen` or `flax.linen`, and every other one that
  has `use_running_average` and keeps a `mean` and a `var` or `cov`, is compared
  with what it sees. Of a covariance only the variances are. Printed, it is a
  table with a line for each norm, and sentences of advice where something may
  be wrong:

  - *values*: of a channel, in this batch. Below 16, the mean is off by more
    than a quarter of a standard deviation, the variance by more than a third.
    With a batch for one of several devices, these are the values of a device.
  - *drift*: between batch and running mean, in running standard deviations
    (root mean square over channels). Above 0.5, which changes how many values
    pass a ReLU from half to two thirds, and above three standard errors.
  - *variance*: of the batch over the running one (median over channels). Beyond
    a factor of two, the output is larger or smaller by its root.
  - *constant*: channels with a variance below epsilon, for which epsilon
    decides what comes out.
  - *gain~0*: channels with a gain below 0.01. Others have about one.
  - *broken*: channels whose running statistics are not finite.

  Call the model as in evaluation to see what each norm gets there: the first
  norm with a drift is where to look, because all that follow it see its
  effects. Called as in training, each norm sees what it does in training.

  Args:
    model: A Linen module.
    variables: Its variables, with `batch_stats`.
    *args: A batch, as in `model.apply`.
    which: The norms to look at; None means all. As in `frozen`, but no class.
    **options: Options of `model.apply`, such as `train=False`, `mask` or
      `method`. Updates of `batch_stats` are dropped.

  Returns:
    A `Diagnosis`, in NumPy arrays. A model without `batch_stats` has no norms.

  Raises:
    TypeError: `which` is a class, or the variables are traced.
    ValueError: none is chosen, or a chosen norm does not keep a mean and a
      variance or covariance of its input, as norms that keep them for each
      domain or step.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from normjax.linen import BatchNorm, diagnose
    >>> model = nn.Sequential([
    ...   BatchNorm(use_running_average=True), nn.Dense(2)])
    >>> x = jnp.tile(jnp.array([[2.0], [4.0]]), (32, 2))
    >>> variables = model.init(jax.random.key(0), x)
    >>> variables["batch_stats"]["layers_0"]["mean"] = jnp.array([1.0, 3.0])
    >>> diagnosis = diagnose(model, variables, x)
    >>> for line in str(diagnosis).splitlines()[:2]:
    ...   print(line)
    norm      channels  values  drift  variance  constant  gain~0  broken
    layers_0         2      64   1.41      1.00         0       0       0
    >>> norm = diagnosis.norms["layers_0"]
    >>> print(norm.drift)
    [2. 0.]
    >>> print(norm.advice[0][:61])
    The mean of this batch is 1.41 running standard deviations fr
  """
  if not variables.get("batch_stats"):
    return Diagnosis({})
  if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(variables)):
    raise TypeError(
      "diagnose returns numbers and advice, so it is called outside of jax.jit"
      " and other transformations, got traced variables."
    )
  before = nn.meta.unbox(variables["batch_stats"])
  chosen = chosen_paths(before, which)
  stats = with_pools(before, chosen, [*_FIELDS])

  def intercept(
    next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext
  ) -> Any:
    module = context.module
    if not is_batch_norm(context) or not module.has_variable(
      "batch_stats", POOL
    ):
      return next_fun(*args, **kwargs)
    given = arguments(context, args, kwargs).arguments
    pool: functional.Moments = module.get_variable("batch_stats", POOL)
    seen = input_moments(module, given, pool)
    merged = functional.merge_moments(pool, seen)
    module.put_variable("batch_stats", POOL, merged)
    for name, default in _FIELDS.items():
      value = jnp.full_like(pool.m2, getattr(module, name, default))
      module.put_variable("batch_stats", name, value)
    return next_fun(*args, **kwargs)

  apply, arrays = of_arrays(
    model, args, {**options, "mutable": ["batch_stats"]}
  )
  with intercepted(intercept):
    _, updates = jax.jit(apply)({**variables, "batch_stats": stats}, arrays)
  params = nn.meta.unbox(variables.get("params", {}))
  norms = [
    _diagnosis(
      path,
      _at(before, path),
      _at(updates["batch_stats"], path),
      _at(params, path).get("scale"),
    )
    for path in norm_paths(before)
    if path in chosen
  ]
  return Diagnosis({norm.path: norm for norm in norms})


def _at(tree: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
  """Returns the branch of a tree; an empty one if there is none."""
  for name in path:
    tree = tree.get(name, {})
  return tree


def _diagnosis(
  path: Path,
  stats: Mapping[str, Any],
  noted: Mapping[str, Any],
  scale: Any,
) -> NormDiagnosis:
  epsilon, ddof, offset = (np.asarray(noted[name]) for name in _FIELDS)
  mean, var = np.asarray(stats["mean"]), variances(stats)
  seen: functional.Moments = noted[POOL]
  count = np.asarray(seen.count)
  gain = np.ones(mean.shape)
  if scale is not None:
    gain = np.asarray(scale).astype(mean.dtype)
    if gain.ndim > mean.ndim:  # The matrices of complex channels.
      gain = np.abs(gain).max(-1)
    gain = offset + gain
  with np.errstate(all="ignore"):
    batch_var = np.where(count > ddof, seen.m2 / (count - ddof), np.nan)
    difference = np.asarray(seen.mean) - mean + np.asarray(seen.mean_tail)
    drift = np.where(count > 0, difference / np.sqrt(var + epsilon), np.nan)
    ratio = (batch_var + epsilon) / (var + epsilon)
  return NormDiagnosis(
    path="/".join(path) or "itself",
    values=int(count.min()),
    drift=np.abs(drift) if np.iscomplexobj(drift) else drift,
    variance_ratio=ratio,
    constant=(count > 1) & (batch_var < epsilon),
    small_gain=np.abs(gain) < SMALL_GAIN,
    broken=~np.isfinite(mean) | ~np.isfinite(var) | (var < 0),
    broken_input=~np.isfinite(seen.mean) | ~np.isfinite(seen.m2),
    untrained=bool(np.all(mean == 0) and np.all(var == 1)),
  )


def _row(norm: NormDiagnosis) -> tuple[str, ...]:
  return (
    norm.path,
    str(norm.drift.size),
    str(norm.values),
    f"{norm.typical_drift:.2f}",
    f"{norm.typical_ratio:.2f}",
    str(norm.constant.sum()),
    str(norm.small_gain.sum()),
    str(norm.broken.sum()),
  )


def _advice(norm: NormDiagnosis) -> Iterator[str]:
  channels = norm.drift.size
  if norm.broken.any():
    yield (
      f"The running statistics of {norm.broken.sum()} of {channels} channels"
      " are not finite, or a variance is negative: evaluation gives NaN there."
      " Find what wrote them, then compute them anew with"
      " normjax.linen.reestimate."
    )
  if norm.broken_input.any():
    yield (
      f"This batch has NaN or infinity in {norm.broken_input.sum()} of"
      f" {channels} channels. They come from before this norm, or should be"
      " masked."
    )
  if norm.untrained:
    yield (
      "The running statistics are those of initialization. Call the model in"
      " training with mutable=['batch_stats'] and keep the updates, or compute"
      " them with normjax.linen.reestimate."
    )
  yield from _advice_on_batch(norm)
  if norm.constant.any():
    yield (
      f"{norm.constant.sum()} of {channels} channels hardly vary: their"
      " variance is below epsilon. What feeds them may be dead, as units whose"
      " ReLU never opens."
    )
  if norm.small_gain.all():
    yield (
      f"All gains are below {SMALL_GAIN}: the norm returns little but its bias."
      " The last norm of a residual branch may start like that; after training"
      " the branch does nothing."
    )
  elif norm.small_gain.any():
    yield (
      f"{norm.small_gain.sum()} of {channels} gains are below {SMALL_GAIN}:"
      " these channels are little but their bias, and can be pruned."
    )


def _advice_on_batch(norm: NormDiagnosis) -> Iterator[str]:
  """Yields what follows from the values in the batch."""
  if norm.values == 0:
    yield "The model does not call this norm, or all of a channel is masked."
  elif norm.values < FEW_VALUES:
    yield (
      f"{norm.values} values per channel are few. If training has as few, its"
      " statistics are noise: use larger batches, synchronize devices with"
      " axis_name, freeze the norm in fine-tuning (normjax.linen.frozen), or"
      " use group norm."
    )
  if norm.untrained:
    return
  error = STANDARD_ERRORS / math.sqrt(max(norm.values, 1))
  if norm.typical_drift > max(DRIFT, error):
    yield (
      f"The mean of this batch is {norm.typical_drift:.2f} running standard"
      " deviations from the running mean. If other batches agree, compute the"
      " statistics anew with normjax.linen.reestimate; in training, a lower"
      " momentum follows the parameters faster."
    )
  ratio = norm.typical_ratio
  enough = norm.values >= FEW_VALUES
  if enough and max(ratio, 1 / max(ratio, 1e-30)) > VARIANCE_RATIO:
    yield (
      f"The variance of this batch is {ratio:.2g} times the running one. If"
      " other batches agree, compute the statistics anew with"
      " normjax.linen.reestimate."
    )
