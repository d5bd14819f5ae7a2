"""Batch renormalization."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from normjax import functional
from normjax.functional.running import Stats
from normjax.linen.constructors import explained
from normjax.linen.parameters import assign
from normjax.linen.running import RunningNorm

# A limit, or its value after a number of steps of training.
Limit = float | jax.Array | Callable[[jax.Array], float | jax.Array]


@explained
class BatchRenorm(RunningNorm):
  """Batch renormalization, https://arxiv.org/abs/1702.03275.

  Owns the parameters and running statistics of `normjax.batch_renorm`.

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

  Variables are those of `BatchNorm`. If a limit is a function, the number of
  `steps`, one for each call in training, joins the collection `batch_stats`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import BatchRenorm
    >>> x = jnp.array([[1.0], [3.0]])
    >>> norm = BatchRenorm(use_running_average=False, r_max=3.0, d_max=5.0)
    >>> variables = norm.init(jax.random.key(0), x)
    >>> y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    >>> print(y.T)  # By mean 0 and variance 1, as in evaluation.
    [[1. 3.]]
  """

  r_max: Limit = functional.renorm_r_max
  d_max: Limit = functional.renorm_d_max

  @nn.compact
  def __call__(
    self,
    x: ArrayLike,
    use_running_average: bool | None = None,
    *,
    mask: ArrayLike | None = None,
  ) -> jax.Array:
    """Normalizes `x`; in training, updates the running statistics.

    Args, Returns and Raises as in `BatchNorm`.
    """
    return self._normalized(self._renormalize, x, use_running_average, mask)

  def _renormalize(
    self, x: jax.Array, *, use_running_average: bool, **options: Any
  ) -> tuple[jax.Array, Stats]:
    if not use_running_average or self.is_initializing():
      options |= self._limits()
    return functional.batch_renorm(
      x, use_running_average=use_running_average, **options
    )

  def _limits(self) -> dict[str, Any]:
    """Returns the limits, and counts this step if they depend on it."""
    limits: dict[str, Any] = {"r_max": self.r_max, "d_max": self.d_max}
    if not any(map(callable, limits.values())):
      return limits
    steps = self.variable("batch_stats", "steps", jnp.zeros, (), jnp.int32)
    now = steps.value
    if not self.is_initializing():
      assign({"steps": steps}, {"steps": now + 1})
    return {
      name: limit(now) if callable(limit) else limit
      for name, limit in limits.items()
    }
