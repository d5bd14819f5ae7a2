"""Results of the studies as Markdown for GitHub."""

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.lab import citations, replications, results, sensitivity
from experiments.lab.claims import Finding, Outcome, Verdict
from experiments.lab.errors import RefusedError
from experiments.lab.replications import Pair, Replications
from experiments.lab.results import Record, Results, Varied
from experiments.lab.robustness import of_headlines
from experiments.lab.runs import versions
from experiments.lab.tables import table

START, END = "<!-- results -->\n", "<!-- end of results -->\n"
APPLICATIONS = "## Applications"
_NEAR = 0.05  # Rates whose losses differ by less are nearly as good.


class Links(NamedTuple):
  """Paths from the page to the files of a record."""

  record: str = "../results/{study}/{data}.json"
  figure: str = "studies/{data}/{study}_{figure}"
  replication: str = "../results/{study}/replications/{label}/{data}.json"


def anchor(study: str, name: str) -> str:
  """Returns the anchor of a claim or check in docs/studies.md."""
  return f"{study}-{name}"


def demonstrates(reason: str) -> str:
  """Returns the sentence about a study whose claims do not count."""
  return f"A demonstration, which does not count: {reason}."


def page(
  found: Results,
  demonstrations: Mapping[str, str],
  sensitivities: Mapping[str, Varied] = {},
  repeated: Mapping[str, Replications] = {},
  applications: Collection[str] = (),
  links: Links = Links(),  # noqa: B008
) -> str:
  """Returns a count of the verdicts, and a section for each study.

  Args:
    found: The results.
    demonstrations: Studies whose claims do not count, with the reason.
    sensitivities: The results of `--sensitivity`, by study.
    repeated: Runs that were repeated elsewhere, by study.
    applications: Studies to list last, under a heading of their own.
    links: Where the files are.
  """
  counted = {
    (study, claim, data): finding["verdict"]
    for study, records in found.items()
    if study not in demonstrations
    for claim, findings in results.by_claim(records).items()
    for data, finding in findings.items()
    if not finding.get("uncounted")
  }
  claims = {(study, claim) for study, claim, _ in counted}
  verdicts = [*counted.values()]
  total = ", ".join(f"{verdicts.count(v)} {v}" for v in Verdict)
  lines = [f"{len(claims)} claims, {len(verdicts)} verdicts: {total}.", ""]
  minutes: dict[str, float] = {}
  for records in found.values():
    for data, record in records.items():
      minutes[data] = minutes.get(data, 0.0) + record["minutes"]
  took = ", ".join(
    f"{'without data' if data == 'none' else data} {spent:.0f}"
    for data, spent in minutes.items()
  )
  total = f"{sum(minutes.values()):.0f}"
  lines += [f"Minutes of all runs: {total}; by data: {took}.", ""]
  counting = {name: found[name] for name in found if name not in demonstrations}
  lines += near_ties(counting)
  if any(sensitivities.values()):
    lines += [
      'Headline claims with other settings, one at a time. "The same in" counts'
      " the settings with the verdict of the default, which has the registered"
      " settings on these seeds. Where the registered run has more seeds, its"
      " verdict below may be another.",
      "",
    ]
    lines += [robustness(sensitivities), ""]
    lines += [
      "Settings that change nothing in the samples of a claim are left out.",
      *unmeasured(found, sensitivities),
      "",
    ]
  for label, pairs in replications.pairs(found, repeated).items():
    judged = [
      pair
      for pair in pairs
      if pair.study not in demonstrations and not pair.before.get("uncounted")
    ]
    lines += [*agreement(label, judged), ""]
  for study in sorted(found, key=lambda study: study in applications):
    if study in applications and APPLICATIONS not in lines:
      lines += [APPLICATIONS, ""]
    records = found[study]
    demonstration = demonstrations.get(study, "")
    varied = sensitivities.get(study)
    again = repeated.get(study)
    lines += section(study, records, demonstration, varied, again, links)
  return "\n".join(lines)


def section(
  study: str,
  records: Mapping[str, Record],
  demonstration: str = "",
  varied: Varied | None = None,
  repeated: Replications | None = None,
  links: Links = Links(),  # noqa: B008
) -> list[str]:
  """Returns the lines of one study, with all its data sets.

  Args:
    study: Its name.
    records: Its records, by data.
    demonstration: Why its claims do not count, if they do not.
    varied: Its records of `--sensitivity`, by data and setting.
    repeated: Its runs that were repeated elsewhere, by label and data.
    links: Where the files are.
  """
  lines = [f'<a id="{study}"></a>', f"### {study.replace('_', ' ')}", ""]
  if demonstration:
    lines += [demonstrates(demonstration), ""]
  for data, record in records.items():
    places = [f"[results]({links.record.format(study=study, data=data)})"]
    for label, again in (repeated or {}).items():
      if data in again:
        place = links.replication.format(study=study, label=label, data=data)
        places.append(f"[again, {label}]({place})")
    lines.append(
      f"- {data}: `{record['command']}`, {record['minutes']:.1f} minutes"
      f"{_versions(record, records)} ({', '.join(places)})"
    )
  lines.append("")
  for name in _names(records, "figures"):
    lines += [
      f"![{pathlib.Path(name).stem}, {data}]"
      f"({links.figure.format(study=study, data=data, figure=name)})"
      for data, record in records.items()
      if name in record["figures"]
    ]
    lines.append("")
  if any(record["findings"] for record in records.values()):
    lines += [claims_table(study, records), ""]
  if any(record["checks"] for record in records.values()):
    lines += ["Checks:", "", checks_table(study, records), ""]
  if any(record["rates"] for record in records.values()):
    lines += _folded("Learning rates", [rates_table(records)])
  if varied:
    blocks = [
      block for data in varied for block in _settings(data, varied[data])
    ]
    lines += _folded("Other settings, one at a time", blocks)
  return lines


def near_ties(found: Results) -> list[str]:
  """Returns lines that say how often another rate is nearly as good."""
  ratios = []
  for records in found.values():
    for record in records.values():
      for choice in record["rates"].values():
        known = (loss for loss in choice["validation"] if loss is not None)
        losses = sorted(known)
        if len(losses) > 1 and losses[0] > 0:  # Returns are negated.
          ratios.append(losses[1] / losses[0])
  if not ratios:
    return []
  near = sum(ratio <= 1 + _NEAR for ratio in ratios)
  return [
    f"In {near} of {len(ratios)} choices of a learning rate, for an arm on a"
    f" data set, the loss of the second best rate is within {_NEAR:.0%} of that"
    " of the best.",
    "",
  ]


def claims_table(study: str, records: Mapping[str, Record]) -> str:
  """Returns the table of claims with a column for each data set."""
  rows = []
  for claim, findings in results.by_claim(records).items():
    first = next(iter(findings.values()))
    kind = "**headline** " if first["headline"] else ""
    if reason := first.get("uncounted"):
      kind = f"(not counted: {reason}) "
    rows.append(
      [
        f'<a id="{anchor(study, claim)}"></a>{kind}`{claim}`:'
        f" {first['sentence']} [{first['source']}]<br>({first['measured']}: to"
        f" be {first['rule']})",
        *(_cell(findings.get(data)) for data in records),
        results.summary([*findings.values()]),
      ]
    )
  return _table(rows, ["claim", *records, "in all"])


def checks_table(study: str, records: Mapping[str, Record]) -> str:
  """Returns the table of checks with a column for each data set."""
  rows = []
  for check, outcomes in results.by_check(records).items():
    first = next(iter(outcomes.values()))
    rows.append(
      [
        f'<a id="{anchor(study, check)}"></a>`{check}`: {first["sentence"]}'
        f" [{first['source']}] ({first['rule']})",
        *(_outcome(outcomes.get(data)) for data in records),
      ]
    )
  headers = ["result" if data == "none" else data for data in records]
  return _table(rows, ["check", *headers])


def rates_table(records: Mapping[str, Record]) -> str:
  """Returns the table of the chosen rates with their neighbours."""
  rows = [
    [arm, *(_rates(record["rates"].get(arm)) for record in records.values())]
    for arm in _names(records, "rates")
  ]
  return _table(rows, ["arm", *records])


def robustness(sensitivities: Mapping[str, Varied]) -> str:
  """Returns the table of headline verdicts with other settings.

  A setting counts for a claim if it changes any number of its samples.

  Args:
    sensitivities: The results of `--sensitivity`, by study.
  """
  rows = [
    [
      _link(one.study, one.claim),
      one.data,
      _seeds(one.default),
      one.verdict,
      f"{one.agreeing} of {one.tried}",
      "; ".join(
        f"{verdict}: {', '.join(names)}"
        for verdict, names in one.others.items()
        if verdict != one.verdict
      ),
    ]
    for one in of_headlines(sensitivities)
  ]
  headers = ["claim", "data", "seeds", "default", "the same in", "others"]
  return _table(rows, headers)


def agreement(label: str, pairs: Sequence[Pair]) -> list[str]:
  """Returns what repeated runs say of the committed verdicts.

  Args:
    label: That of the repetition.
    pairs: The claims that were judged twice.
  """
  headlines = [pair for pair in pairs if pair.before["headline"]]
  alike = [pair for pair in pairs if not pair.others]
  different = [pair for pair in pairs if pair.changed or pair.apart]
  rows = [
    [
      _link(pair.study, pair.before["claim"]),
      pair.data,
      f"{pair.before['verdict']}, {pair.before['number']}",
      f"{pair.after['verdict']}, {pair.after['number']}",
      "yes" if pair.apart else "",
      f"{pair.others} of {pair.arms}" if pair.others else "",
    ]
    for pair in different
  ]
  headers = ["claim", "data", "committed", "again", "apart", "other rates"]
  return [
    f"The same settings and seeds again, {label}: the verdict is the same for"
    f" {_same(pairs)} claims and data sets, and the opposite for"
    f" {sum(pair.opposite for pair in pairs)}. For headline claims it is the"
    f" same for {_same(headlines)}; in runs in which no arm chose another"
    f" learning rate, for {_same(alike)}. The table has the verdicts that"
    " differ, and the intervals that are apart. Other rates: for how many arms"
    " of the run another learning rate was chosen.",
    "",
    _table(rows, headers),
  ]


def _same(pairs: Sequence[Pair]) -> str:
  return f"{sum(not pair.changed for pair in pairs)} of {len(pairs)}"


def unmeasured(
  found: Results, sensitivities: Mapping[str, Varied]
) -> list[str]:
  """Returns sentences about what is missing in the table of `robustness`.

  Args:
    found: The results.
    sensitivities: Those of `--sensitivity`, by study.
  """
  without = [
    _link(study, claim)
    for study, claim, _ in _headlines(found)
    if not sensitivities.get(study)
  ]
  sentences = [
    f"Not measured with other settings: {', '.join(without)}."
  ] * bool(without)
  for study, claim, _ in _headlines(found):
    for data, settings in sensitivities.get(study, {}).items():
      if missing := _missing(settings):
        sentences.append(
          f"Not measured yet for {_link(study, claim)} on {data}: {missing}."
        )
  return sentences


def headlines(found: Results, sensitivities: Mapping[str, Varied] = {}) -> str:
  """Returns the table of the headline claims.

  Args:
    found: The results.
    sensitivities: Those of `--sensitivity`, by study.
  """
  agreeing = citations.alike(sensitivities)
  rows = []
  for study, claim, findings in _headlines(found):
    first = next(iter(findings.values()))
    link = f"docs/studies.md#{anchor(study, claim)}"
    rows.append(
      [
        f"{first['sentence']} [{first['source']}]",
        f"[{results.summary([*findings.values()])}]({link})",
        agreeing.get((study, claim), ""),
      ]
    )
  return _table(rows, ["claim", "verdict", "the same with other settings"])


def replaced(page: pathlib.Path, block: str) -> str:
  """Returns the text of a page with the block between its markers replaced.

  Args:
    page: The page, with the lines `START` and `END`.
    block: The new content.

  Raises:
    RefusedError: The page has no such lines.
  """
  before, found, rest = page.read_text().partition(START)
  _, closed, after = rest.partition(END)
  if not (found and closed):
    raise RefusedError(
      f"{page} has no place for the results. Add the lines {START.strip()} and"
      f" {END.strip()}, in this order."
    )
  return f"{before}{START}\n{block.rstrip()}\n\n{END}{after}"


def listed(record: Record) -> str:
  """Returns the verdicts and checks of a record as printed lines."""
  return "\n".join(
    [
      *(str(Finding(**finding)) for finding in record["findings"]),
      *(str(Outcome(**outcome)) for outcome in record.get("checks", ())),
    ]
  )


def _headlines(
  found: Results,
) -> list[tuple[str, str, Mapping[str, Mapping[str, Any]]]]:
  """Returns study, name and findings by data of every headline claim."""
  return [
    (study, claim, findings)
    for study, records in found.items()
    for claim, findings in results.by_claim(records).items()
    if next(iter(findings.values()))["headline"]
  ]


def _link(study: str, claim: str) -> str:
  return f"[{study}/{claim}](#{anchor(study, claim)})"


def _names(records: Mapping[str, Record], entry: str) -> list[str]:
  """Returns the names in an entry of all records, in their order."""
  found = (name for record in records.values() for name in record[entry])
  return [*dict.fromkeys(found)]


def _folded(title: str, blocks: Sequence[str]) -> list[str]:
  """Returns blocks that GitHub shows after a click on their title."""
  lines = [f"<details><summary>{title}</summary>", ""]
  for block in blocks:
    lines += [block, ""]
  return [*lines, "</details>", ""]


def _settings(data: str, records: Mapping[str, Record | None]) -> list[str]:
  """Returns the table of other settings, with what is missing in it."""
  found = [record for record in records.values() if record is not None]
  missing = _missing(records)
  blocks = [f"{data}, seeds {_seeds(found[0])}:", sensitivity.shown(found)]
  return blocks + [f"Not measured yet: {missing}."] * bool(missing)


def _missing(records: Mapping[str, Record | None]) -> str:
  return ", ".join(name for name, record in records.items() if record is None)


def _seeds(record: Record) -> str:
  first, count = record["config"]["seed"], record["config"]["seeds"]
  return f"{first} to {first + count - 1}"


def _versions(record: Record, records: Mapping[str, Record]) -> str:
  """Returns the versions that other records of the study do not share."""
  made_with = record["versions"]
  differ = versions.differing(*(one["versions"] for one in records.values()))
  return "".join(
    f", {versions.shown(name, made_with[name])}"
    for name in differ
    if name in made_with
  )


def _cell(finding: Mapping[str, Any] | None) -> str:
  if finding is None:
    return ""
  found = Finding(**finding)
  remark = f"<br>{found.remark}" if found.remark else ""
  return f"**{found.verdict}**{remark}<br>{found.number}<br>{found.evidence}"


def _outcome(outcome: Mapping[str, Any] | None) -> str:
  if outcome is None:
    return ""
  word = "holds" if outcome["holds"] else "FAILS"
  return f"{word}: {outcome['number']:.0e}"


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
