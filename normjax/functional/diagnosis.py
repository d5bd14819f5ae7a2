"""Lets JAX's tools of diagnosis look into the primitives.

XLA's own cost analysis knows nothing of what a kernel does, and JAX has no way
to tell it.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import roofline
from jax.extend.core import Primitive

# Additions and multiplications per element. One: two centrings with their sums,
# squares with theirs, y. The others: two sums of products, and three terms.
_OPERATIONS = {"normalize": 10, "pushforward": 12, "pullback": 12}


def let_in(primitive: Primitive) -> None:
  """Tells `checkify` and `roofline` about one of the primitives."""
  _let_checkify_in(primitive)

  @roofline.register_roofline(primitive)
  def rule(
    ctx: roofline.RooflineRuleContext, *operands: Any, **params: Any
  ) -> roofline.RooflineResult:
    moved = (*ctx.avals_in, *ctx.avals_out)
    size = roofline.RooflineShape.from_aval(ctx.avals_in[0]).size
    return roofline.RooflineResult(
      unfused_flops=size * _OPERATIONS[primitive.name.split("_")[-1]],
      unfused_hbm_bytes=roofline.RooflineShape.total_bytes(moved),
    )


@contextlib.contextmanager
def checked(
  primitive: Primitive,
) -> Iterator[Callable[[list[jax.Array]], list[jax.Array]]]:
  """Takes the part of `jax.debug_nans` where a primitive runs by itself.

  JAX would repeat its compiled program operation by operation, and this is the
  one operation in it.

  Yields:
    What results go through; it raises FloatingPointError.
  """
  config: Any = jax.config
  nans, infinities = config.jax_debug_nans, config.jax_debug_infs

  def check(results: list[jax.Array]) -> list[jax.Array]:
    for name, wanted, found in (
      ("nan", nans, jnp.isnan),
      ("inf", infinities, jnp.isinf),
    ):
      if wanted and any(bool(found(result).any()) for result in results):
        raise FloatingPointError(
          f"invalid value ({name}) encountered in {primitive.name}"
        )
    return results

  with jax.debug_nans(False), jax.debug_infs(False):
    yield check


def _let_checkify_in(primitive: Primitive) -> None:
  """Lets the float checks of `jax.experimental.checkify` see NaN in results.

  JAX has no public way to say so. Where it keeps its checks elsewhere, they
  pass over these primitives, as they pass over all that they do not know.
  """
  try:
    from jax._src.checkify import error_checks, nan_error_check
  except ImportError:
    return
  error_checks[primitive] = functools.partial(nan_error_check, primitive)
