"""Batch renormalization."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.typing import Dtype

from normjax import functional
from normjax.descriptions.batch import AnyBatchNorm
from normjax.descriptions.norm import Shape, Statistic, description

# A limit, or its value after a number of steps of training.
Limit = float | jax.Array | Callable[[jax.Array], float | jax.Array]


@description
class BatchRenorm(AnyBatchNorm):
  """Batch renormalization, https://arxiv.org/abs/1702.03275.

  The function is `normjax.batch_renorm`.

  Attributes:
    r_max, d_max: Limits of the correction: a number each, or a function of the
      number of steps so far, such as a schedule of optax. The defaults are the
      schedules of the paper: batch norm for 5,000 steps, and all of the
      correction after 40,000. Shorter trainings need shorter ones:
      `functools.partial(normjax.renorm_r_max, begin=100, end=1000)`.
    use_running_average, axis, momentum, epsilon, dtype, param_dtype, use_bias,
      use_scale, bias_init, scale_init, axis_name, axis_index_groups,
      use_fast_variance, force_float32_reductions, scale_offset,
      running_var_ddof, debias: As in `BatchNorm`.

  Statistics are those of `BatchNorm`. If a limit is a function, the number of
  `steps`, one for each call in training, joins them.
  """

  r_max: Limit = functional.renorm_r_max
  d_max: Limit = functional.renorm_d_max

  def function(self) -> Callable[..., tuple[jax.Array, Any]]:
    """Returns `normjax.batch_renorm`."""
    return functional.batch_renorm

  def statistics(self, features: Shape, dtype: Dtype) -> dict[str, Statistic]:
    """As for all batch norms, and the number of steps."""
    found = super().statistics(features, dtype)
    if callable(self.r_max) or callable(self.d_max):
      found["steps"] = Statistic(jnp.zeros, (), jnp.int32, training_only=True)
    return found

  def normalize_running(
    self,
    x: jax.Array,
    parameters: Mapping[str, jax.Array],
    statistics: Mapping[str, Any],
    **arguments: Any,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """As `normjax.batch_renorm`; counts a step if a limit depends on it."""
    if arguments["use_running_average"]:
      return super().normalize_running(x, parameters, statistics, **arguments)
    steps = statistics.get("steps")
    y, updates = super().normalize_running(
      x,
      parameters,
      statistics,
      r_max=_at(self.r_max, steps),
      d_max=_at(self.d_max, steps),
      **arguments,
    )
    return y, updates if steps is None else {**updates, "steps": steps + 1}


def _at(limit: Limit, steps: Any) -> float | jax.Array:
  return limit(steps) if callable(limit) else limit
