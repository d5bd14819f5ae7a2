"""Results as data: `results/STUDY/DATA.json`, and what can be made of them.

A file holds what a reader needs to judge again without training: the samples of
every claim, a number per seed, with the rates that were chosen, the versions,
the machine and the commit. Verdicts in docs/ are made from these files. What
`--sensitivity` measured is in `results/STUDY/sensitivity/DATA/SETTING.json`: a
file for each setting, which has a "change" of the registered settings. A run
that was repeated elsewhere is in `results/STUDY/replications/LABEL/DATA.json`;
its "replication" is the label.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from experiments.lab import claims as claiming
from experiments.lab import options, sensitivity
from experiments.lab.claims import Finding, Outcome
from experiments.lab.declaration import Study
from experiments.lab.errors import RefusedError
from experiments.lab.runs import files

FOLDER = pathlib.Path(__file__).parents[2] / "results"
SENSITIVITY = "sensitivity"
REPLICATIONS = "replications"
# Pilots with the default seeds are below it; a study registers its first one.
FIRST_SEED = 100

Record = Mapping[str, Any]
# Records by study and data.
Results = Mapping[str, Mapping[str, Record]]
# Those of `--sensitivity` for one study, by data and setting; None where it was
# not measured yet.
Varied = Mapping[str, Mapping[str, Record | None]]
# Findings or checks of a study, by name and data.
Outcomes = dict[str, dict[str, Mapping[str, Any]]]

_KEPT = (
  *("study", "command", "data", "config", "change", "versions", "machine"),
  *("minutes", "rates", "findings", "checks", "figures"),
)
ONLY_REGISTERED = ("checks", "figures")  # No page shows those of other runs.
_DIGITS = 1e-6  # Relative; SciPy's distributions differ by less.


def of_summary(
  name: str, summary: Mapping[str, Any], study: Study[Any]
) -> dict[str, Any]:
  """Returns the record of a finished run.

  Args:
    name: Name of the study in the catalog.
    summary: Its summary.
    study: What it declares.

  Raises:
    RefusedError: The run used seeds that pilots may have seen, has other
      settings than those that are registered, such as those of `--quick`, was
      made with files that are in no commit, has no verdict on a claim, or found
      no worse learning rate on one side of the best.
  """
  config = summary["config"]
  varied = "change" in summary
  if summary["findings"] and config["seed"] < FIRST_SEED:
    raise RefusedError(
      f"The run of {name} began at seed {config['seed']}. Verdicts need seeds"
      f" from {FIRST_SEED} on, which the default runs leave alone: run it with"
      " --confirm."
    )
  commit = summary["machine"]["commit"]
  if commit is None or commit.endswith("+"):
    raise RefusedError(
      f"The run of {name} was made with files that are in no commit, so nobody"
      " can tell what was registered. Commit them, then run it again."
    )
  _refuse_other_settings(name, summary, study)
  judged = {found["claim"] for found in summary["findings"]}
  missing = [claim.name for claim in study.claims if claim.name not in judged]
  if missing and not varied:
    raise RefusedError(
      f"The run of {name} gave no verdict on {', '.join(missing)}. What it"
      " printed says why; run it again where it can judge."
    )
  edges = [
    arm for arm, choice in summary["rates"].items() if not choice["interior"]
  ]
  if edges:
    raise RefusedError(
      f"The best learning rate of {', '.join(edges)} in the run of {name} is at"
      " the edge of its grid, which grew as far as it may. Register another"
      " grid, then run it again."
    )
  left_out = ONLY_REGISTERED if varied else ()
  kept = [key for key in _KEPT if key in summary and key not in left_out]
  return {key: summary[key] for key in kept} | {"study": name}


def _refuse_other_settings(
  name: str, record: Record, study: Study[Any]
) -> None:
  """Raises RefusedError if it was not made with the registered settings."""
  varied, change = "change" in record, record.get("change", {})
  if varied and change not in files.plain(sensitivity.changes(study)):
    raise RefusedError(
      f"The run of {name} has {sensitivity.label(change)}, which the study does"
      " not try. Run it again with --sensitivity."
    )
  preset = options.with_sensitivity(study.confirm) if varied else study.confirm
  registered = dataclasses.asdict(study.config) | {**preset, **change}
  config = record["config"]
  others = [
    f"--{field}={config[field]} instead of {value}"
    for field, value in files.plain(registered).items()
    if config.get(field, value) != value and field != "dataset"
  ]
  if others:
    raise RefusedError(
      f"The run of {name} has other settings than those that are registered:"
      f" {', '.join(others)}. Run it with"
      f" --{'sensitivity' if varied else 'confirm'}, and without these flags."
    )


def data_of(record: Record) -> str:
  """Returns the name of the data; "none" for studies without data."""
  return (record["data"] or "none").replace("/", "_")


def write(record: Record, folder: pathlib.Path = FOLDER) -> pathlib.Path:
  """Writes a record; it replaces that of the same study, data and setting.

  Repetitions elsewhere have places of their own.
  """
  data, place = data_of(record), folder / record["study"]
  if "change" in record:
    setting = sensitivity.label(record["change"])
    path = place / SENSITIVITY / data / f"{setting}.json"
  elif "replication" in record:
    path = place / REPLICATIONS / record["replication"] / f"{data}.json"
  else:
    path = place / f"{data}.json"
  files.write_record(path, record)
  return path


def read_folder(place: pathlib.Path) -> dict[str, Record]:
  """Returns the records in a folder, by the names of their files.

  Raises:
    DamagedError: A file was changed by hand.
  """
  found: dict[str, Record] = {}
  for path in sorted(place.glob("*.json")):
    record = files.read_record(path)
    assert record is not None, "it was listed"
    found[path.stem] = record
  return found


def read(names: Iterable[str], folder: pathlib.Path = FOLDER) -> Results:
  """Returns all records, by study in the given order and by data.

  Args:
    names: Names of the studies.
    folder: Where they are.

  Raises:
    DamagedError: A file was changed by hand.
  """
  found = {name: read_folder(folder / name) for name in names}
  return {name: records for name, records in found.items() if records}


def read_varied(
  name: str, study: Study[Any], folder: pathlib.Path = FOLDER
) -> Varied:
  """Returns the records of `--sensitivity` of a study, in its order.

  Args:
    name: Name of the study in the catalog.
    study: What it declares.
    folder: Where the records are.

  Raises:
    DamagedError: A file was changed by hand.
  """
  settings = [*map(sensitivity.label, sensitivity.changes(study))]
  return {
    place.name: {
      setting: files.read_record(place / f"{setting}.json")
      for setting in settings
    }
    for place in sorted((folder / name / SENSITIVITY).glob("*"))
  }


def with_default(
  varied: Varied, records: Mapping[str, Record], study: Study[Any]
) -> Varied:
  """Returns settings in which the registered runs stand for the default.

  They do where it was not measured and `--sensitivity` has the same seeds.

  Args:
    varied: From `read_varied`.
    records: The registered runs, by data.
    study: What it declares.
  """
  same = options.with_sensitivity(study.confirm) == dict(study.confirm)
  return {
    data: {
      **settings,
      sensitivity.DEFAULT: settings[sensitivity.DEFAULT]
      or (
        {**records[data], "change": {}} if same and data in records else None
      ),
    }
    for data, settings in varied.items()
  }


def judged_again(record: Record, study: Study[Any]) -> list[Finding]:
  """Judges the samples of a record by the claims as they are declared now.

  Raises:
    RefusedError: A claim is not declared any more, or measures something else.
  """
  declared = {claim.name: claim for claim in study.claims}
  samples = []
  for found in record["findings"]:
    claim = declared.get(found["claim"])
    if claim is None or claim.measured != found["measured"]:
      raise RefusedError(
        f"results/{record['study']} has a claim {found['claim']} of"
        f" {found['measured']}, which the study does not declare any more. Run"
        " the study again with --confirm."
      )
    samples.append((claim, list(found["values"].values())))
  return claiming.judged(samples, record["config"])


def _checked_again(record: Record, study: Study[Any]) -> Iterator[Outcome]:
  """Yields the outcomes of a record's checks as they are declared now.

  Raises:
    RefusedError: A check is not declared any more.
  """
  declared = {check.name: check for check in study.checks}
  for outcome in record["checks"]:
    check = declared.get(outcome["check"])
    if check is None:
      raise RefusedError(
        f"results/{record['study']} has a check {outcome['check']}, which the"
        " study does not declare any more. Run the study again with --confirm."
      )
    yield check.outcome(outcome["number"])


def judged_anew(record: Record, study: Study[Any]) -> dict[str, Any]:
  """Returns the record with its numbers judged by the claims of today.

  Raises:
    RefusedError: It was made with other settings than are registered now, or as
      for `judged_again`.
  """
  _refuse_other_settings(record["study"], record, study)
  again = judged_again(record, study)
  entries = {"findings": [files.plain(found._asdict()) for found in again]}
  if "checks" in record:
    entries["checks"] = [
      outcome._asdict() for outcome in _checked_again(record, study)
    ]
  return {**record, **entries}


def differences(record: Record, again: Record) -> list[str]:
  """Returns what judging again changed, one sentence for each entry.

  Args:
    record: The record as it is in the file.
    again: From `judged_anew`.
  """
  where = data_of(record)
  if "change" in record:
    where += f" ({sensitivity.label(record['change'])})"
  if "replication" in record:
    where += f" ({record['replication']})"
  return [
    f"{record['study']}/{after[key]} on {where}: {entry} is"
    f" {before.get(entry)} in the file, {value} when judged again"
    for outcomes, key in (("findings", "claim"), ("checks", "check"))
    for before, after in zip(
      record.get(outcomes, []), again.get(outcomes, []), strict=True
    )
    for entry, value in after.items()
    if not _equal(before.get(entry), value)
  ]


def compared(old: Record, new: Record) -> list[list[Any]]:
  """Returns rows that compare two runs: claim, numbers and verdicts.

  The last cell says whether the intervals overlap.
  """
  known = {found["claim"]: found for found in old["findings"]}
  rows = []
  for found in new["findings"]:
    before = known.get(found["claim"])
    if before is None:
      rows.append([found["claim"], None, found["number"], "new"])
      continue
    same = (
      "same verdict"
      if before["verdict"] == found["verdict"]
      else (f"{before['verdict']} -> {found['verdict']}")
    )
    if apart(before, found):
      same += ", intervals apart"
    rows.append([found["claim"], before["number"], found["number"], same])
  return rows


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
  """Returns whether the intervals of two findings have nothing in common.

  >>> apart({"low": 1.0, "high": 2.0}, {"low": 3.0, "high": None})
  True
  """

  def below(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    highest = _number(one["high"], math.inf)
    return highest < _number(other["low"], -math.inf)

  return below(one, other) or below(other, one)


def summary(findings: Sequence[Mapping[str, Any]]) -> str:
  """Returns the verdicts of one claim on several data sets, in words.

  >>> summary([{"verdict": "CONFIRMED"}, {"verdict": "REFUTED"}])
  'CONFIRMED on 1 of 2, REFUTED on 1 of 2'
  """
  verdicts = [finding["verdict"] for finding in findings]
  return ", ".join(
    f"{verdict} on {verdicts.count(verdict)} of {len(verdicts)}"
    for verdict in claiming.Verdict
    if verdict in verdicts
  )


def summary_of_checks(outcomes: Sequence[Mapping[str, Any]]) -> str:
  """Returns the outcomes of one check on several data sets, in words.

  >>> summary_of_checks([{"holds": True}, {"holds": False}])
  'holds on 1 of 2'
  """
  count = sum(outcome["holds"] for outcome in outcomes)
  return f"holds on {count} of {len(outcomes)}"


def by_claim(records: Mapping[str, Record]) -> Outcomes:
  """Returns the findings of a study, by claim and by data."""
  return _by_name(records, "findings", "claim")


def by_check(records: Mapping[str, Record]) -> Outcomes:
  """Returns the outcomes of a study's checks, by check and by data."""
  return _by_name(records, "checks", "check")


def _by_name(records: Mapping[str, Record], entry: str, key: str) -> Outcomes:
  found: Outcomes = {}
  for data, record in records.items():
    for outcome in record[entry]:
      found.setdefault(outcome[key], {})[data] = outcome
  return found


def _equal(old: Any, new: Any) -> bool:
  if isinstance(old, float) and isinstance(new, float):
    return math.isclose(old, new, rel_tol=_DIGITS, abs_tol=1e-12)
  return bool(old == new)


def _number(value: float | None, infinite: float) -> float:
  return infinite if value is None else value
