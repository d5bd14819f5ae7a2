"""The table of all arms."""

from collections.abc import Mapping

from experiments.lab.statistics import shown
from experiments.lab.study import Parts
from experiments.lab.tables import table
from experiments.segmentation.options import BATCHES, NORMS, Arm

# The statistics that batch norm is tested with: name, suffix of the results.
_STATISTICS = (
  ("", ""),
  (", re-estimated", ", re-estimated"),
  (", each batch", ", batch"),
)
_COLUMNS = (  # Header, name of the results, form.
  ("mean IoU, crops (%)", "crops", ".1f"),
  ("whole scenes (%)", "whole", ".1f"),
  ("pixels changed (%)", "changed", ".2f"),
)


def show(arms: Mapping[Arm, Parts], controls: Mapping[str, Parts]) -> None:
  """Prints the table.

  Args:
    arms: Results of every arm.
    controls: Results in the same light, with batches of 2, by norm.
  """
  rows: list[list[str | None]] = []
  for size in BATCHES:
    for norm in NORMS:
      rows += _rows(f"{size}", norm, arms[norm, size])
  for norm, part in controls.items():
    rows += _rows(f"{BATCHES[0]}, same light", norm, part)
  headers = ["batch", "norm", "best rate", *(header for header, *_ in _COLUMNS)]
  print(f"\n{table(rows, headers)}\n")


def _rows(batch: str, norm: str, part: Parts) -> list[list[str | None]]:
  rows: list[list[str | None]] = []
  for name, suffix in _STATISTICS if norm == "bn" else _STATISTICS[:1]:
    numbers = [
      shown(part[key + suffix], form) if key + suffix in part else None
      for _, key, form in _COLUMNS
    ]
    rows.append([batch, norm + name, f"{part['rate']:.2g}", *numbers])
  return rows
