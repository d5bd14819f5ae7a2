"""Which distance from the margin a number of seeds can show."""

import math

from experiments.lab import statistics
from experiments.lab.claims import Claim, Ratio

SHARE = 0.8  # The usual power of a test.
_FARTHEST = 99.0  # Standard deviations; what needs more is not resolved.


def resolved(claim: Claim, seeds: int, claims: int) -> str:
  """Returns what seeds resolve of a claim in 80% of the runs.

  It is by noncentral t, with the spread of the pilot and Holm's strictest
  correction. By rank, it is the number of seeds that may lie on the other side
  of the margin.

  Args:
    claim: The claim.
    seeds: Number of seeds.
    claims: Number of claims that are corrected together.
  """
  level = statistics.LEVEL / claims
  nothing = f"nothing with {seeds} seed{'s' * (seeds > 1)}"
  if claim.analysis.by_rank:
    count = statistics.wrong_seeds(seeds, level)
    if count is None:
      return nothing
    return f"with at most {count} of {seeds} seeds on the other side"
  if claim.spread is None:
    return "no spread is known"
  if statistics.power(_FARTHEST, seeds, level) < SHARE:
    return nothing
  distance = claim.spread * statistics.resolved_by(seeds, SHARE, level)
  if isinstance(claim.analysis, Ratio):
    return f"a factor of {math.exp(distance):.3g} with {seeds} seeds"
  unit = f" {claim.unit}".rstrip()
  return f"{distance:.2g}{unit} with {seeds} seeds"
