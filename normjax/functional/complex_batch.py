"""Batch normalization of complex numbers, which whitens their two parts."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from normjax.functional import inverse_roots, sharding
from normjax.functional.arguments import (
  AxisIndexGroups,
  AxisName,
  check_floating,
  jit,
)
from normjax.functional.covariance import (
  one_channel_axis,
  whitened,
)
from normjax.functional.running import WhiteningStats, check_whitening


@jit(
  "use_running_average", "axis", "epsilon", "axis_name", "axis_index_groups",
  check=check_whitening,
)  # fmt: skip
def complex_batch_norm(
  x: jax.Array,
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  stats: WhiteningStats | None = None,
  *,
  use_running_average: bool,
  axis: int = -1,
  momentum: float | jax.Array = 0.99,
  epsilon: float | jax.Array = 1e-5,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
) -> tuple[jax.Array, WhiteningStats]:
  """Whitens the real against the imaginary part of each channel.

  Both parts of the result have variance one and are uncorrelated. `batch_norm`
  of complex x divides both by one deviation instead, and so keeps the shape of
  the distribution in the complex plane.

  Args:
    x: Complex array `[batch, ..., channels]`.
    scale: Gain, a symmetric 2 x 2 matrix for each channel. `[channels, 3]`
      holds real-real, imaginary-imaginary and real-imaginary. None means the
      identity.
    bias: Shift `[channels]`, complex or real; None means zero.
    stats: Running mean `[channels]`, complex, and covariance `[channels, 2,
      2]`, real. If None in training, the statistics of the batch are returned.
    use_running_average, axis, momentum, epsilon, mask, axis_name,
      axis_index_groups: As in `decorrelated_batch_norm`.

  Returns:
    An array with the shape and dtype of `x`, and `WhiteningStats`.

  Raises:
    TypeError: `x` is not complex, or as in `decorrelated_batch_norm`.
    ValueError, NameError: As in `decorrelated_batch_norm`.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> x = jnp.array([[1 + 1j], [2 + 4j], [3 + 1j], [4 + 4j]])
    >>> y, stats = normjax.complex_batch_norm(x, use_running_average=False)
    >>> print(jnp.cov(y[:, 0].real, y[:, 0].imag, ddof=0))
    [[1. 0.]
     [0. 1.]]
    >>> print(stats.mean, stats.cov)
    [2.5+2.5j] [[[1.25 0.75]
      [0.75 2.25]]]
    >>> root = 0.5**0.5  # Makes the mean of |y|^2 one, as in batch_norm.
    >>> y, _ = normjax.complex_batch_norm(
    ...   x, jnp.array([[root, root, 0.0]]), use_running_average=False)
    >>> print(f"{jnp.mean(jnp.abs(y) ** 2):.3f}")
    1.000

  Reference: Trabelsi et al., 2018, https://arxiv.org/abs/1705.09792, section
    3.5.
  """
  function = "complex_batch_norm"
  check_floating(x, function)
  if not jnp.iscomplexobj(x):
    raise TypeError(
      f"{function} needs a complex x, got {x.dtype}{list(x.shape)}. Use"
      " batch_norm, or decorrelated_batch_norm to whiten real channels."
    )
  channels = x.shape[one_channel_axis(axis, x, function)]
  _check_scale(scale, channels)

  def matrix(cov: jax.Array) -> jax.Array:
    root = inverse_roots.of_two(cov, epsilon)
    if scale is None:
      return root
    rr, ii, ri = jnp.moveaxis(sharding.whole(scale).astype(cov.dtype), -1, 0)
    gain = jnp.stack([jnp.stack([rr, ri], -1), jnp.stack([ri, ii], -1)], -1)
    return jnp.matmul(root, gain, precision=inverse_roots.PRECISION)

  return whitened(
    x,
    bias,
    stats,
    mask,
    matrix,
    lambda x: jnp.stack([x.real, x.imag], -1),
    lambda y: lax.complex(y[..., 0], y[..., 1]),
    function=function,
    axis=axis,
    use_running_average=use_running_average,
    momentum=momentum,
    epsilon=epsilon,
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
  )


def _check_scale(scale: jax.Array | None, channels: int) -> None:
  """Raises unless a gain of complex numbers is None or `[channels, 3]`."""
  if scale is None:
    return
  if scale.shape != (channels, 3):
    raise ValueError(
      f"scale must have shape {(channels, 3)}: real-real, imaginary-imaginary"
      f" and real-imaginary for each channel, got {scale.shape}. To start like"
      " batch_norm, fill it with (0.5**0.5, 0.5**0.5, 0)."
    )
  if not jnp.issubdtype(scale.dtype, jnp.floating):
    raise TypeError(
      f"scale must be real and floating, got {scale.dtype}. Its three numbers"
      " are the entries of a symmetric 2 x 2 matrix."
    )
