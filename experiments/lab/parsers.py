"""Parsers of flags: their conditions and error messages."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from normjax.linen import norm_names


class NumberParser(flags.FloatParser):
  """A finite number that meets a condition."""

  def __init__(self, valid: Callable[[float], bool], expected: str):
    super().__init__()
    self._valid = valid
    self._expected = expected

  def convert(self, argument: Any) -> float:
    number = super().convert(argument)
    if not (math.isfinite(number) and self._valid(number)):
      raise ValueError(f"must be a number {self._expected}.")
    return number


class NamesParser(flags.ArgumentParser):
  """Distinct valid names, separated by commas; maybe the first is fixed."""

  def __init__(self, valid: Sequence[str], first: str = ""):
    self.valid = valid
    self._first = first

  def parse(self, argument: str) -> tuple[str, ...]:
    names = _parts(argument)
    unknown = [name for name in names if name not in self.valid]
    if unknown or not names:
      raise ValueError(
        f"{unknown[0] if unknown else 'nothing'!r} is not among the names"
        f" {', '.join(self.valid)}."
      )
    if len(set(names)) < len(names):
      raise ValueError("a name comes twice.")
    if self._first not in ("", names[0]):
      raise ValueError(f"the first must be {self._first}.")
    return names


class WidthsParser(flags.ArgumentParser):
  """Positive integers, separated by commas."""

  def parse(self, argument: str) -> tuple[int, ...]:
    parts = _parts(argument)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
      raise ValueError("must be positive integers, such as 128 or 256,128.")
    return tuple(map(int, parts))


def _parts(argument: str) -> tuple[str, ...]:
  return tuple(part.strip() for part in argument.split(",") if part.strip())


POSITIVE = NumberParser(lambda value: value > 0, "above 0")
NOT_NEGATIVE = NumberParser(lambda value: value >= 0, "at least 0")
SHARE = NumberParser(lambda value: 0 <= value < 1, "at least 0 and below 1")
INNER_SHARE = NumberParser(lambda value: 0 < value < 1, "between 0 and 1")
NUMBER = flags.FloatParser()
SEEDS = flags.IntegerParser(lower_bound=1, upper_bound=1000)
COUNT = flags.IntegerParser(lower_bound=1)
COUNT_OR_ZERO = flags.IntegerParser(lower_bound=0)
COUNTS = WidthsParser()
BOOLEAN = flags.BooleanParser()
NORM_NAMES = norm_names()
NORMS = NamesParser(NORM_NAMES)
NORMS_AFTER_NONE = NamesParser(NORM_NAMES, first="none")

one_of = flags.EnumParser
