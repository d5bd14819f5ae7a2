"""Claims as values, with their criteria; and what the data say of them.

A study declares each claim once: who says what, the quantity, its analysis, the
margin and why it is this one. `--help`, experiments/REGISTERED.md, the printed
verdicts and docs/studies.md all come from this declaration. `judged` gives the
verdicts from numbers per seed, so that they can be made again without training.

>>> claim = Claim(
...   "before",
...   "at {points} points, batch norm errs {margin} points less before the"
...   " activation",
...   source="ours",
...   quantity="test error",
...   samples=("before", "after"),
...   analysis=Difference(),
...   criterion=Effect(-0.5),
...   why="half a point is what tutorials call better",
...   unit="points",
...   form="+.1f",
... )
>>> (finding,) = judged(
...   [(claim, [[3.0, 3.2, 2.9, 3.1], [4.1, 4.2, 4.0, 4.0]])], {"points": 99}
... )
>>> print(finding)
CONFIRMED: at 99 points, batch norm errs 0.5 points less before the activation
  test error, before minus after: -1.0 [-1.2, -0.9] points, to be below -0.5
  points; d = -10.7, p = 0.0016 (Holm 0.0016), 4 seeds
"""

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.lab import criteria, statistics
from experiments.lab.analyses import Analysis, Estimate
from experiments.lab.analyses import Difference as Difference
from experiments.lab.analyses import Level as Level
from experiments.lab.analyses import Ratio as Ratio
from experiments.lab.criteria import Above as Above
from experiments.lab.criteria import Below as Below
from experiments.lab.criteria import Criterion
from experiments.lab.criteria import Effect as Effect
from experiments.lab.criteria import Verdict as Verdict
from experiments.lab.criteria import Within as Within
from experiments.lab.statistics import Seeds


@dataclasses.dataclass(frozen=True)
class Claim:
  """One claim.

  Attributes:
    name: Identifier within the study, of lower-case letters, digits and "_".
    sentence: What is claimed, with the margin. `{margin}` stands for the
      absolute value of the margin or limit, other `{names}` for settings of the
      study.
    source: Who says so: paper and section; "ours" if nobody else does.
    quantity: What is measured, once per seed.
    samples: Names of the samples, in the order of the analysis.
    analysis: Turns the samples into an estimate.
    criterion: When the claim holds.
    why: Why the margin is this one.
    unit: Unit of the estimate.
    form: Format specification of the estimate, such as "+.2f".
    pilot: What of the claim was decided after a look at pilot runs, and which.
    spread: Standard deviation over seeds in the pilot, in the unit of the
      estimate, for ratios of their natural logarithm.
    headline: Whether it is one of the claims that most readers come for; these
      have their sensitivity measured.
    uncounted: Why it is not counted as a claim, if it is not, such as "a
      control".

  Raises:
    ValueError: The criterion compares a ratio with a number that is not
      positive.
  """

  name: str
  sentence: str
  source: str
  quantity: str
  samples: tuple[str, ...]
  analysis: Analysis
  criterion: Criterion
  why: str
  unit: str = ""
  form: str = ".2f"
  pilot: str = ""
  spread: float | None = None
  headline: bool = False
  uncounted: str = ""

  def __post_init__(self) -> None:
    if isinstance(self.analysis, Ratio) and min(self.criterion.boundaries) <= 0:
      raise ValueError(
        f"{self.name}: a ratio must be compared with positive numbers, got"
        f" {self.criterion.boundaries}; give Effect none=1, and Within of=1."
      )

  def said(self, settings: Mapping[str, Any]) -> str:
    """Returns the sentence with its margin and settings filled in."""
    margin = f"{self.criterion.claimed:g}"
    return self.sentence.format_map({**settings, "margin": margin})

  @property
  def measured(self) -> str:
    """What is estimated, in words."""
    between = {Difference: " minus ", Ratio: " / "}
    joined = between.get(type(self.analysis), ", ").join(self.samples)
    return f"{self.quantity}, {joined}"

  @property
  def rule(self) -> str:
    """The criterion in words, with its unit."""
    return f"{self.criterion} {self.unit}".rstrip()


class Finding(NamedTuple):
  """A judged claim, as in `summary.json` and in `results/`.

  Attributes:
    claim: Name of the claim.
    sentence, source, measured, rule: See `Claim`.
    values: The samples by name, a number per seed; None for diverged seeds.
    estimate, low, high: The estimate and its 95% interval; None for infinite.
    method: How the interval was made: "t", "bootstrap" or "ranks".
    effect: Size of the effect, see `analyses.Estimate`: the distance from no
      effect, or, if it is of a single sample, from the limit. None in older
      summaries.
    p, holm: p value of the verdict, and Holm's correction of it for all claims
      of the study.
    seeds: Number of seeds.
    verdict: A `Verdict`, by the corrected p value.
    number: The estimate and its interval as text.
    remark: Whether the estimate is a median instead of a mean, which samples
      count as the cap, and what an UNRESOLVED claim leaves open; often empty.
    headline, uncounted: See `Claim`.
  """

  claim: str
  sentence: str
  source: str
  measured: str
  rule: str
  values: Mapping[str, Sequence[float | None]]
  estimate: float | None
  low: float | None
  high: float | None
  method: str
  effect: float | None
  p: float
  holm: float
  seeds: int
  verdict: str
  number: str
  remark: str
  headline: bool
  uncounted: str = ""

  @property
  def evidence(self) -> str:
    """Effect size, p values and number of seeds as text."""
    name = "shares" if self.method == "ranks" else "d"
    effect = "" if self.effect is None else f"{name} = {self.effect:.1f}, "
    return (
      f"{effect}p = {_p(self.p)} (Holm {_p(self.holm)}),"
      f" {self.seeds} seed{'s' * (self.seeds > 1)}"
    )

  def __str__(self) -> str:
    text = f"{self.measured}: {self.number}, to be {self.rule}; {self.evidence}"
    if self.remark:
      text += f"; {self.remark}"
    text = textwrap.fill(text, 80, initial_indent="  ", subsequent_indent="  ")
    return f"{self.verdict}: {self.sentence}\n{text}"


def judged(
  samples: Sequence[tuple[Claim, Sequence[Seeds]]],
  settings: Mapping[str, Any],
) -> list[Finding]:
  """Judges all claims of a study on one data set, with Holm's correction.

  Args:
    samples: The claims, each with its samples.
    settings: Settings of the study, for the sentences.
  """
  estimates = [claim.analysis.estimate(*values) for claim, values in samples]
  p_values = [
    criteria.p_value(claim.criterion, estimate)
    for (claim, _), estimate in zip(samples, estimates, strict=True)
  ]
  level = statistics.LEVEL / max(1, len(samples))
  return [
    _finding(claim, values, estimate, p, holm, level, settings)
    for (claim, values), estimate, p, holm in zip(
      samples, estimates, p_values, statistics.holm(p_values), strict=True
    )
  ]


def _finding(
  claim: Claim,
  values: Sequence[Seeds],
  estimate: Estimate,
  p: float,
  holm: float,
  level: float,
  settings: Mapping[str, Any],
) -> Finding:
  verdict = criteria.judge(claim.criterion, estimate, holm)
  return Finding(
    claim=claim.name,
    sentence=claim.said(settings),
    source=claim.source,
    measured=claim.measured,
    rule=claim.rule,
    values={
      name: [_finite(value) for value in np.asarray(sample, np.float64)]
      for name, sample in zip(claim.samples, values, strict=True)
    },
    estimate=_finite(estimate.center),
    low=_finite(estimate.low),
    high=_finite(estimate.high),
    method=estimate.method,
    effect=estimate.effect(_reference(claim, estimate)),
    p=p,
    holm=holm,
    seeds=estimate.seeds,
    verdict=str(verdict),
    number=_number(claim, values, estimate),
    remark="; ".join(
      filter(
        None,
        (
          _median(claim, values, estimate),
          _at_cap(claim, values),
          _open(claim, estimate, verdict, level),
        ),
      )
    ),
    headline=claim.headline,
    uncounted=claim.uncounted,
  )


def _reference(claim: Claim, estimate: Estimate) -> float:
  """Returns no effect, or for a single sample the limit that is nearest."""
  if claim.analysis.none is not None:
    return claim.analysis.none
  return min(
    claim.criterion.boundaries,
    key=lambda boundary: abs(boundary - estimate.center),
  )


def _median(claim: Claim, values: Sequence[Seeds], estimate: Estimate) -> str:
  """Says so if the median replaces the mean that was registered."""
  by_rank = estimate.method == "ranks"
  if claim.analysis.by_rank or not by_rank or estimate.seeds == 1:
    return ""
  count = _diverged(values)
  if claim.analysis.cap is not None or not count:
    return "the median, because all seeds are equal"
  return f"the median, because {count} seed{'s' * (count > 1)} diverged"


def _at_cap(claim: Claim, values: Sequence[Seeds]) -> str:
  """Says how many seeds count as the cap, and if that makes a bound.

  Without a cap, the first sample would make the estimate larger, and the second
  one, which is subtracted or divided by, smaller.
  """
  cap = claim.analysis.cap
  if cap is None:
    return ""
  capped = ~(np.asarray(values, np.float64) < cap)  # NaN counts as the cap.
  counts = capped.sum(axis=1)
  where = [
    f"{count} of {capped.shape[1]} seeds of {name}"
    for name, count in zip(claim.samples, counts, strict=True)
    if count
  ]
  if not where:
    return ""
  text = f"the cap of {cap:.4g} stands for {' and '.join(where)}"
  if len(where) > 1:
    return text
  return f"{'a lower' if counts[0] else 'an upper'} bound, because {text}"


def _number(claim: Claim, values: Sequence[Seeds], estimate: Estimate) -> str:
  """Returns the estimate as text; in words if both ends are infinite."""
  if not (math.isinf(estimate.low) and estimate.low == estimate.high):
    return estimate.text(claim.form, claim.unit)
  word = "infinite" if estimate.low > 0 else "minus infinite"
  return f"{word}: {_diverged(values)} of {estimate.seeds} seeds diverged"


def _diverged(values: Sequence[Seeds]) -> int:
  """Returns in how many seeds a sample has no number."""
  finite = np.isfinite(np.asarray(values, np.float64))
  return int((~finite.all(axis=0)).sum())


def _open(
  claim: Claim, estimate: Estimate, verdict: Verdict, level: float
) -> str:
  """Returns what is known of an unresolved effect.

  Args:
    claim, estimate, verdict: See `Finding`.
    level: Level of each test, so low that all remarks of a study hold. An
      estimate beyond the margin at this level is resolved.
  """
  criterion = claim.criterion
  if verdict is not Verdict.UNRESOLVED or not isinstance(
    criterion, criteria.Effect
  ):
    return ""
  if estimate.test(criterion.margin) <= level:
    return "smaller than claimed, but whether there is any effect is open"
  if estimate.test(criterion.none) <= level:
    return "there is an effect, but whether it is as large as claimed is open"
  return ""


@dataclasses.dataclass(frozen=True)
class Check:
  """An identity, or what a unit test would check; it has no seeds.

  Attributes:
    name: Identifier within the study.
    sentence: What must hold.
    source: Where it is written.
    quantity: What is measured.
    criterion: `Below` or `Above`.
  """

  name: str
  sentence: str
  source: str
  quantity: str
  criterion: Below | Above

  def outcome(self, number: float) -> "Outcome":
    """Returns whether it holds; NaN does not."""
    return Outcome(
      self.name,
      self.sentence,
      self.source,
      f"{self.quantity} {self.criterion}",
      float(number),
      self.criterion.at(number) is Verdict.CONFIRMED,
    )


class Outcome(NamedTuple):
  """The outcome of a check, as in `summary.json`."""

  check: str
  sentence: str
  source: str
  rule: str
  number: float
  holds: bool

  def __str__(self) -> str:
    word = "HOLDS" if self.holds else "FAILS"
    return f"{word}: {self.sentence} ({self.rule}: {self.number:.0e})"


def explain(
  claims: Sequence[Claim],
  checks: Sequence[Check] = (),
  settings: Mapping[str, Any] = {},
) -> str:
  """Returns claims and checks as a list for `--help`, 80 columns wide."""
  texts = [
    f"{claim.said(settings)}. [{claim.source}] {claim.measured}: {claim.rule}."
    for claim in claims
  ]
  texts += [
    f"Check: {check.sentence}. [{check.source}] {check.quantity}:"
    f" {check.criterion}."
    for check in checks
  ]
  return "\n".join(
    textwrap.fill(
      text, 80, initial_indent=f"{number:3d}. ", subsequent_indent=" " * 5
    )
    for number, text in enumerate(texts, 1)
  )


def _finite(number: float) -> float | None:
  return float(number) if math.isfinite(number) else None


def _p(number: float) -> str:
  """Returns two digits, or as many as show on which side of 5% it is."""
  if number < 1e-4:
    return "<1e-4"
  texts = (f"{number:.{digits}g}" for digits in range(2, 18))
  level = statistics.LEVEL
  return next(
    text for text in texts if (float(text) <= level) == (number <= level)
  )
