"""Markdown tables, for terminals and GitHub."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import tabulate

_NUMBER = re.compile(
  r"(\*\*)?[-+]?(\d[\d.]*(e[-+]?\d+)?|nan|inf)( ± \S+)?( ?%)?(\*\*)?"
)


def table(rows: Iterable[Sequence[object]], headers: Sequence[str]) -> str:
  """Returns a Markdown table for a terminal or a README.

  Args:
    rows: Rows of cells. Floats are printed with four significant digits, None
      as an empty cell; for another precision, pass text.
    headers: One header per column.

  Returns:
    The table; columns of only numbers and intervals, bold or not, are aligned
    to the right.

  Raises:
    ValueError: A row and the headers differ in length.

  >>> print(table([["ln", "97.64 ± 0.15"], ["in", None]],
  ...             ["norm", "test accuracy (%)"]))
  | norm   |   test accuracy (%) |
  |:-------|--------------------:|
  | ln     |        97.64 ± 0.15 |
  | in     |                     |
  """
  cells = [[_cell(value) for value in row] for row in rows]
  for row in cells:
    if len(row) != len(headers):
      raise ValueError(f"{len(headers)} headers, but a row {row}.")
  numeric = [
    all(not cell or _NUMBER.fullmatch(cell) for cell in column)
    for column in zip(*cells, strict=True)
  ]
  return tabulate.tabulate(
    cells,
    headers,
    tablefmt="pipe",  # The Markdown format that keeps the alignment.
    disable_numparse=True,
    colalign=["right" if n else "left" for n in numeric] or None,
  )


def _cell(value: object) -> str:
  if value is None:
    return ""
  if isinstance(value, float | np.floating):
    return f"{value:.4g}"
  return str(value)
