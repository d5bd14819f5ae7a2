"""Claims as values, with their criteria.

A study declares each claim once: the sentence, its source, the quantity that
decides, and the criterion. `study.Run.judge` gets the verdict from the claim.
So `--help`, the printed verdicts and the tables show the same words and
numbers.

>>> from experiments.lab.statistics import Interval
>>> claim = Claim(
...   "batch norm is better {place} the activation",
...   source="Ioffe & Szegedy 2015",
...   quantity="difference of test errors",
...   criterion=Below(0),
...   unit="points",
...   form="+.2f",
... )
>>> print(claim.judge(Interval(-0.31, 0.12), place="before"))
CONFIRMED: batch norm is better before the activation \
(difference of test errors below 0 points: -0.31 ± 0.12 points)
"""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.lab import criteria
from experiments.lab.criteria import Above as Above
from experiments.lab.criteria import AllOf as AllOf
from experiments.lab.criteria import Below as Below
from experiments.lab.criteria import Criterion
from experiments.lab.criteria import Rises as Rises
from experiments.lab.criteria import Verdict as Verdict
from experiments.lab.criteria import Within as Within
from experiments.lab.intervals import Bounds, Interval, Trend


class Finding(NamedTuple):
  """A judged claim, as in `summary.json`."""

  claim: str
  source: str
  criterion: str
  number: str
  verdict: str

  def __str__(self) -> str:
    return f"{self.verdict}: {self.claim} ({self.criterion}: {self.number})"


@dataclasses.dataclass(frozen=True)
class Claim:
  """One claim.

  Attributes:
    sentence: What is claimed. `{names}` in it stand for settings, which `judge`
      fills in.
    source: Paper or text that makes the claim.
    quantity: The quantity that the criterion judges; may have `{names}` too.
    criterion: When the claim holds.
    unit: Unit of the quantity.
    form: Format specification of the quantity, such as "+.2f".
    changed: What was changed in sentence, quantity or criterion after looking
      at results, and after which results; empty if nothing.
  """

  sentence: str
  source: str
  quantity: str
  criterion: Criterion
  unit: str = ""
  form: str = ""
  changed: str = ""

  def judge(
    self,
    quantity: Interval | Bounds | Trend | float | Mapping[str, Any],
    *,
    note: str = "",
    **settings: Any,
  ) -> Finding:
    """Returns the finding.

    Args:
      quantity: Value of the quantity; a number means an exact value, with an
        interval of width zero.
      note: Text to add to the number.
      **settings: Values of the `{names}`.

    Raises:
      KeyError: A setting, or a quantity of `AllOf`, is missing.
    """
    return Finding(
      claim=self.sentence.format_map(settings),
      source=self.source,
      criterion=self._rule(settings),
      number="; ".join(filter(None, (self._shown(quantity), note))),
      verdict=str(criteria.verdict(self.criterion, quantity)),
    )

  def _rule(self, settings: Mapping[str, Any]) -> str:
    """Returns quantity and criterion in words."""
    parts = (self.quantity.format_map(settings), str(self.criterion), self.unit)
    meaning = getattr(self.criterion, "meaning", "")
    return ", ".join(filter(None, (" ".join(filter(None, parts)), meaning)))

  def _shown(self, quantity: Any) -> str:
    if isinstance(quantity, Mapping):
      return ", ".join(
        f"{name} {_formatted(value, self.form)}"
        for name, value in quantity.items()
      )
    if isinstance(quantity, Bounds):
      return quantity.text(self.form, self.unit)
    return " ".join(filter(None, (_formatted(quantity, self.form), self.unit)))

  def explained(self) -> str:
    """Returns the text for `--help`: sentence, rule, source, changes."""
    names = _Names()
    text = (
      f"{self.sentence.format_map(names)}: {self._rule(names)}. [{self.source}]"
    )
    return f"{text} (Changed: {self.changed})" if self.changed else text


def explain(claims: Sequence[Claim]) -> str:
  """Returns the claims as a numbered list, 80 columns wide."""
  return "\n".join(
    textwrap.fill(
      claim.explained(), 80, initial_indent=f"{number:3d}. ",
      subsequent_indent=" " * 5,
    )
    for number, claim in enumerate(claims, 1)
  )  # fmt: skip


def _formatted(quantity: Any, form: str) -> str:
  if isinstance(quantity, Trend):
    return str(quantity)
  if isinstance(quantity, tuple):
    return format(quantity, form)
  return format(float(quantity), form or ".0e")


class _Name(str):
  """A setting without a value yet, shown as its name in capitals."""

  def __format__(self, spec: str) -> str:
    return self.upper()


class _Names(dict[str, _Name]):
  def __missing__(self, name: str) -> _Name:
    return _Name(name)
