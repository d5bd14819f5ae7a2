"""Results of the studies as Markdown for GitHub."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.lab import results
from experiments.lab.claims import Finding, Verdict
from experiments.lab.results import Record, Results
from experiments.lab.tables import table

_START, _END = "<!-- {} -->\n", "<!-- end of {} -->\n"


def anchor(study: str, claim: str) -> str:
  """Returns the anchor of a claim in docs/studies.md."""
  return f"{study}-{claim}"


def demonstrates(reason: str) -> str:
  """Returns the sentence about a study whose claims do not count."""
  return f"A demonstration, which does not count: {reason}."


def page(found: Results, demonstrations: Mapping[str, str]) -> str:
  """Returns a count of the verdicts, and a section for each study.

  Args:
    found: The results.
    demonstrations: Studies whose claims do not count, with the reason.
  """
  counted = [
    finding["verdict"]
    for study, records in found.items()
    if study not in demonstrations
    for record in records.values()
    for finding in record["findings"]
  ]
  total = ", ".join(f"{counted.count(v)} {v}" for v in Verdict)
  names = {
    finding["claim"]: None
    for study, records in found.items()
    if study not in demonstrations
    for record in records.values()
    for finding in record["findings"]
  }
  lines = [f"{len(names)} claims, {len(counted)} verdicts: {total}.", ""]
  for study, records in found.items():
    lines += section(study, records, demonstrations.get(study, ""))
  return "\n".join(lines)


def section(
  study: str, records: Mapping[str, Record], demonstration: str
) -> list[str]:
  """Returns the lines of one study, with all its data sets."""
  lines = [f'<a id="{study}"></a>', f"### {study.replace('_', ' ')}", ""]
  if demonstration:
    lines += [demonstrates(demonstration), ""]
  for data, record in records.items():
    lines.append(
      f"- {data}: `{record['command']}`, {record['minutes']:.0f} minutes"
      f" ([results](../results/{study}/{data}.json))"
    )
  lines.append("")
  for name in next(iter(records.values()))["figures"]:
    stem = pathlib.Path(name).stem
    pictures = [
      f"![{stem}, {data}](studies/{data}/{study}_{name})" for data in records
    ]
    lines += [*pictures, ""]
  if any(record["findings"] for record in records.values()):
    lines += [claims_table(study, records), ""]
  if any(record["checks"] for record in records.values()):
    lines += ["Checks:", "", checks_table(records), ""]
  if any(record["rates"] for record in records.values()):
    lines += [
      "<details><summary>Learning rates</summary>",
      "",
      rates_table(records),
      "",
      "</details>",
      "",
    ]
  return lines


def claims_table(study: str, records: Mapping[str, Record]) -> str:
  """Returns the table of claims with a column for each data set."""
  by_claim = _by_claim(records)
  rows = []
  for claim, findings in by_claim.items():
    first = next(iter(findings.values()))
    headline = "**headline** " if first["headline"] else ""
    rows.append(
      [
        f'<a id="{anchor(study, claim)}"></a>{headline}`{claim}`:'
        f" {first['sentence']} [{first['source']}]<br>({first['measured']}: to"
        f" be {first['rule']})",
        *(_cell(findings.get(data)) for data in records),
        results.summary([*findings.values()]),
      ]
    )
  return _table(rows, ["claim", *records, "in all"])


def checks_table(records: Mapping[str, Record]) -> str:
  """Returns the table of checks with a column for each data set."""
  first = next(iter(records.values()))
  rows = []
  for index, check in enumerate(first["checks"]):
    outcomes = [record["checks"][index] for record in records.values()]
    rows.append(
      [
        f"{check['sentence']} [{check['source']}] ({check['rule']})",
        *(
          f"{'holds' if o['holds'] else 'FAILS'}: {o['number']:.0e}"
          for o in outcomes
        ),
      ]
    )
  return _table(rows, ["check", *records])


def rates_table(records: Mapping[str, Record]) -> str:
  """Returns the table of the chosen rates with their neighbours."""
  arms = dict.fromkeys(
    arm for record in records.values() for arm in record["rates"]
  )
  rows = [
    [arm, *(_rates(record["rates"].get(arm)) for record in records.values())]
    for arm in arms
  ]
  return _table(rows, ["arm", *records])


def headlines(found: Results) -> str:
  """Returns the table of the headline claims."""
  rows = []
  for study, records in found.items():
    for claim, findings in _by_claim(records).items():
      first = next(iter(findings.values()))
      if first["headline"]:
        link = f"docs/studies.md#{anchor(study, claim)}"
        rows.append(
          [
            f"{first['sentence']} [{first['source']}]",
            f"[{results.summary([*findings.values()])}]({link})",
          ]
        )
  return _table(rows, ["claim", "verdict"])


def replaced(text: str, name: str, block: str) -> str:
  """Returns a page with the block between its markers replaced.

  Args:
    text: The page, with `<!-- NAME -->` and `<!-- end of NAME -->`.
    name: Name of the block.
    block: Its new content.

  Raises:
    ValueError: The page has no such markers.
  """
  start, end = _START.format(name), _END.format(name)
  before, found, rest = text.partition(start)
  _, closed, after = rest.partition(end)
  if not (found and closed):
    raise ValueError(f"The page has no {start.strip()} ... {end.strip()}.")
  return f"{before}{start}\n{block.rstrip()}\n\n{end}{after}"


def listed(record: Record) -> str:
  """Returns the verdicts of a record as printed lines."""
  return "\n".join(str(Finding(**finding)) for finding in record["findings"])


def _by_claim(
  records: Mapping[str, Record],
) -> dict[str, dict[str, Mapping[str, Any]]]:
  """Returns the findings by claim and by data."""
  found: dict[str, dict[str, Mapping[str, Any]]] = {}
  for data, record in records.items():
    for finding in record["findings"]:
      found.setdefault(finding["claim"], {})[data] = finding
  return found


def _cell(finding: Mapping[str, Any] | None) -> str:
  if finding is None:
    return ""
  found = Finding(**finding)
  remark = f"<br>{found.remark}" if found.remark else ""
  return f"**{found.verdict}**{remark}<br>{found.number}<br>{found.evidence}"


def _rates(choice: Mapping[str, Any] | None) -> str:
  """Returns the chosen rate and its neighbours, with their losses."""
  if choice is None:
    return ""
  at = choice["rates"].index(choice["rate"])
  near = range(max(0, at - 1), min(len(choice["rates"]), at + 2))
  parts = []
  for index in near:
    loss = choice["validation"][index]
    text = f"{choice['rates'][index]:.2g}: "
    text += "diverged" if loss is None else f"{loss:.3f}"
    parts.append(f"**{text}**" if index == at else text)
  edge = "" if choice["interior"] else " (edge of the grid)"
  return ", ".join(parts) + edge


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
  return table(
    [[cell.replace("|", r"\|") for cell in row] for row in rows], headers
  )
