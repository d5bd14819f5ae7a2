"""The table of all arms."""

from collections.abc import Mapping

from experiments.lab.statistics import shown
from experiments.lab.study import Parts
from experiments.lab.tables import table
from experiments.segmentation.options import Arm


def show(arms: Mapping[Arm, Parts]) -> None:
  """Prints the table; `arms` has the results of every arm."""
  rows: list[list[str | None]] = []
  for (norm, size), part in sorted(arms.items(), key=lambda arm: arm[0][1]):
    kinds = [("", "")]
    kinds += [(", re-estimated",) * 2] if norm == "bn" else []
    for name, key in kinds:
      numbers = [
        shown(part[f"{column}{key}"], form)
        for column, form in (
          ("crops", ".1f"), ("whole", ".1f"), ("changed", ".2f"),
        )
      ]  # fmt: skip
      rows.append([f"{size}", f"{norm}{name}", f"{part['rate']:.2g}", *numbers])
    if norm == "bn":
      batch = shown(part["crops, batch"], ".1f")
      rows.append(
        [f"{size}", "bn, each batch", f"{part['rate']:.2g}", batch, None, None]
      )
  headers = ["batch", "norm", "best rate", "mean IoU, crops (%)"]
  headers += ["whole scenes (%)", "pixels changed (%)"]
  print(f"\n{table(rows, headers)}\n")
