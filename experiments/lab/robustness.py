"""Which verdicts on headline claims are the same with other settings."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from experiments.lab import results, sensitivity
from experiments.lab.results import Record, Varied


class Robustness(NamedTuple):
  """A headline claim on one data set, with other settings one at a time.

  Attributes:
    study, claim, data: What was judged.
    default: The record with the registered settings.
    verdict: Its verdict.
    others: The other settings, by their verdicts. Those that change no number
      of the claim's samples are left out.
  """

  study: str
  claim: str
  data: str
  default: Record
  verdict: str
  others: Mapping[str, list[str]]

  @property
  def agreeing(self) -> int:
    """The number of other settings with the same verdict."""
    return len(self.others.get(self.verdict, ()))

  @property
  def tried(self) -> int:
    """The number of other settings."""
    return sum(map(len, self.others.values()))


def of_headlines(sensitivities: Mapping[str, Varied]) -> Iterator[Robustness]:
  """Yields the headline claims that were judged with other settings.

  Args:
    sensitivities: The results of `--sensitivity`, by study.
  """
  for study, varied in sensitivities.items():
    for data, settings in varied.items():
      found = {name: record for name, record in settings.items() if record}
      for claim, findings in results.by_claim(found).items():
        default = findings.pop(sensitivity.DEFAULT, None)
        if default is None or not default["headline"]:
          continue
        others: dict[str, list[str]] = {}
        for setting, finding in findings.items():
          if finding["values"] != default["values"]:
            others.setdefault(finding["verdict"], []).append(setting)
        record = found[sensitivity.DEFAULT]
        yield Robustness(study, claim, data, record, default["verdict"], others)
