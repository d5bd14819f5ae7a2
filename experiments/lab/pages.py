"""Results of the studies as Markdown for GitHub."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.lab.claims import Verdict
from experiments.lab.tables import table

Summary = Mapping[str, Any]


def data_of(summaries: Sequence[Summary]) -> str:
  """Returns the names of the data sets, joined to the name of a folder."""
  names = {summary["data"] for summary in summaries if summary["data"]}
  return "-".join(sorted(name.replace("/", "_") for name in names))


def page(summaries: Sequence[Summary], data: str) -> str:
  """Returns a section per study: its command, its figures, its verdicts.

  Args:
    summaries: Contents of the studies' summary.json.
    data: Folder of the figures, in `studies/`.
  """
  counts = {
    verdict: sum(
      finding["verdict"] == verdict
      for summary in summaries
      for finding in summary["findings"]
    )
    for verdict in Verdict
  }
  total = ", ".join(f"{count} {name}" for name, count in counts.items())
  sections = (section(summary, data) for summary in summaries)
  return "\n".join([f"{total}.\n", *sections])


def section(summary: Summary, data: str) -> str:
  """Returns the section of one study, with the anchor `#DATA-STUDY`."""
  name = summary["study"]
  lines = [
    f'<a id="{data}-{name}"></a>',
    f"### {name.replace('_', ' ')}",
    "",
    f"`{summary['command']}` ({summary['minutes']:.1f} minutes)",
    "",
  ]
  figures = [
    f"[{pathlib.Path(figure).stem}](studies/{data}/{name}_{figure})"
    for figure in summary["figures"]
  ]
  if figures:
    lines += [f"!{figures[0]}", ""]
  if figures[1:]:
    lines += [f"More figures: {', '.join(figures[1:])}.", ""]
  return "\n".join([*lines, verdicts(summary["findings"]), ""])


def verdicts(findings: Sequence[Mapping[str, str]]) -> str:
  """Returns the table of claims, numbers and verdicts."""
  rows = [
    [
      f"{finding['claim']} [{finding['source']}]",
      f"{finding['number']}<br>({finding['criterion']})",
      finding["verdict"],
    ]
    for finding in findings
  ]
  rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
  return table(rows, ["claim", "number (criterion)", "verdict"])


def replace_results(text: str, summaries: Sequence[Summary], data: str) -> str:
  """Replaces the results on some data in a page.

  Args:
    text: The page; if it has no results on these data, they are appended.
    summaries: The new results.
    data: Result of `data_of`.
  """
  start, end = f"<!-- results on {data} -->\n", f"<!-- end of {data} -->\n"
  before, found, rest = text.partition(start)
  block = f"{start}\n{page(summaries, data)}\n{end}"
  if found:
    rest = rest.partition(end)[2]
  else:
    block = f"\n## Results on {data.replace('-', ' and ')}\n\n{block}"
  return before + block + rest
