"""Confidence intervals and p values, and how they are printed."""

import math
from typing import NamedTuple


class Interval(NamedTuple):
  """A mean over seeds and the half width of its confidence interval.

  Converts to text with two significant digits of the half width, or with a
  format specification. The half width is NaN for a single seed, and then it is
  left out.

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


class Bounds(NamedTuple):
  """An interval that need not be symmetric, for seeds that diverged.

  >>> print(Bounds(0.7, math.inf, "1 of 5 seeds diverged"))
  from 0.7 to inf; 1 of 5 seeds diverged
  """

  low: float
  high: float
  note: str

  def __str__(self) -> str:
    return format(self, ".3g")

  def __format__(self, spec: str) -> str:
    return self.text(spec or ".3g", "")

  def text(self, spec: str, unit: str) -> str:
    """Returns the bounds with their unit, then the note."""
    bounds = f"from {self.low:{spec}} to {self.high:{spec}} {unit}".rstrip()
    return f"{bounds}; {self.note}"


class Trend(NamedTuple):
  """The p values of "it rises" and of "it falls".

  >>> print(Trend(0.012, 0.99))
  p = 0.012, opposite trend p = 0.99
  """

  rises: float
  falls: float

  def __str__(self) -> str:
    return f"p = {self.rises:.2g}, opposite trend p = {self.falls:.2g}"
