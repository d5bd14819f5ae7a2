"""Ghost batch normalization: batch norm over parts of the batch."""

import jax
from jax.typing import ArrayLike

from normjax.functional import sharding
from normjax.functional.arguments import (
  Axes,
  AxisIndexGroups,
  AxisName,
  canonical_axes,
  canonical_mask,
  check_axis_name,
  check_epsilon,
  check_floating,
  check_parameters,
  complement,
  jit,
)
from normjax.functional.batch import batch_norm, check_stats
from normjax.functional.dispatch import apply_norm
from normjax.functional.formulas import Norm
from normjax.functional.groups import Groups, check_more_than_one
from normjax.functional.moments import united
from normjax.functional.running import (
  Stats,
  check_mode,
  check_running,
  updated,
)


@jit(
  "ghost_size", "use_running_average", "axis", "epsilon", "axis_name",
  "axis_index_groups", "running_var_ddof", "scale_offset", check=check_running,
)  # fmt: skip
def ghost_batch_norm(
  x: jax.Array,
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  stats: Stats | None = None,
  *,
  use_running_average: bool,
  ghost_size: int = 32,
  axis: Axes = -1,
  momentum: float | jax.Array = 0.99,
  epsilon: float | jax.Array = 1e-5,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  running_var_ddof: int = 0,
  scale_offset: float = 0.0,
) -> tuple[jax.Array, Stats]:
  """Standardizes each channel over small parts of the batch.

  Batch norm of large batches has less of the noise that regularizes. Here
  training standardizes every `ghost_size` successive examples on their own, as
  if they were a batch: a ghost batch.

  The running statistics are those of the whole batch, as in `batch_norm`: the
  moments of the ghosts are merged. So they depend neither on the size of the
  ghosts nor on how a mask divides its counts among them. The paper averages
  the ghosts' own statistics, one after the other, which leaves out how far
  apart their means are.

  Evaluation is that of `batch_norm`.

  Args:
    x: As in `batch_norm`; the examples are along the first axis.
    scale, bias, stats, use_running_average: As in `batch_norm`.
    ghost_size: Number of examples in a ghost batch. In training it must divide
      the number of examples.
    axis, momentum, epsilon, mask, running_var_ddof, scale_offset: As in
      `batch_norm`. `axis` must not name the first axis.
    axis_name: Name or names of mapped axes over which running statistics are
      merged. A ghost batch has examples of one device only.
    axis_index_groups: Indices along `axis_name` that belong together; see
      `jax.lax.psum`.

  Returns:
    As `batch_norm`.

  Raises:
    As `batch_norm`. Also TypeError: `ghost_size` is not an integer. ValueError:
    it does not divide the number of examples, or `axis` names the first axis.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
    >>> y, stats = normjax.ghost_batch_norm(
    ...   x, ghost_size=2, use_running_average=False)
    >>> print(y.T, stats.mean)
    [[-1.  1. -1.  1.]] [11.]

  Reference: Hoffer et al., 2017, https://arxiv.org/abs/1705.08741, algorithm 1.
  """
  check_floating(x, "ghost_batch_norm")
  check_mode("ghost_batch_norm", "BatchStats", use_running_average, stats)
  check_epsilon(epsilon)
  _check_ghost_size(ghost_size)
  features = canonical_axes(axis, x.ndim, "axis")
  if features[0] == 0:
    raise ValueError(
      f"axis={axis} names the first axis of x with shape {x.shape}, along which"
      " ghost_batch_norm expects the examples. Move the channels."
    )
  if use_running_average:
    return batch_norm(
      x,
      scale,
      bias,
      stats,
      use_running_average=True,
      axis=features,
      epsilon=epsilon,
      mask=mask,
      running_var_ddof=running_var_ddof,
      scale_offset=scale_offset,
    )
  check_axis_name(axis_name)
  check_parameters(x, features, f"axis={axis}", scale=scale, bias=bias)
  check_stats(stats, x, features, f"axis={axis}")
  mask = canonical_mask(mask, x.shape)
  if x.shape[0] % ghost_size:
    raise ValueError(
      f"ghost_batch_norm got {x.shape[0]} examples, which cannot be divided"
      f" into ghost batches of ghost_size={ghost_size}. Use a size that divides"
      " the number of examples, or drop the rest of the batch."
    )
  axes = complement(features, x.ndim)
  number = x.shape[0] // ghost_size
  ghosts = sharding.split_first(x, number)
  # The axis of the ghosts comes first.
  inside = Groups(tuple(i + 1 for i in axes))
  check_more_than_one(
    inside,
    ghosts,
    "ghost_batch_norm in training",
    element="one value per channel in each ghost batch",
    advice="Use larger ghost batches.",
  )
  norm = Norm(inside, tuple(i + 1 for i in features), scale_offset=scale_offset)
  y, partial = apply_norm(
    ghosts, scale, bias, sharding.split_first(mask, number), epsilon, norm
  )
  together = Groups((0,), None, 1, axis_name, axis_index_groups)
  whole = Groups(axes, None, 1, axis_name, axis_index_groups).size(x.shape)
  batch = united(partial, whole, together).squeeze((0, *inside.axes))
  y = y.reshape(x.shape)
  return y, updated(stats, batch, momentum, running_var_ddof)


def _check_ghost_size(ghost_size: int) -> None:
  if not isinstance(ghost_size, int):
    raise TypeError(f"ghost_size must be an integer, got {ghost_size!r}.")
  if ghost_size < 1:
    raise ValueError(
      f"ghost_size must be positive, got {ghost_size}. It is the number of"
      " examples in a ghost batch, such as 32."
    )
