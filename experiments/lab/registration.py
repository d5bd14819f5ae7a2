"""The text of experiments/REGISTERED.md, made from what studies declare."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from experiments.lab import resolution, statistics, tuning
from experiments.lab.claims import Claim, Ratio
from experiments.lab.declaration import Study
from experiments.lab.tables import table

_DEFAULT_SEEDS = 5


def text(studies: Mapping[str, Study[Any]], commands: Mapping[str, str]) -> str:
  """Returns the whole page.

  Args:
    studies: The studies by name.
    commands: Command of each, without --confirm.
  """
  headlines = [
    f"`{name}/{claim.name}`"
    for name, study in studies.items()
    for claim in study.claims
    if claim.headline
  ]
  share = f"{resolution.SHARE:.0%}"
  intro = f"""# Registered claims

`python -m experiments.registered` writes this page from the claims that the
studies declare. It is committed before the runs that decide, so that nobody can
choose a claim, a margin or an analysis after a look at them. The commit of each
run is in its file in [results/](../results).

- **Seeds.** First pilots used the seeds 0 to 4. The runs that decide
  (`--confirm`) were to use the seeds from 100 on. After a look at the results
  of the seeds 100 to 119 on the digits and on pydoc, several claims and
  analyses were changed. In the studies where this happened, these seeds count
  as a pilot too, and the runs that decide use the seeds from 120 on. This goes
  for style, which lost two claims, and recurrent, which was split in two, as
  well. What the first runs found is in docs/studies.md of the commit 467f20a,
  for policy of ba8fbea, for style and recurrent of 0eb8461. What was changed
  again is judged on the seeds from 140 on. A seed determines initialization,
  order of the data and, for images, which images are for training, validation
  and test.
- **Learning rates.** Where a study chooses them, each arm gets the best rate on
  the seeds {", ".join(map(str, tuning.SEEDS))} (transformers: the first two),
  which are not judged. Best is the lowest validation loss, or what the study
  names below, such as the error (regularize), the training loss (whitening),
  the return (policy) or the average precision (detection). A grid whose best
  rate is its first or last one grows, by at most {tuning.MOST} rates. Each
  study says below which rates are chosen.
- **Number of seeds.** 20 in most studies, 40 in regularize, 10 where a study is
  expensive or far from its margins. They are too few for some claims, also for
  headlines: the lines "Resolved" say so. "Resolved" is the distance from the
  margin that these seeds resolve in {share} of the runs, with the pilot's
  spread, after Holm's strictest correction (noncentral t). It also says how
  often a run would show that the margin is not reached, if there is no effect
  at all. For "within", "less than" and "no worse" this means CONFIRMED. For "at
  least" it is no verdict yet, since SMALLER THAN CLAIMED needs an effect that
  is shown. By rank, it is the number of seeds that may lie on the other side of
  the margin. Spreads are those of the first pilots. Where a quantity was
  changed later (see "Pilot"; in the transformers, the test text replaced the
  validation text), its spread is that of the earlier one.
- **Analysis.** Seeds are paired. The interval of a mean is Student's t, or that
  of the studentized bootstrap if ten seeds or more are skewed (skewness beyond
  1). Ratios are analysed as logarithms. Claims about nets of which a few seeds
  may fail, and about numbers that are known only in order, are judged by the
  median and the sign test. Seeds that diverged count as the cap where there is
  one; otherwise they are infinitely bad, and the median is judged. Holm's
  correction is for all claims of a study on one data set.
- **Verdicts.** CONFIRMED: beyond the margin. SMALLER THAN CLAIMED: there is an
  effect, but it does not reach the margin. REFUTED: the opposite. UNRESOLVED:
  the data do not decide.

Headline claims: {", ".join(headlines)}.
"""
  sections = [
    _section(name, study, commands[name]) for name, study in studies.items()
  ]
  return "\n".join([intro, *sections])


def _section(name: str, study: Study[Any], command: str) -> str:
  lines = [f"## {name}", "", f"`{command} --confirm`"]
  seeds = study.confirm.get("seeds", study.config.seeds)
  first = study.confirm.get("seed", study.config.seed)
  if study.claims:
    lines[-1] += f", seeds {first} to {first + seeds - 1}"
  if study.demonstration:
    lines += [
      "",
      f"A demonstration, which does not count: {study.demonstration}.",
    ]
  lines += ["", study.design.strip().split("\n\n", 1)[1].rstrip(), ""]
  settings = {**dataclasses.asdict(study.config), **study.confirm}
  for claim in study.claims:
    lines += [_entry(claim, settings, seeds, len(study.claims)), ""]
  if study.checks:
    rows = [
      [check.sentence, check.source, f"{check.quantity} {check.criterion}"]
      for check in study.checks
    ]
    lines += [table(rows, ["check", "source", "criterion"]), ""]
  return "\n".join(lines)


def _entry(
  claim: Claim, settings: Mapping[str, Any], seeds: int, claims: int
) -> str:
  """Returns the lines of one claim."""
  kind = " (headline)" * claim.headline
  if claim.uncounted:
    kind = f" (not counted: {claim.uncounted})"
  lines = [
    f"- **{claim.name}**{kind}: {claim.said(settings)}.",
    f"  - Source: {claim.source}.",
    f"  - Quantity: {claim.measured}; {claim.analysis}; to be {claim.rule}.",
    f"  - Why this margin: {claim.why}.",
    f"  - Resolved: {_resolved(claim, seeds, claims)}.",
  ]
  if claim.pilot:
    lines.append(f"  - Pilot: {claim.pilot}.")
  return "\n".join(lines)


def _resolved(claim: Claim, seeds: int, claims: int) -> str:
  counts = dict.fromkeys((seeds, _DEFAULT_SEEDS))
  each = (resolution.resolved(claim, count, claims) for count in counts)
  text = ", ".join(dict.fromkeys(each))
  if claim.analysis.by_rank or claim.spread is None:
    return text
  text += f" (spread {claim.spread:.2g})"
  if claim.analysis.none is not None:
    level = statistics.LEVEL / claims
    text += _without_effect(claim, claim.spread, seeds, level)
  return text


def _without_effect(
  claim: Claim, spread: float, seeds: int, level: float
) -> str:
  """Says how often the margin is excluded if there is no effect."""
  scale = math.log if isinstance(claim.analysis, Ratio) else float
  none = claim.analysis.none
  assert none is not None
  distances = [
    abs(scale(boundary) - scale(none)) / spread
    for boundary in claim.criterion.boundaries
    if boundary != none
  ]
  # By Bonferroni, since the interval must exclude all of them.
  missed = sum(1 - statistics.power(far, seeds, level) for far in distances)
  share = max(0.0, 1 - missed)
  text = (
    f"; without an effect, at least {share:.0%} of runs show that the margin"
    " is not reached"
  )
  if share < resolution.SHARE:
    each = 1 - (1 - resolution.SHARE) / len(distances)
    needed = statistics.seeds_for(min(distances), each, level)
    text += f" ({resolution.SHARE:.0%} would need {needed} seeds)"
  return text
