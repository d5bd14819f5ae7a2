"""Whitening: batch norm that also removes the correlations of channels.

Batch norm divides each channel by its own deviation. Whitening multiplies all
channels of a group by the inverse root of their covariance matrix.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from normjax.functional import inverse_roots, sharding
from normjax.functional.arguments import (
  AxisIndexGroups,
  AxisName,
  check_floating,
  check_parameters,
  jit,
)
from normjax.functional.covariance import (
  one_channel_axis,
  whitened,
)
from normjax.functional.groups import count_groups
from normjax.functional.running import WhiteningStats, check_whitening


@jit(
  "use_running_average", "num_groups", "group_size", "axis", "iterations",
  "epsilon", "axis_name", "axis_index_groups", "scale_offset",
  check=check_whitening,
)  # fmt: skip
def decorrelated_batch_norm(
  x: jax.Array,
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  stats: WhiteningStats | None = None,
  *,
  use_running_average: bool,
  num_groups: int | None = 1,
  group_size: int | None = None,
  axis: int = -1,
  iterations: int | None = None,
  momentum: float | jax.Array = 0.99,
  epsilon: float | jax.Array = 1e-5,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  scale_offset: float = 0.0,
) -> tuple[jax.Array, WhiteningStats]:
  """Whitens groups of channels over the batch, or by running statistics.

  Returns `(cov + epsilon I)^(-1/2) (x - mean)` for each group, scaled and
  shifted: ZCA whitening, which of all ways to whiten changes x least. Training
  (`use_running_average=False`) uses the statistics of the batch and returns
  updated running statistics. Evaluation uses `stats` and returns them
  unchanged.

  With `iterations` it is iterative normalization (IterNorm). That needs no
  eigendecomposition, and whitens directions of little variance only in part: it
  amplifies none by more than `1.5 ** iterations` over the root of the sum of
  the variances.

  A group should be much smaller than the number of values per channel. With no
  more values than channels, whitened points are all equally far apart, whatever
  x is. With groups of one channel this is `batch_norm`.

  Args:
    x: Real floating array `[batch, ..., channels]`.
    scale: Gain `[channels]`; None means one.
    bias: Shift `[channels]`; None means zero.
    stats: Running mean `[channels]` and covariance `[groups, size, size]`. If
      None in training, the statistics of the batch are returned.
    use_running_average: False in training, True in evaluation.
    num_groups: Number of groups of adjacent channels.
    group_size: Channels in a group. Give either this or `num_groups`, and set
      the other to None.
    axis: The axis of the channels; 1 for channels first.
    iterations: Steps of Newton's method that approximate the root, such as 5.
      None means an eigendecomposition.
    momentum: The share of the old statistic that is kept. A number or a scalar
      array, which may be traced. PyTorch's number is one minus this.
    epsilon: Added to the variances. A number or a scalar array, which may be
      traced. It is at least the rounding error of the largest variance.
    mask: Boolean, broadcasts to `x`; True counts. Masked places may hold NaN,
      influence nothing and come out as `bias`. If all of a channel is masked,
      the running statistics of its group do not change. If the mask differs
      among channels, a masked place is taken for the mean of its channel.
    axis_name: Name or names of mapped axes that are averaged over too.
    axis_index_groups: Indices along `axis_name` that belong together; see
      `jax.lax.psum`.
    scale_offset: The gain is `scale_offset + scale`.

  Returns:
    An array with the shape and dtype of `x`, and `WhiteningStats`. Half
    precision is computed in float32 and rounded once, at the end. Gradients are
    finite, also if eigenvalues are equal or zero.

  Raises:
    TypeError: `x`, `scale`, `bias` or `stats` is not real and floating, `stats`
      are narrower than float32 or no `WhiteningStats`, `mask` or
      `use_running_average` is not boolean, or an axis, `iterations` or a number
      of groups is not an integer.
    ValueError: training with one value per channel, evaluation without
      `stats`, channels that cannot be divided into such groups, both or none of
      `num_groups` and `group_size`, a parameter or statistic of the wrong
      shape, several axes or one out of range, `iterations` below one, an
      `epsilon` that is not a positive float, a `momentum` that is not between 0
      and 1, or a `mask` that does not broadcast to `x`.
    NameError: `axis_name` is not bound.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> x = jnp.array([[1.0, 1.0], [2.0, 4.0], [3.0, 1.0], [4.0, 4.0]])
    >>> y, stats = normjax.decorrelated_batch_norm(x, use_running_average=False)
    >>> print(y.T @ y / 4)  # The covariance.
    [[1. 0.]
     [0. 1.]]
    >>> print(stats.mean, stats.cov)
    [2.5 2.5] [[[1.25 0.75]
      [0.75 2.25]]]
    >>> y, _ = normjax.decorrelated_batch_norm(
    ...   x, use_running_average=False, iterations=1)
    >>> print(y.T @ y / 4)
    [[0.57  0.204]
     [0.204 0.843]]

  References: Huang et al., 2018, https://arxiv.org/abs/1804.08450, algorithm 1;
    Huang et al., 2019, https://arxiv.org/abs/1904.03441, algorithm 1. They
    average inverse roots over batches; this averages covariances
    (docs/numerics.md, Whitening).
  """
  function = "decorrelated_batch_norm"
  check_floating(x, function)
  if jnp.iscomplexobj(x):
    raise TypeError(
      f"{function} needs a real x, got {x.dtype}{list(x.shape)}. Use"
      " complex_batch_norm, which whitens real parts against imaginary parts."
    )
  _check_iterations(iterations)
  channel = one_channel_axis(axis, x, function)
  channels = x.shape[channel]
  num_groups = count_groups(channels, num_groups, group_size)
  size = channels // num_groups
  check_parameters(x, (channel,), f"axis={axis}", scale=scale)

  def matrix(cov: jax.Array) -> jax.Array:
    if iterations is None:
      root = inverse_roots.by_eigenvectors(cov, epsilon)
    else:
      root = inverse_roots.by_newton(cov, epsilon, iterations)
    if scale is None:
      return root
    gain = sharding.whole(scale).astype(cov.dtype) + scale_offset
    return root * gain.reshape(num_groups, 1, size)

  return whitened(
    x,
    bias,
    stats,
    mask,
    matrix,
    lambda x: x.reshape(*x.shape[:-1], num_groups, size),
    lambda y: y.reshape(*y.shape[:-2], channels),
    function=function,
    axis=axis,
    use_running_average=use_running_average,
    momentum=momentum,
    epsilon=epsilon,
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
  )


def _check_iterations(iterations: int | None) -> None:
  """Raises unless it is None or a positive integer."""
  if iterations is None:
    return
  if not isinstance(iterations, int) or isinstance(iterations, bool):
    raise TypeError(
      f"iterations must be an integer such as 5, or None, got {iterations!r}."
      " None uses an eigendecomposition."
    )
  if iterations < 1:
    raise ValueError(
      f"iterations must be at least 1, got {iterations}. Use None for an"
      " eigendecomposition, without iterations."
    )
