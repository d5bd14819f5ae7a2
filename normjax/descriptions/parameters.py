"""Parameters and dtypes, which all modules treat alike."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from normjax.functional.arguments import Axes, canonical_axes


def feature_shape(x: jax.Array, axes: Axes, name: str) -> tuple[int, ...]:
  """Returns the sizes of the feature axes of `x`, in ascending order."""
  return tuple(x.shape[axis] for axis in canonical_axes(axes, x.ndim, name))


def gain_init(module: Any) -> Initializer:
  """Returns the initializer of `scale`.

  The default initializer gives the gain, `scale_offset + scale`, its value,
  also if it is wrapped, for example by `nn.with_partitioning`.
  """
  init: Initializer = module.scale_init
  default = getattr(type(module), "scale_init", None)
  if not module.scale_offset or inspect.unwrap(init) is not default:
    return init

  def offset_init(*args: Any) -> Any:
    made: Any = init(*args)
    if hasattr(made, "raw_value"):  # A box of NNX, which is no tree.
      value = made.raw_value - module.scale_offset
      return dataclasses.replace(made, raw_value=value)
    # An array, or a box of Linen.
    return jax.tree.map(lambda gain: gain - module.scale_offset, made)

  return offset_init


def result_dtype(
  x: jax.Array, *parameters: jax.Array | None, dtype: Dtype | None
) -> jnp.dtype:
  """Returns `dtype` or, if it is None, what `x` and parameters promote to.

  This is the rule of Flax: a bfloat16 `x` with float32 parameters gives
  float32.

  Raises:
    TypeError: `dtype` is not floating.
  """
  if dtype is not None:
    try:
      floating = jnp.issubdtype(jnp.dtype(dtype), jnp.inexact)
    except TypeError:
      floating = False
    if not floating:
      raise TypeError(
        f"dtype must be None or floating, such as jnp.bfloat16, got {dtype!r}."
      )
  return jnp.dtype(dtypes.canonicalize_dtype(x, *parameters, dtype=dtype))


def widened(x: jax.Array, result: jnp.dtype) -> jax.Array:
  """Returns `x` in a dtype that holds `x` and the result exactly, >= float32.

  `x` must not be rounded to a narrower result before its statistics are
  computed: 100 +- 0.01 is constant in bfloat16.
  """
  # Deliberate, so it must not raise if the user has made promotion strict.
  with jax.numpy_dtype_promotion("standard"):
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, result), jnp.float32)
  return x.astype(dtype)


def boolean(mask: ArrayLike | None) -> jax.Array | None:
  """Returns a boolean mask; like Flax, accepts zeros and ones too."""
  return None if mask is None else jnp.asarray(mask, bool)
