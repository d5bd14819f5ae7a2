"""Registered runs that were repeated with other arithmetic: how much changes.

On another device, or with another version of XLA, the same command draws the
same data, kernels and batches, and rounds differently. Training enlarges that,
and where two learning rates are about as good, it can decide which is chosen.
Intervals over seeds contain the effect of rounding at best, and that of another
rate not at all.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from experiments.lab import results
from experiments.lab.claims import Verdict
from experiments.lab.errors import RefusedError
from experiments.lab.results import Record

# Runs of one study, by label and data.
Replications = Mapping[str, Mapping[str, Record]]

_OPPOSITE = {Verdict.CONFIRMED, Verdict.REFUTED}


class Pair(NamedTuple):
  """A claim on one data set, judged twice.

  Attributes:
    study, data: Where it was judged.
    before: The committed finding.
    after: That of the repetition.
    others: Number of arms for which it chose another learning rate.
    arms: Number of arms whose rate is chosen.
  """

  study: str
  data: str
  before: Mapping[str, Any]
  after: Mapping[str, Any]
  others: int
  arms: int

  @property
  def changed(self) -> bool:
    """Whether the verdicts differ."""
    return bool(self.before["verdict"] != self.after["verdict"])

  @property
  def opposite(self) -> bool:
    """Whether one is CONFIRMED and the other one REFUTED."""
    return {self.before["verdict"], self.after["verdict"]} == _OPPOSITE

  @property
  def apart(self) -> bool:
    """Whether the intervals have nothing in common."""
    return results.apart(self.before, self.after)


def of_record(record: Record, original: Record | None) -> dict[str, Any]:
  """Returns a record as one that repeats another.

  Args:
    record: From `results.of_summary`.
    original: The committed record of the same study and data.

  Raises:
    RefusedError: It is of `--sensitivity`, there is no other, or that one was
      made with the same backend and jaxlib.
  """
  name, data = record["study"], results.data_of(record)
  if "change" in record:
    raise RefusedError(
      f"The run of {name} is one of --sensitivity. Only runs with --confirm"
      " have repetitions; take it into results/ with --add."
    )
  if original is None:
    raise RefusedError(
      f"results/ has no run of {name} on {data} that this one could repeat. Add"
      " one with --add first."
    )
  label = _arithmetic(record)
  if label == _arithmetic(original):
    raise RefusedError(
      f"The run of {name} on {data} has the backend and jaxlib of that in"
      f" results/, {label}, so it would show nothing new. Use --compare, or"
      " replace that one with --add."
    )
  left_out = results.ONLY_REGISTERED
  kept = {key: record[key] for key in record if key not in left_out}
  return {**kept, "replication": label}


def read(name: str, folder: pathlib.Path = results.FOLDER) -> Replications:
  """Returns the repetitions of a study.

  Args:
    name: Name of the study in the catalog.
    folder: Where all records are.

  Raises:
    DamagedError: A file was changed by hand.
  """
  places = sorted((folder / name / results.REPLICATIONS).glob("*"))
  return {place.name: results.read_folder(place) for place in places}


def pairs(
  found: results.Results, repeated: Mapping[str, Replications]
) -> dict[str, list[Pair]]:
  """Returns every claim that was judged twice, by the repetition's label.

  Args:
    found: The committed records.
    repeated: The repetitions, by study.

  Raises:
    RefusedError: One repeats a run that is not in results/ any more.
  """
  paired: dict[str, list[Pair]] = {}
  for study, replications in repeated.items():
    for label, records in replications.items():
      for data, after in records.items():
        before = found.get(study, {}).get(data)
        if before is None or before["config"] != after["config"]:
          raise RefusedError(
            f"results/{study}/{results.REPLICATIONS}/{label}/{data}.json has"
            f" other seeds or settings than results/{study}/{data}.json. Remove"
            " it, or repeat the new run."
          )
        paired.setdefault(label, []).extend(_pairs(study, data, before, after))
  return paired


def _pairs(
  study: str, data: str, before: Record, after: Record
) -> Iterator[Pair]:
  known = {finding["claim"]: finding for finding in before["findings"]}
  rates = [
    (choice["rate"], after["rates"][arm]["rate"])
    for arm, choice in before["rates"].items()
    if arm in after["rates"]
  ]
  others = sum(one != other for one, other in rates)
  for finding in after["findings"]:
    if finding["claim"] in known:
      one = known[finding["claim"]]
      yield Pair(study, data, one, finding, others, len(rates))


def _arithmetic(record: Record) -> str:
  """Returns what rounding depends on, such as "cpu-jaxlib-0.10.2"."""
  made_with = record["versions"]
  return f"{made_with['backend']}-jaxlib-{made_with['jaxlib']}"
