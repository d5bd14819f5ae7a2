"""How much the headline claims of a study depend on its settings.

Every setting is changed alone, and the whole study is measured again, with its
own choice of learning rates. `--sensitivity` does this. A verdict that becomes
its opposite is one about this setting, not about the norm. One that becomes
UNRESOLVED only says that the seeds do not decide: compare the intervals with
those of the first row.

Each setting is a run of its own, in a subfolder, with its summary: the claims
are corrected together as in the study itself, and a setting that is finished is
not measured again. The summary of the whole has "variations", the summaries of
all settings. Tables show the headline claims.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from experiments.lab.declaration import Measure, Study
from experiments.lab.errors import RefusedError
from experiments.lab.options import DEFAULT as DEFAULT
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


def changes(study: Study[Any]) -> list[dict[str, Any]]:
  """Returns the changes of settings that are tried; the first one is none."""
  return [{}] + [
    {field: value}
    for field, values in study.sensitivity.items()
    for value in values
  ]


def measure(
  study: Study[AnyConfig], fields: Collection[str] | None = None
) -> Measure[AnyConfig]:
  """Returns the function that measures all variations of a study.

  Args:
    study: The study.
    fields: The settings to change, `DEFAULT` for the run without a change; None
      means all.

  Raises:
    RefusedError: The study does not try one of them.
  """
  tried = [DEFAULT, *study.sensitivity]
  unknown = sorted({*(fields or ())} - {*tried})
  if unknown:
    raise RefusedError(
      f"--vary={','.join(unknown)}: this study tries {', '.join(tried)}."
    )
  chosen = [
    change
    for change in changes(study)
    if fields is None or {*(change or [DEFAULT])} <= {*fields}
  ]

  def measure_all(config: AnyConfig, run: Run) -> dict[str, Any]:
    found = []
    for number, change in enumerate(chosen, 1):
      print(f"\n{label(change)} ({number} of {len(chosen)})")
      part = run.variation(label(change), change)
      summary = part.finished()
      if summary is None:
        varied = dataclasses.replace(config, **change)
        summary = part.finish(study.measure(varied, part) or {})
        # The programs of one setting of detection have 14,000 memory mappings,
        # of wide nets more; Linux allows a process 65,530 (vm.max_map_count).
        jax.clear_caches()
      found.append(summary)
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
    return DEFAULT
  ((field, value),) = change.items()
  if isinstance(value, list | tuple):
    value = ",".join(map(str, value))
  shown = f"{value:.3g}" if isinstance(value, float) else value
  return f"{field}={shown}"
