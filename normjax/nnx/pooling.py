"""Moments beside the running statistics of batch norms in NNX models."""

from collections.abc import Collection
from typing import Any

from flax import nnx

from normjax.lifecycle.pooling import POOL, empty_pool
from normjax.lifecycle.selection import Path, name_of
from normjax.nnx.calls import Intercept, batch_norms, intercepted, statistics

# The attribute with the name of a norm, for messages.
_NAME = "pooled_name"


def add_pools(
  model: nnx.Module, chosen: Collection[Path], intercept: Intercept
) -> dict[Path, nnx.Module]:
  """Gives batch norms empty moments, and lets a function see their calls.

  Args:
    model: The model, which is changed.
    chosen: Paths of the norms.
    intercept: As in `intercepted`.

  Returns:
    The norms by their paths.

  Raises:
    ValueError: a chosen norm has neither `var` nor `cov`.
  """
  if not chosen:
    return {}
  norms = batch_norms(model, lambda path: path in chosen)
  for path, norm in norms.items():
    kept = statistics(norm)
    pool = empty_pool(kept["mean"].get_value(), kept, name_of(path))
    setattr(norm, POOL, nnx.BatchStat(pool))
    setattr(norm, _NAME, name_of(path))
    intercepted(norm, intercept)
  return norms


def name_in_model(norm: Any) -> str:
  """Returns the name of a norm with moments."""
  name: str = getattr(norm, _NAME)
  return name
