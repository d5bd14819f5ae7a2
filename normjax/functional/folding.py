"""Batch norm folded into the layer before it, for inference.

In evaluation, batch norm multiplies each channel by a number and adds another.
So does a linear layer that has these numbers in its kernel and its bias.
"""

import jax
import jax.numpy as jnp

from normjax.functional.arguments import (
  Axes,
  canonical_axes,
  check_epsilon,
  complement,
  jit,
  statistics_dtype,
)
from normjax.functional.batch import as_moments
from normjax.functional.running import RunningStats, check_running


@jit("axis", "epsilon", "running_var_ddof", "scale_offset", check=check_running)
def fold_batch_norm(
  kernel: jax.Array,
  layer_bias: jax.Array | None,
  scale: jax.Array | None,
  bias: jax.Array | None,
  stats: RunningStats,
  *,
  axis: Axes = -1,
  epsilon: float | jax.Array = 1e-5,
  running_var_ddof: int = 0,
  scale_offset: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """Returns kernel and bias of a layer that does what batch norm did after it.

  The layer is dense or a convolution: grouped, depthwise, transposed, strided
  or dilated, of any rank. All that matters is which axis of its kernel counts
  the features of its output. With `factor = gain / sqrt(var + epsilon)`, the
  kernel is multiplied by `factor`, and the bias becomes `bias + (layer_bias -
  mean) * factor`.

  The result equals that of layer and norm up to the rounding of the layer. A
  layer whose output has a mean that is large beside its standard deviation
  rounds at the size of the mean, and so does the folded layer. But a mean that
  is in the bias is subtracted here, and then does no harm.

  Args:
    kernel: Real or complex floating array of any rank.
    layer_bias: Bias of the layer; None means zero.
    scale, bias: Gain and shift of the norm, as in `batch_norm`.
    stats: Running statistics, which evaluation uses.
    axis: The axis of `kernel` that counts the output's features, or several
      axes. `layer_bias`, `scale`, `bias` and `stats` have its size. It is the
      last in Flax and Haiku, and in a `jax.lax` convolution whose kernel is
      written `"HWIO"`. It is 0 for `"OIHW"`, as in PyTorch and Equinox, 1 for
      a transposed convolution of PyTorch without groups, and -2 for a
      `flax.linen.ConvTranspose` with `transpose_kernel`. Where the input has
      its channels does not matter.
    epsilon, running_var_ddof, scale_offset: Those of the norm; see
      `batch_norm`.

  Returns:
    The kernel, and a bias shaped like `stats.mean`. They are computed in
    float32 or wider and rounded once to the dtypes of `kernel` and
    `layer_bias`; a bias that is new has the dtype of `kernel`. A real array
    becomes complex if the norm is.

  Raises:
    TypeError: an array is not floating, or `stats` are of another type.
    ValueError: an array has another shape than the axis of the kernel, an axis
      is out of range or repeated, or `epsilon` is not a positive float.

  Example:
    >>> import jax, jax.numpy as jnp, normjax
    >>> x, kernel = jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])
    >>> stats = normjax.BatchStats(mean=jnp.full(1, 5.0), var=jnp.full(1, 4.0))
    >>> y, _ = normjax.batch_norm(
    ...   x @ kernel, stats=stats, use_running_average=True)
    >>> print(y)
    [[3.]]
    >>> kernel, bias = normjax.fold_batch_norm(kernel, None, None, None, stats)
    >>> print(kernel.T, bias, x @ kernel + bias[None])
    [[1.5 2. ]] [-2.5] [[3.]]
  """
  check_epsilon(epsilon)
  if stats is None:
    raise TypeError(
      "fold_batch_norm folds a norm in evaluation, got stats=None. Pass the"
      " running statistics, such as normjax.BatchStats(mean, var)."
    )
  _check_floating("kernel", kernel)
  features = canonical_axes(axis, kernel.ndim, "axis")
  shape = tuple(kernel.shape[axis] for axis in features)
  given = {
    "layer_bias": layer_bias,
    "scale": scale,
    "bias": bias,
    **{f"stats.{name}": value for name, value in stats._asdict().items()},
  }
  for name, value in given.items():
    if value is None:
      continue
    _check_floating(name, value)
    if value.shape != shape:
      raise ValueError(
        f"{name} must have shape {shape}, the size of axis={axis} in a kernel"
        f" with shape {kernel.shape}, got {value.shape}. Name the axis of the"
        " kernel that counts the output's features: 0 for kernels of PyTorch"
        " and Equinox, -1 for those of Flax and Haiku."
      )
  running = as_moments(stats, running_var_ddof)
  # Deliberate, so it must not raise if the user has made promotion strict.
  with jax.numpy_dtype_promotion("standard"):
    factor = 1 / jnp.sqrt(_wide(running.m2) + epsilon)
    if scale is not None:
      factor = (scale_offset + _wide(scale)) * factor
    shift = -_wide(running.mean)
    if layer_bias is not None:
      shift = _wide(layer_bias) + shift
    shift = (shift - _wide(running.mean_tail)) * factor
    if bias is not None:
      shift = shift + _wide(bias)
    others = complement(features, kernel.ndim)
    folded = _wide(kernel) * jnp.expand_dims(factor, others)
  like = kernel if layer_bias is None else layer_bias
  return _rounded(folded, kernel), _rounded(shift, like)


def _check_floating(name: str, value: jax.Array) -> None:
  if not hasattr(value, "dtype") or not jnp.issubdtype(
    value.dtype, jnp.inexact
  ):
    raise TypeError(
      f"{name} must be a floating array, got"
      f" {getattr(value, 'dtype', type(value).__name__)}. Convert it first, for"
      " example with astype(jnp.float32)."
    )


def _wide(value: jax.Array) -> jax.Array:
  return value.astype(statistics_dtype(value.dtype))


def _rounded(value: jax.Array, like: jax.Array) -> jax.Array:
  """Returns `value` in the dtype of `like`, unless that loses its phase."""
  if jnp.iscomplexobj(value) and not jnp.iscomplexobj(like):
    return value
  return value.astype(like.dtype)
