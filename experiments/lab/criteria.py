"""When a claim holds: criteria that judge an estimate.

A criterion divides the numbers into regions by its boundaries, and says what
holds in each. The verdict is that of the region of the estimate, if the data
exclude the boundaries of that region; else it is UNRESOLVED.

>>> from experiments.lab.analyses import Difference
>>> found = Difference().estimate([5.1, 5.4, 5.2, 4.9], [1.2, 1.0, 0.9, 1.1])
>>> print(judge(Effect(2), found), judge(Effect(5), found))
CONFIRMED SMALLER THAN CLAIMED
>>> print(judge(Effect(-2), found), judge(Within(1), found))
REFUTED REFUTED
"""

import dataclasses
import enum
from typing import Protocol

from experiments.lab.analyses import Estimate
from experiments.lab.statistics import LEVEL


class Verdict(enum.StrEnum):
  """The result of testing a claim."""

  CONFIRMED = "CONFIRMED"
  REFUTED = "REFUTED"
  SMALLER = "SMALLER THAN CLAIMED"
  UNRESOLVED = "UNRESOLVED"


class Criterion(Protocol):
  """Says what holds for every number.

  Converts to text such as "below 0.9".
  """

  @property
  def claimed(self) -> float:
    """The size of the margin or limit, for the sentence of a claim."""

  @property
  def boundaries(self) -> tuple[float, ...]:
    """The numbers between the regions."""

  def at(self, number: float) -> Verdict:
    """Returns the verdict if the quantity is exactly this number."""


@dataclasses.dataclass(frozen=True)
class Effect:
  """There is an effect, and it is at least as large as a margin.

  CONFIRMED beyond the margin; SMALLER THAN CLAIMED between `none` and the
  margin: the effect is real but smaller; REFUTED on the other side of `none`.

  Attributes:
    margin: Size of the claimed effect; below `none` if it is a decrease.
    none: The quantity without an effect: 0 for differences, 1 for ratios.

  Raises:
    ValueError: The margin is `none`.
  """

  margin: float
  none: float = 0.0

  def __post_init__(self) -> None:
    if not (self.margin < self.none or self.margin > self.none):
      raise ValueError(f"The margin must differ from {self.none:g}.")

  @property
  def claimed(self) -> float:
    return abs(self.margin)

  @property
  def boundaries(self) -> tuple[float, ...]:
    return self.none, self.margin

  def at(self, number: float) -> Verdict:
    sign = 1 if self.margin > self.none else -1
    if sign * (number - self.margin) > 0:
      return Verdict.CONFIRMED
    if sign * (number - self.none) > 0:
      return Verdict.SMALLER
    return Verdict.REFUTED

  def __str__(self) -> str:
    side = "above" if self.margin > self.none else "below"
    return f"{side} {self.margin:.3g}"


@dataclasses.dataclass(frozen=True)
class _Limit:
  """What `Below` and `Above` share: one boundary."""

  limit: float

  @property
  def claimed(self) -> float:
    return abs(self.limit)

  @property
  def boundaries(self) -> tuple[float, ...]:
    return (self.limit,)


class Below(_Limit):
  """The quantity is below a limit; above it, the claim is REFUTED."""

  def at(self, number: float) -> Verdict:
    return Verdict.CONFIRMED if number < self.limit else Verdict.REFUTED

  def __str__(self) -> str:
    return f"below {self.limit:.3g}"


class Above(_Limit):
  """The quantity is above a limit; below it, the claim is REFUTED."""

  def at(self, number: float) -> Verdict:
    return Verdict.CONFIRMED if number > self.limit else Verdict.REFUTED

  def __str__(self) -> str:
    return f"above {self.limit:.3g}"


@dataclasses.dataclass(frozen=True)
class Within:
  """The quantity differs from `of` by less than a margin.

  This is a test of equivalence: an interval that contains `of` shows nothing,
  because a wide one often does. CONFIRMED needs the whole interval within the
  margin (two one-sided tests, each at half of the level), REFUTED the whole
  interval outside.

  Attributes:
    margin: A positive number.
    of: The number to be equal to.

  Reference: Schuirmann, 1987, https://doi.org/10.1007/BF01068419.

  Raises:
    ValueError: `margin` is not positive.

  >>> print(Within(0.05, of=1), "and", Within(2))
  within 0.05 of 1 and within ±2
  """

  margin: float
  of: float = 0.0

  def __post_init__(self) -> None:
    if not self.margin > 0:
      raise ValueError(f"margin must be positive, got {self.margin}.")

  @property
  def claimed(self) -> float:
    return self.margin

  @property
  def boundaries(self) -> tuple[float, ...]:
    return self.of - self.margin, self.of + self.margin

  def at(self, number: float) -> Verdict:
    low, high = self.boundaries
    return Verdict.CONFIRMED if low < number < high else Verdict.REFUTED

  def __str__(self) -> str:
    if self.of == 0:
      return f"within ±{self.margin:.3g}"
    return f"within {self.margin:.3g} of {self.of:.3g}"


def p_value(criterion: Criterion, estimate: Estimate) -> float:
  """Returns the level at which the verdict of the estimate is resolved.

  It is the largest p value of the boundaries: at any higher level the interval
  lies in one region, and the verdict is false only if the interval misses the
  true number.
  """
  return max(estimate.test(boundary) for boundary in criterion.boundaries)


def judge(
  criterion: Criterion, estimate: Estimate, p: float | None = None
) -> Verdict:
  """Returns the verdict.

  Args:
    criterion: The criterion.
    estimate: The estimate.
    p: Replaces the p value, by one that is corrected for many tests.
  """
  p = p_value(criterion, estimate) if p is None else p
  return criterion.at(estimate.center) if p <= LEVEL else Verdict.UNRESOLVED
