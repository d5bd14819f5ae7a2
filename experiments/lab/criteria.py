"""When a claim holds: criteria that judge an interval."""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any, Protocol

from experiments.lab.intervals import Bounds, Interval, Trend


class Verdict(enum.StrEnum):
  """The result of testing a claim."""

  CONFIRMED = "CONFIRMED"
  REFUTED = "REFUTED"
  UNRESOLVED = "UNRESOLVED"


class Criterion(Protocol):
  """Decides whether a quantity confirms or refutes a claim.

  Converts to text such as "below 0.9".
  """

  def judge(self, quantity: Any) -> Verdict: ...


@dataclasses.dataclass(frozen=True)
class Below:
  """The quantity is below a threshold.

  CONFIRMED or REFUTED if the whole interval lies on one side of the threshold,
  otherwise UNRESOLVED. One seed has no interval, so it is always UNRESOLVED.
  `meaning` explains a threshold that is a logarithm.

  >>> print(Below(0.9).judge(Interval(0.79, 0.02)))
  CONFIRMED
  >>> print(Below(0.9).judge(Interval(0.89, 0.02)))
  UNRESOLVED
  """

  threshold: float
  meaning: str = ""

  def judge(self, quantity: Interval | Bounds) -> Verdict:
    if quantity.high < self.threshold:
      return Verdict.CONFIRMED
    if quantity.low > self.threshold:
      return Verdict.REFUTED
    return Verdict.UNRESOLVED

  def __str__(self) -> str:
    return f"below {self.threshold:.3g}"


@dataclasses.dataclass(frozen=True)
class Above:
  """The quantity is above a threshold; otherwise as `Below`.

  >>> print(Above(0.5).judge(Interval(0.79, 0.02)))
  CONFIRMED
  """

  threshold: float
  meaning: str = ""

  def judge(self, quantity: Interval | Bounds) -> Verdict:
    if quantity.low > self.threshold:
      return Verdict.CONFIRMED
    if quantity.high < self.threshold:
      return Verdict.REFUTED
    return Verdict.UNRESOLVED

  def __str__(self) -> str:
    return f"above {self.threshold:.3g}"


@dataclasses.dataclass(frozen=True)
class Within:
  """The quantity differs from `of` by less than a margin.

  This is an equivalence test. An interval that contains zero shows no
  equivalence, because a wide interval often does. So CONFIRMED needs the whole
  interval inside the margin (two one-sided tests, each at half of the
  interval's error: 0.025 for a 95% interval), and REFUTED the whole interval
  outside.

  Raises:
    ValueError: `margin` is not positive.

  >>> print(Within(0.5).judge(Interval(-0.03, 0.36)))
  CONFIRMED
  >>> print(Within(0.05, of=1))
  within 0.05 of 1
  """

  margin: float
  of: float = 0.0

  def __post_init__(self) -> None:
    if not self.margin > 0:
      raise ValueError(f"margin must be positive, got {self.margin}.")

  def judge(self, quantity: Interval | Bounds) -> Verdict:
    low, high = self.of - self.margin, self.of + self.margin
    if low < quantity.low and quantity.high < high:
      return Verdict.CONFIRMED
    if quantity.high < low or quantity.low > high:
      return Verdict.REFUTED
    return Verdict.UNRESOLVED

  def __str__(self) -> str:
    if self.of == 0:
      return f"within ±{self.margin:.3g}"
    return f"within {self.margin:.3g} of {self.of:.3g}"


@dataclasses.dataclass(frozen=True)
class Rises:
  """A trend over ordered settings is significant.

  CONFIRMED if the p value of "it rises" is below `level`, REFUTED if the p
  value of "it falls" is.

  >>> print(Rises(0.05).judge(Trend(rises=0.01, falls=0.99)))
  CONFIRMED
  """

  level: float

  def judge(self, quantity: Trend) -> Verdict:
    if quantity.rises < self.level:
      return Verdict.CONFIRMED
    if quantity.falls < self.level:
      return Verdict.REFUTED
    return Verdict.UNRESOLVED

  def __str__(self) -> str:
    return f"rises (Page's test, p < {self.level:g})"


@dataclasses.dataclass(frozen=True)
class AllOf:
  """Several quantities each meet their own criterion.

  CONFIRMED if all are, REFUTED if at least one is, otherwise UNRESOLVED.

  >>> both = AllOf({"deviation": Below(0.1), "slope": Within(0.05, of=1)})
  >>> print(both)
  deviation below 0.1, slope within 0.05 of 1
  >>> print(both.judge({"deviation": Interval(0.02, 0.01),
  ...                   "slope": Interval(1.2, 0.01)}))
  REFUTED
  """

  criteria: Mapping[str, Criterion]

  def judge(self, quantity: Mapping[str, Any]) -> Verdict:
    verdicts = {
      verdict(criterion, quantity[name])
      for name, criterion in self.criteria.items()
    }
    if Verdict.REFUTED in verdicts:
      return Verdict.REFUTED
    if Verdict.UNRESOLVED in verdicts:
      return Verdict.UNRESOLVED
    return Verdict.CONFIRMED

  def __str__(self) -> str:
    return ", ".join(f"{name} {c}" for name, c in self.criteria.items())


def verdict(criterion: Criterion, quantity: Any) -> Verdict:
  """Judges a quantity; it may be an exact number without an interval."""
  if isinstance(quantity, tuple | Mapping):
    return criterion.judge(quantity)
  if math.isnan(quantity):  # NaN meets no criterion.
    return Verdict.REFUTED
  return criterion.judge(Interval(float(quantity), 0.0))
