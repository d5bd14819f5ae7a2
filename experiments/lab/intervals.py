"""Confidence intervals, and how tables print them."""

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
