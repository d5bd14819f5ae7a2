"""Batch normalization of recurrent nets: statistics for each time step."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from normjax.functional.arguments import (
  Axes,
  AxisIndexGroups,
  AxisName,
  canonical_axes,
  check_floating,
  jit,
)
from normjax.functional.batch import batch_norm
from normjax.functional.rows import check_index, checked_rows, row, with_row
from normjax.functional.running import (
  RunningStats,
  Stats,
  check_running,
  seen,
)


def _check_given(given: Mapping[str, Any]) -> None:
  """Raises unless `stats`, `momentum` and `step` make sense."""
  check_running(given)
  if "step" in given:  # If not, Python's own message is clear.
    check_index("step", given)


@jit(
  "use_running_average", "axis", "epsilon", "axis_name", "axis_index_groups",
  "running_var_ddof", "scale_offset", check=_check_given,
)  # fmt: skip
def step_batch_norm(
  x: jax.Array,
  step: int | jax.Array,
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  stats: Stats | None = None,
  *,
  use_running_average: bool,
  axis: Axes = -1,
  momentum: float | jax.Array = 0.99,
  epsilon: float | jax.Array = 1e-5,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  running_var_ddof: int = 0,
  scale_offset: float = 0.0,
) -> tuple[jax.Array, Stats]:
  """Batch norm with running statistics for each time step.

  The first activations of a recurrent net differ from later ones, so one
  average over all steps would fit none of them. Gain and bias are shared.

  Sequences may be longer than those of training. Evaluation then uses the
  statistics of the last step that was trained: `DebiasedStats` and `Moments`
  know which steps were; `BatchStats` have to be of the right length. All steps
  from the last row on share this row, in training too.

  Start with a `scale` of 0.1: with one, gradients through tanh vanish.

  Args:
    x: As in `batch_norm`, at one time step: `[batch, ..., channels]`.
    step: Which one: an integer from 0, which may be traced.
    scale, bias: As in `batch_norm`.
    stats: Running statistics `[steps, channels]`, or with more feature axes.
      Training needs them too.
    use_running_average, axis, momentum, epsilon, axis_name, axis_index_groups,
      running_var_ddof, scale_offset: As in `batch_norm`.
    mask: As in `batch_norm`. False for sequences that have ended; a step at
      which all have ended is not trained.

  Returns:
    As `batch_norm`. The statistics of other steps do not change.

  Raises:
    As `batch_norm`. Also TypeError: `step` is not an integer. ValueError: it is
    negative, or there are no `stats` of shape `[steps, channels]`.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> zeros, ones = jnp.zeros((5, 1)), jnp.ones((5, 1))
    >>> stats = normjax.DebiasedStats(zeros, ones, zeros)
    >>> for step in range(3):
    ...   x = step + jnp.array([[1.0], [3.0]])
    ...   y, stats = normjax.step_batch_norm(
    ...     x, step, stats=stats, use_running_average=False)
    >>> print(stats.mean.T)
    [[2. 3. 4. 0. 0.]]
    >>> y, _ = normjax.step_batch_norm(
    ...   x, 100, stats=stats, use_running_average=True)
    >>> print(y.T)  # By the statistics of the third step.
    [[-1.  1.]]

  Reference: Cooijmans et al., 2016, https://arxiv.org/abs/1603.09025,
    section 3.
  """
  check_floating(x, "step_batch_norm")
  stats = checked_rows("step_batch_norm", "steps", stats, np.size(axis))
  if use_running_average:
    step = _last_trained(stats, step)
  y, new = batch_norm(
    x,
    scale,
    bias,
    row(stats, step),
    use_running_average=use_running_average,
    axis=canonical_axes(axis, x.ndim, "axis"),
    momentum=momentum,
    epsilon=epsilon,
    mask=mask,
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
    running_var_ddof=running_var_ddof,
    scale_offset=scale_offset,
  )
  return y, stats if use_running_average else with_row(stats, step, new)


def _last_trained(stats: RunningStats, step: int | jax.Array) -> jax.Array:
  """Returns the last step up to `step` that has statistics, or zero."""
  known = seen(stats)
  trained = jnp.any(known, tuple(range(1, known.ndim)))
  steps = jnp.arange(trained.size, dtype=jnp.int32)
  usable = trained & (steps <= step)
  return jnp.max(jnp.where(usable, steps, 0))
