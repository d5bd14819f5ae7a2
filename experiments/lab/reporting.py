"""What a study says: intervals over seeds, verdicts, tables, metrics files."""

import enum
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np
import tabulate
import tqdm
from numpy.typing import ArrayLike

from experiments.lab import atomic, tensorboard


class Interval(NamedTuple):
  """A mean over seeds and the half width of its confidence interval.

  Converts to text with two significant digits of the half width, or with the
  digits of a format specification. A half width of NaN (one seed says nothing
  about the spread) is left out.

  >>> str(Interval(97.6412, 0.1523))
  '97.64 ± 0.15'
  >>> f"{Interval(97.6412, 0.1523):.1f}"
  '97.6 ± 0.2'
  >>> f"{Interval(97.6412, float('nan')):.1f}"
  '97.6'
  """

  mean: float
  half_width: float

  @property
  def low(self) -> float:
    return self.mean - self.half_width

  @property
  def high(self) -> float:
    return self.mean + self.half_width

  def __str__(self) -> str:
    return format(self)

  def __format__(self, spec: str) -> str:
    spec = spec or self._default_spec()
    if math.isnan(self.half_width):
      return format(self.mean, spec)
    return f"{self.mean:{spec}} ± {self.half_width:{spec.lstrip('+')}}"

  def _default_spec(self) -> str:
    if not math.isfinite(self.half_width) or self.half_width == 0:
      return ".4g"
    digits = 1 - math.floor(math.log10(self.half_width))
    return f".{max(digits, 0)}f" if digits <= 6 else ".2e"


def interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
  """Returns the mean of `values` and its Student t confidence interval.

  Args:
    values: One number per seed, `[seeds]`.
    confidence: Share of such intervals that hold the true mean.

  Returns:
    The interval; its half width is NaN for a single value.

  Raises:
    ValueError: `values` is empty, not one-dimensional or not finite.

  >>> print(interval([1.0, 2.0, 3.0]))
  2.0 ± 2.5
  """
  # Slow to import, and first needed when training is over.
  from scipy import stats

  seeds = _per_seed("values", values)
  if not 0 < confidence < 1:
    raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
  if seeds.size == 1:
    return Interval(float(seeds[0]), math.nan)
  error = seeds.std(ddof=1) / math.sqrt(seeds.size)
  quantile = stats.t.ppf((1 + confidence) / 2, seeds.size - 1)
  return Interval(float(seeds.mean()), float(quantile * error))


def paired_difference(
  values: ArrayLike, baseline: ArrayLike, confidence: float = 0.95
) -> Interval:
  """Returns the interval of `values - baseline`, seed by seed.

  Seeds that share data, order and initialization share most of their noise:
  the interval of the differences is narrower than two separate ones suggest.

  Args:
    values: One number per seed, `[seeds]`.
    baseline: The same seeds, in the same order, `[seeds]`.
    confidence: As in `interval`.

  Returns:
    The interval of the difference.

  Raises:
    ValueError: The lengths differ, or `interval` refuses the values.

  >>> paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
  Interval(mean=1.0, half_width=0.0)
  """
  ours, theirs = _paired(values, baseline)
  return interval(ours - theirs, confidence)


def paired_ratio(
  values: ArrayLike, baseline: ArrayLike, confidence: float = 0.95
) -> Interval:
  """Returns the interval of `values / baseline`, seed by seed.

  This is the interval of the mean of the ratios, symmetric like every
  `Interval`. Where the ratios scatter by more than a factor of two, compare
  the logarithms with `paired_difference` instead.

  Args:
    values: One number per seed, `[seeds]`.
    baseline: The same seeds, in the same order, `[seeds]`, all positive.
    confidence: As in `interval`.

  Returns:
    The interval of the ratio.

  Raises:
    ValueError: The lengths differ, a baseline is not positive, or `interval`
      refuses the values.

  >>> paired_ratio([1.0, 3.0], [2.0, 6.0])
  Interval(mean=0.5, half_width=0.0)
  """
  ours, theirs = _paired(values, baseline)
  if (theirs <= 0).any():
    raise ValueError(
      f"paired_ratio needs positive baselines, got {theirs.tolist()}; use"
      " paired_difference where zero or a sign change has a meaning."
    )
  return interval(ours / theirs, confidence)


def _per_seed(name: str, values: ArrayLike) -> np.ndarray:
  seeds = np.asarray(values, np.float64)
  if seeds.ndim != 1 or seeds.size == 0:
    raise ValueError(
      f"{name} must hold one number per seed, got shape {seeds.shape}."
    )
  if not np.isfinite(seeds).all():
    bad = np.flatnonzero(~np.isfinite(seeds))
    raise ValueError(
      f"{name} must be finite, got {seeds[bad].tolist()} at position"
      f" {bad.tolist()} of {seeds.size}; report diverged seeds separately"
      " rather than averaging over the others."
    )
  return seeds


def _paired(
  values: ArrayLike, baseline: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
  ours, theirs = _per_seed("values", values), _per_seed("baseline", baseline)
  if ours.size != theirs.size:
    raise ValueError(
      "A paired comparison needs the same seeds on both sides, got"
      f" {ours.size} values and {theirs.size} baselines."
    )
  return ours, theirs


class Verdict(enum.StrEnum):
  """What the seeds say about a claim."""

  CONFIRMED = "CONFIRMED"
  REFUTED = "REFUTED"
  UNRESOLVED = "UNRESOLVED"


def verdict_below(interval: Interval, threshold: float) -> Verdict:
  """Judges "the quantity is below the threshold".

  Args:
    interval: The quantity. One with a NaN half width resolves nothing.
    threshold: What the quantity is claimed to be below.

  Returns:
    CONFIRMED or REFUTED where the whole interval lies on one side of the
    threshold, else UNRESOLVED.

  >>> print(verdict_below(Interval(0.79, 0.02), 0.9))
  CONFIRMED
  """
  if interval.high < threshold:
    return Verdict.CONFIRMED
  if interval.low > threshold:
    return Verdict.REFUTED
  return Verdict.UNRESOLVED


def verdict_above(interval: Interval, threshold: float) -> Verdict:
  """Judges "the quantity is above the threshold"; see `verdict_below`."""
  return verdict_below(
    Interval(-interval.mean, interval.half_width), -threshold
  )


def verdict_within(interval: Interval, margin: float) -> Verdict:
  """Judges "the difference is too small to matter".

  An equivalence test: that an interval contains zero shows nothing, a wide one
  always does. Two one-sided tests at half of what the interval leaves out,
  0.025 for a 95% interval.

  Args:
    interval: A difference. One with a NaN half width resolves nothing.
    margin: The largest difference that would not matter, positive.

  Returns:
    CONFIRMED where the whole interval lies within `-margin` to `margin`,
    REFUTED where it lies wholly outside, else UNRESOLVED.

  Raises:
    ValueError: `margin` is not positive.

  >>> print(verdict_within(Interval(-0.03, 0.36), 0.5))
  CONFIRMED
  """
  if not margin > 0:
    raise ValueError(f"margin must be positive, got {margin}.")
  if -margin < interval.low and interval.high < margin:
    return Verdict.CONFIRMED
  if interval.high < -margin or interval.low > margin:
    return Verdict.REFUTED
  return Verdict.UNRESOLVED


_NUMBER = re.compile(
  r"(\*\*)?[-+]?(\d[\d.]*(e[-+]?\d+)?|nan|inf)( ± \S+)?( ?%)?(\*\*)?"
)


def table(rows: Iterable[Sequence[object]], headers: Sequence[str]) -> str:
  """Returns a Markdown table, ready for a terminal or a README.

  Args:
    rows: Cells row by row. Floats get four significant digits, `None` prints
      as an empty cell; format other precisions beforehand.
    headers: One per column.

  Returns:
    The table; columns that hold nothing but numbers and intervals, bold ones
    included, are aligned to the right.

  Raises:
    ValueError: A row and the headers differ in length.

  >>> print(table([["ln", Interval(97.64, 0.15)], ["in", None]],
  ...             ["norm", "test accuracy (%)"]))
  | norm   |   test accuracy (%) |
  |:-------|--------------------:|
  | ln     |        97.64 ± 0.15 |
  | in     |                     |
  """
  cells = [[_cell(value) for value in row] for row in rows]
  for row in cells:
    if len(row) != len(headers):
      raise ValueError(f"{len(headers)} headers, but a row {row}.")
  numeric = [
    all(not cell or _NUMBER.fullmatch(cell) for cell in column)
    for column in zip(*cells, strict=True)
  ]
  return tabulate.tabulate(
    cells,
    headers,
    tablefmt="pipe",  # GitHub's, and keeps the alignment when rendered.
    disable_numparse=True,
    colalign=["right" if n else "left" for n in numeric] or None,
  )


def _cell(value: object) -> str:
  if value is None:
    return ""
  if isinstance(value, float | np.floating):
    return f"{value:.4g}"
  return str(value)


def progress(
  iterable: Iterable[Any] | None = None,
  *,
  total: int | None = None,
  description: str = "",
  unit: str = "epoch",
) -> tqdm.tqdm:
  """Returns a progress bar that shows on terminals and leaves nothing behind.

  Args:
    iterable: What to iterate over; without one, call `update` on the bar.
    total: Number of steps where `iterable` cannot tell.
    description: Stands to the left of the bar.
    unit: Name of a step.

  Returns:
    The bar, a context manager. Print with its `write` method while it is up.
  """
  return tqdm.tqdm(
    iterable,
    total=total,
    desc=description or None,
    unit=unit,
    leave=False,
    dynamic_ncols=True,
    disable=not sys.stderr.isatty(),
  )


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
  """Replaces a file such that readers, and a crash, see all of it or none.

  Args:
    path: The file; its folder is created if needed.
    data: The whole new content.
  """
  with atomic.replacing(pathlib.Path(path)) as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def write_json(path: str | os.PathLike[str], value: object) -> None:
  """Writes `value` as JSON that every parser reads, atomically.

  Args:
    path: The file; its folder is created if needed.
    value: Nested dicts, lists, tuples, arrays, scalars and strings. Named
      tuples become objects. NaN and infinities, which JSON does not know,
      become null.

  Raises:
    TypeError: `value` holds something else.
  """
  text = json.dumps(_plain(value), indent=2, allow_nan=False)
  write_bytes(path, f"{text}\n".encode())


def _json_line(record: Mapping[str, object]) -> str:
  return json.dumps(_plain(record), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
  """Returns `value` made of what `json` writes."""
  if isinstance(value, Mapping):
    return {key: _plain(entry) for key, entry in value.items()}
  if hasattr(value, "_asdict"):
    return _plain(value._asdict())
  if isinstance(value, list | tuple):
    return [_plain(entry) for entry in value]
  if hasattr(value, "tolist"):  # Arrays and scalars of NumPy and JAX.
    return _plain(value.tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


class MetricsLog:
  """The metrics of a run, in `metrics.jsonl` and for TensorBoard.

  A record is a dict of JSON values, such as `{"norm": "ln", "epoch": 3,
  "train_loss": [0.11, 0.12], "seconds": 1.7}`. Each becomes one line of the
  file; `tensorboard.EventLog` tells how TensorBoard shows it. Both are complete
  up to the last record when the process is killed.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    records: Iterable[Mapping[str, object]] = (),
  ):
    """Starts both logs with exactly `records`.

    Args:
      workdir: Gets `metrics.jsonl` and the folder `tensorboard`.
      records: Those that the run's checkpoint knows. What a killed run logged
        after its last checkpoint is dropped, since it will happen again.
    """
    workdir = pathlib.Path(workdir)
    records = list(records)
    path = workdir / "metrics.jsonl"
    write_bytes(path, "".join(map(_json_line, records)).encode())
    self._events = tensorboard.EventLog(workdir / "tensorboard")
    for record in records:
      self._events.add(_plain(record))
    self._file: IO[str] = path.open("a", encoding="utf-8")

  def append(self, record: Mapping[str, object]) -> None:
    """Adds one record.

    Args:
      record: Dict of JSON values, NumPy and JAX arrays included. NaN and
        infinities become null.
    """
    self._file.write(_json_line(record))
    self._file.flush()
    self._events.add(_plain(record))

  def close(self) -> None:
    self._file.close()
    self._events.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()
