"""Parameters, statistics and dtypes, which all modules treat alike."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
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
  """Declares the parameter `scale`; returns None if it is not used.

  The default initializer gives the gain, `scale_offset + scale`, its value,
  also if it is wrapped, for example by `nn.with_partitioning`.
  """
  if not module.use_scale:
    return None
  init, default = module.scale_init, getattr(type(module), "scale_init", None)
  if module.scale_offset and inspect.unwrap(init) is default:

    def init(*args: Any) -> Any:  # Possibly a box with metadata.
      return jax.tree.map(
        lambda gain: gain - module.scale_offset, module.scale_init(*args)
      )

  return module.param("scale", init, shape, module.param_dtype)


def bias_parameter(
  module: nn.Module, shape: tuple[int, ...]
) -> jax.Array | None:
  """Declares the parameter `bias`; returns None if it is not used."""
  if not module.use_bias:
    return None
  return module.param("bias", module.bias_init, shape, module.param_dtype)


def result_dtype(
  x: jax.Array,
  scale: jax.Array | None,
  bias: jax.Array | None,
  dtype: Dtype | None,
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
  return jnp.dtype(dtypes.canonicalize_dtype(x, scale, bias, dtype=dtype))


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


def mapped_axis(module: nn.Module) -> AxisName | None:
  """Returns the axis name, or None while initializing.

  Models are initialized outside of the mapping that binds the name.
  """
  # Norms of others, which `reestimate` knows too, may lack the field.
  name: AxisName | None = getattr(module, "axis_name", None)
  return None if module.is_initializing() else name


def assign(
  variables: Mapping[str, nn.Variable], values: Mapping[str, Any]
) -> None:
  """Puts new running statistics into the variables of the same names.

  Raises:
    ModifyScopeVariableError: `batch_stats` is not mutable.
  """
  try:
    for name, value in values.items():
      variables[name].value = value
  except errors.ModifyScopeVariableError as error:
    error.add_note(
      "Training updates the running statistics. Make them mutable:\n"
      "  y, updates = model.apply(variables, x, mutable=['batch_stats'])\n"
      "  variables = {**variables, **updates}\n"
      "or evaluate with use_running_average=True."
    )
    raise
