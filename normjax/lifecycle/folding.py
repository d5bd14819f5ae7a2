"""Batch norms that are parts of layers, in all front ends."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from normjax.lifecycle.pairs import Call
from normjax.lifecycle.selection import Path, name_of


class FoldedNorm(NamedTuple):
  """A batch norm that is a part of the layer before it.

  Attributes:
    path, layer: Where norm and layer are in the model, as tuples of names.
    new_bias: Whether the layer had no bias before.
    dtype: That of the norm's results, if the layer's has another; else None.
  """

  path: Path
  layer: Path
  new_bias: bool
  dtype: jnp.dtype | None


def folded_norm(norm: Call, layer: Call) -> FoldedNorm:
  """Returns the record of a norm that is folded into a layer."""
  dtype = None if norm.y.dtype == layer.y.dtype else norm.y.dtype
  return FoldedNorm(norm.path, layer.path, not layer.module.use_bias, dtype)


def refusal(model: str, kept: Mapping[Path, str], total: int) -> str:
  """Returns the message about norms that can not be folded."""
  reasons = "".join(
    f"\n  {name_of(path)}: {reason}." for path, reason in kept.items()
  )
  return (
    f"{len(kept)} of {total} batch norms of {model} can not be"
    f" folded:{reasons}\nPass partial=True to leave these as they are, or"
    " choose others by `which`."
  )
