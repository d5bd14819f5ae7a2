"""Tables of the results of `benchmarks.norms`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.norm_cases import Case
from benchmarks.norm_memory import DEPTH, Memory
from benchmarks.norm_programs import copy_share
from experiments.lab import tables
from experiments.lab.timing import Spread

OURS = "normjax"
# Not JAX, so not counted as JAX peers.
TORCH = ("torch", "torch.compile")
# Rows slower than this, relative to the fastest JAX peer, are listed.
SLOW = 0.9


class Row(NamedTuple):
  """The results for a case, in one mode and timing.

  Attributes:
    case: What was measured.
    mode: One of `norm_programs.MODES`.
    timing: One of `norm_programs.TIMINGS`.
    copy: Seconds to copy an array of this size.
    seconds: Seconds per step, by library.
  """

  case: Case
  mode: str
  timing: str
  copy: Spread
  seconds: Mapping[str, Spread]

  def ratio(self, library: str) -> float:
    """Returns the library's time divided by ours; NaN if it has no time."""
    theirs = self.seconds.get(library)
    return math.nan if theirs is None else theirs.median / self.ours

  @property
  def ours(self) -> float:
    return self.seconds[OURS].median

  @property
  def peer_ratio(self) -> float:
    """The ratio of the fastest JAX peer."""
    ratios = [self.ratio(name) for name in jax_peers(self.seconds)]
    return min(ratios, default=math.nan)

  @property
  def share(self) -> float:
    """Our share of the copy bandwidth."""
    return copy_share(self.mode, self.copy.median, self.seconds[OURS].median)


def jax_peers(libraries: Iterable[str]) -> list[str]:
  return [name for name in libraries if name not in (OURS, *TORCH)]


def geometric_mean(values: Iterable[float]) -> float:
  """Returns the geometric mean of the values that are not NaN.

  >>> geometric_mean([1.0, math.nan, 4.0])
  2.0
  """
  known = [math.log(value) for value in values if not math.isnan(value)]
  return math.exp(sum(known) / len(known)) if known else math.nan


def _libraries(rows: Iterable[Row]) -> list[str]:
  """Returns the libraries that have a time, ours first."""
  return list(dict.fromkeys(name for row in rows for name in row.seconds))


def _times(value: float) -> str | None:
  return None if math.isnan(value) else f"{value:.2f}x"


def _cell(row: Row, library: str) -> str | None:
  if library not in row.seconds:
    return None
  low, median, high = row.seconds[library]
  spread = (high - low) / 2 / median
  text = f"{median * 1e3:.3g} ±{spread:.0%}"
  return text if library == OURS else f"{text}, {_times(row.ratio(library))}"


def table(rows: Sequence[Row]) -> str:
  """Returns a table of rows that differ only in the case.

  A cell has the median in milliseconds, half the distance between the
  quartiles, and the ratio to our time. The last rows are geometric means of
  ratios.
  """
  libraries = _libraries(rows)
  cells = [
    [
      row.case.size,
      f"{row.share:.0%}",
      _times(row.peer_ratio),
      *(_cell(row, name) for name in libraries),
    ]
    for row in rows
  ]
  for dtype in dict.fromkeys(row.case.dtype for row in rows):
    some = [row for row in rows if row.case.dtype == dtype]
    cells.append(
      [
        f"geometric mean, {dtype}",
        f"{geometric_mean(row.share for row in some):.0%}",
        _times(geometric_mean(row.peer_ratio for row in some)),
        *(
          _times(geometric_mean(row.ratio(name) for row in some))
          for name in libraries
        ),
      ]
    )
  return tables.table(
    cells, ["array", "share of copy", "fastest JAX peer", *libraries]
  )


def means(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Returns geometric means of ratios by norm, mode, timing and dtype."""
  keys = dict.fromkeys(
    (row.case.norm, row.mode, row.timing, row.case.dtype) for row in rows
  )
  result = []
  for norm, mode, timing, dtype in keys:
    some = [
      row
      for row in rows
      if (row.case.norm, row.mode, row.timing, row.case.dtype)
      == (norm, mode, timing, dtype)
    ]
    result.append(
      {
        "norm": norm,
        "mode": mode,
        "timing": timing,
        "dtype": dtype,
        "rows": len(some),
        "share_of_copy": geometric_mean(row.share for row in some),
        "fastest_jax_peer": geometric_mean(row.peer_ratio for row in some),
        "ratios": {
          name: geometric_mean(row.ratio(name) for row in some)
          for name in _libraries(some)
          if name != OURS
        },
      }
    )
  return result


def summary(rows: Sequence[Row]) -> str:
  """Returns a table of the geometric means, and a list of slow rows."""
  libraries = [name for name in _libraries(rows) if name != OURS]
  keys = ("norm", "mode", "timing", "dtype")
  cells = [
    [
      *(mean[key] for key in keys),
      f"{mean['share_of_copy']:.0%}",
      _times(mean["fastest_jax_peer"]),
      *(_times(mean["ratios"].get(name, math.nan)) for name in libraries),
    ]
    for mean in means(rows)
  ]
  text = tables.table(
    cells, [*keys, "share of copy", "fastest JAX peer", *libraries]
  )
  slow = [
    f"- {row.case.title}, {row.mode}, {row.timing}: {_times(row.peer_ratio)}"
    for row in rows
    if row.peer_ratio < SLOW
  ]
  if not slow:
    return f"{text}\n\nNo row is below {SLOW:g}x of the fastest JAX peer."
  lines = "\n".join(slow)
  return f"{text}\n\nBelow {SLOW:g}x of the fastest JAX peer:\n\n{lines}"


def memory_table(results: Mapping[Case, Mapping[str, Memory]]) -> str:
  """Returns a table of the memory of chains of norms, in arrays of x's size."""
  cells = [
    [
      case.title,
      name,
      f"{needed.chain / 2**20:.1f}",
      *(f"{value / case.nbytes:.2f}" for value in needed),
    ]
    for case, libraries in results.items()
    for name, needed in libraries.items()
  ]
  return tables.table(
    cells,
    [
      f"{DEPTH} x (norm, ReLU)",
      "library",
      "peak (MiB)",
      "peak (arrays)",
      "with checkpoint",
      "as a scan",
      "as a scan, with checkpoint",
    ],
  )
