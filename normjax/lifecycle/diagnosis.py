"""What the numbers of a batch norm tell, and what to do about it."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normjax import functional
from normjax.lifecycle.pooling import POOL
from normjax.lifecycle.selection import Path, name_of

# Fields of a norm that its numbers depend on, and what they are where a norm
# has no such field. They are noted as variables: if nn.jit takes the code of
# one block for another, only variables tell what the other has.
FIELDS = {"epsilon": 1e-5, "running_var_ddof": 0, "scale_offset": 0}

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


def norm_diagnosis(
  path: Path,
  stats: Mapping[str, Any],
  noted: Mapping[str, Any],
  scale: Any,
) -> NormDiagnosis:
  epsilon, ddof, offset = (np.asarray(noted[name]) for name in FIELDS)
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
    path=name_of(path),
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
      " reestimate."
    )
  if norm.broken_input.any():
    yield (
      f"This batch has NaN or infinity in {norm.broken_input.sum()} of"
      f" {channels} channels. They come from before this norm, or should be"
      " masked."
    )
  if norm.untrained:
    yield (
      "The running statistics are those of initialization. Train the model, and"
      " keep what training makes of them (in Linen, with"
      " mutable=['batch_stats']), or compute them with reestimate."
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
      " axis_name, freeze the norm in fine-tuning (frozen), or"
      " use group norm."
    )
  if norm.untrained:
    return
  error = STANDARD_ERRORS / math.sqrt(max(norm.values, 1))
  if norm.typical_drift > max(DRIFT, error):
    yield (
      f"The mean of this batch is {norm.typical_drift:.2f} running standard"
      " deviations from the running mean. If other batches agree, compute the"
      " statistics anew with reestimate; in training, a lower"
      " momentum follows the parameters faster."
    )
  ratio = norm.typical_ratio
  enough = norm.values >= FEW_VALUES
  if enough and max(ratio, 1 / max(ratio, 1e-30)) > VARIANCE_RATIO:
    yield (
      f"The variance of this batch is {ratio:.2g} times the running one. If"
      " other batches agree, compute the statistics anew with"
      " reestimate."
    )


def fields(module: Any, like: jax.Array) -> dict[str, jax.Array]:
  """Returns what a norm's numbers depend on, each as an array like another."""
  return {
    name: jnp.full_like(like, getattr(module, name, default))
    for name, default in FIELDS.items()
  }


def variances(stats: Mapping[str, Any]) -> np.ndarray:
  """Returns the running variances of channels, shaped like `mean`.

  The covariances of a norm that whitens have them on their diagonals, that of
  the real and that of the imaginary part if channels are complex.
  """
  if "var" in stats:
    return np.asarray(stats["var"])
  diagonals = np.diagonal(stats["cov"], axis1=-2, axis2=-1)
  return diagonals.reshape(*np.shape(stats["mean"]), -1).sum(-1)
