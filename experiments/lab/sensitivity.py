"""How much the headline claims of a study depend on its settings.

Every setting is changed alone, and the whole study is measured again, with its
own choice of learning rates. `--sensitivity` does this. A verdict that becomes
its opposite is one about this setting, not about the norm. One that becomes
UNRESOLVED only says that the seeds do not decide: compare the intervals with
those of the first row.

The summary of such a run has "variations" in place of findings: for each its
"change", the chosen "rates", and the findings of all claims, which are
corrected together as in the study itself. Tables show the headline claims.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.lab.declaration import Measure, Study
from experiments.lab.options import AnyConfig, Config
from experiments.lab.run import Run
from experiments.lab.tables import table

_SUFFIX = "_sensitivity"


def name(study: str) -> str:
  """Returns the name of the sensitivity runs of a study."""
  return f"{study}{_SUFFIX}"


def studied(name: str) -> str:
  """Returns the study of a run, from the name of the run."""
  return name.removesuffix(_SUFFIX)


def measure(study: Study[AnyConfig]) -> Measure[AnyConfig]:
  """Returns the function that measures all variations of a study."""

  def measure_all(config: AnyConfig, run: Run) -> dict[str, Any]:
    changes: list[dict[str, Any]] = [{}]
    changes += [
      {field: value}
      for field, values in study.sensitivity.items()
      for value in values
    ]
    found = []
    for number, change in enumerate(changes, 1):
      print(f"\n{label(change)} ({number} of {len(changes)})")
      varied = dataclasses.replace(config, **change)
      part = run.variation(label(change), dataclasses.asdict(varied))
      study.measure(varied, part)
      findings = [finding._asdict() for finding in part.findings()]
      rates = part.rates
      found.append({"change": change, "rates": rates, "findings": findings})
    print(f"\n{shown(found)}")
    return {"variations": found}

  return measure_all


def show(config: Config, run: Run, summary: Mapping[str, Any]) -> None:
  """Prints the table of a finished run."""
  print(shown(summary["variations"]))


def shown(variations: Sequence[Mapping[str, Any]]) -> str:
  """Returns a table: a row for each change, a column for each headline."""
  claims = [
    finding["claim"]
    for finding in variations[0]["findings"]
    if finding["headline"]
  ]
  rows = []
  for variation in variations:
    cells = {
      finding["claim"]: f"{finding['verdict']}, {finding['number']}"
      for finding in variation["findings"]
    }
    rows.append(
      [label(variation["change"]), *(cells.get(claim) for claim in claims)]
    )
  return table(rows, ["setting", *claims])


def label(change: Mapping[str, Any]) -> str:
  """Returns a change as a flag without dashes, such as "steps=500"."""
  if not change:
    return "default"
  ((field, value),) = change.items()
  if isinstance(value, list | tuple):
    value = ",".join(map(str, value))
  shown = f"{value:.3g}" if isinstance(value, float) else value
  return f"{field}={shown}"
