"""Progress bars, on terminals only."""

import sys
from collections.abc import Iterable
from typing import Any

import tqdm


def progress(
  iterable: Iterable[Any] | None = None,
  *,
  total: int | None = None,
  description: str = "",
  unit: str = "epoch",
) -> tqdm.tqdm:
  """Returns a progress bar that shows on terminals and disappears at the end.

  Args:
    iterable: Iterable to wrap; without one, call `update` on the bar.
    total: Number of steps, if `iterable` has no length.
    description: Text to the left of the bar.
    unit: Name of a step.

  Returns:
    The bar, a context manager. While it shows, print with its `write` method.
  """
  return tqdm.tqdm(
    iterable,
    total=total,
    desc=description or None,
    unit=unit,
    leave=False,
    dynamic_ncols=True,
    disable=not sys.stderr.isatty(),
  )
