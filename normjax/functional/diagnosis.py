"""Support for JAX's diagnostic tools: checkify, roofline and debug_nans.

XLA's cost analysis does not count what a kernel does. JAX has no way to add it.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import roofline
from jax.extend.core import Primitive

# Additions and multiplications per element. normalize: center twice, with sums;
# square, with a sum; compute y. The others: two sums of products, three terms.
_OPERATIONS = {"normalize": 10, "pushforward": 12, "pullback": 12}


def register(primitive: Primitive) -> None:
  """Registers a primitive with `checkify` and `roofline`."""
  _register_with_checkify(primitive)

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
  """Replaces `jax.debug_nans` while a primitive runs outside of `jax.jit`.

  On NaN, JAX would run the compiled program again, operation by operation. But
  the primitive is the only operation in it.

  Yields:
    A function that returns its argument, the results, or raises
    FloatingPointError.
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


def _register_with_checkify(primitive: Primitive) -> None:
  """Adds the primitive to the float checks of `jax.experimental.checkify`.

  JAX has no public function for this. If another version of JAX keeps these
  checks elsewhere, they ignore the primitive.
  """
  try:
    from jax._src.checkify import error_checks, nan_error_check
  except ImportError:
    return
  error_checks[primitive] = functools.partial(nan_error_check, primitive)
