"""What texts say of claims and checks when they cite them."""

from collections.abc import Mapping

from experiments.lab import results, robustness
from experiments.lab.replications import Replications
from experiments.lab.results import Results, Varied


def cited(
  found: Results,
  sensitivities: Mapping[str, Varied] = {},
  repeated: Mapping[str, Replications] = {},
) -> dict[tuple[str, str], str]:
  """Returns what texts say, by study and by what they cite.

  They cite the name of a claim or check, for its outcomes on all data sets and,
  of a headline claim, how many other settings agree; or "NAME, SETTING on DATA"
  for the verdict of one run with another setting, or elsewhere.

  Args:
    found: The registered runs.
    sensitivities: The results of `--sensitivity`, by study.
    repeated: Runs that were repeated elsewhere, by study.
  """
  agreeing = alike(sensitivities)
  said = {}
  for study, records in found.items():
    for claim, findings in results.by_claim(records).items():
      text = results.summary([*findings.values()])
      if (study, claim) in agreeing:
        text += f"; the same with {agreeing[study, claim]} other settings"
      said[study, claim] = text
    for check, outcomes in results.by_check(records).items():
      said[study, check] = results.summary_of_checks([*outcomes.values()])
  single = [
    (study, f"{setting} on {data}", record)
    for study, varied in sensitivities.items()
    for data, settings in varied.items()
    for setting, record in settings.items()
    if record is not None
  ] + [
    (study, f"{label} on {data}", record)
    for study, replications in repeated.items()
    for label, records in replications.items()
    for data, record in records.items()
  ]
  for study, where, record in single:
    for finding in record["findings"]:
      said[study, f"{finding['claim']}, {where}"] = finding["verdict"]
  return said


def alike(
  sensitivities: Mapping[str, Varied],
) -> dict[tuple[str, str], str]:
  """Returns how many other settings agree, such as "6 of 8", by claim."""
  counts: dict[tuple[str, str], tuple[int, int]] = {}
  for one in robustness.of_headlines(sensitivities):
    same, count = counts.get((one.study, one.claim), (0, 0))
    counts[one.study, one.claim] = same + one.agreeing, count + one.tried
  return {
    claim: f"{same} of {count}" for claim, (same, count) in counts.items()
  }
