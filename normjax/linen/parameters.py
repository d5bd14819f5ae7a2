"""What every module has around its pure function: parameters and dtypes."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import dtypes
from flax.typing import Dtype
from jax.typing import ArrayLike

from normjax.functional.arguments import Axes, AxisName, canonical_axes


def feature_shape(x: jax.Array, axes: Axes, name: str) -> tuple[int, ...]:
  """Returns the sizes of the feature axes of `x`, in ascending order."""
  return tuple(x.shape[axis] for axis in canonical_axes(axes, x.ndim, name))


def scale_parameter(
  module: nn.Module, shape: tuple[int, ...]
) -> jax.Array | None:
  """Declares the parameter `scale`, or returns None where it is not used.

  The default initializer starts the gain, `scale_offset + scale`, at one, also
  where it is wrapped, as by `nn.with_partitioning`.
  """
  if not module.use_scale:
    return None
  init = module.scale_init
  if module.scale_offset and inspect.unwrap(init) is nn.initializers.ones:

    def init(*args: Any) -> Any:  # Possibly a box with metadata.
      return jax.tree.map(
        lambda ones: ones - module.scale_offset, module.scale_init(*args)
      )

  return module.param("scale", init, shape, module.param_dtype)


def bias_parameter(
  module: nn.Module, shape: tuple[int, ...]
) -> jax.Array | None:
  """Declares the parameter `bias`, or returns None where it is not used."""
  if not module.use_bias:
    return None
  return module.param("bias", module.bias_init, shape, module.param_dtype)


def result_dtype(
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  dtype: Dtype | None,
) -> jnp.dtype:
  """Returns `dtype`, or by the rule of Flax what `x` and parameters promote to.

  A bfloat16 `x` with float32 parameters gives float32.
  """
  return jnp.dtype(dtypes.canonicalize_dtype(x, scale, bias, dtype=dtype))


def widened(x: jax.Array, result: jnp.dtype) -> jax.Array:
  """Returns `x` in a dtype that loses nothing of `x` nor of the result.

  Casting to a narrower result comes last, since statistics of a rounded `x`
  are wrong: 100 +- 0.01 is constant in bfloat16.
  """
  # A deliberate conversion, hence no error where promotion is strict.
  with jax.numpy_dtype_promotion("standard"):
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, result), jnp.float32)
  return x.astype(dtype)


def boolean(mask: ArrayLike | None) -> jax.Array | None:
  """Returns a boolean mask; Flax takes zeros and ones too."""
  return None if mask is None else jnp.asarray(mask, bool)


def mapped_axis(module: nn.Module) -> AxisName | None:
  """Returns the axis name, None while initializing.

  Models are initialized outside the mapping that binds the name.
  """
  return None if module.is_initializing() else module.axis_name
