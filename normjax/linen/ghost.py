"""Ghost batch normalization."""

from typing import Any

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from normjax import functional
from normjax.functional.running import RunningStats
from normjax.linen.constructors import explained
from normjax.linen.running import RunningNorm


@explained
class GhostBatchNorm(RunningNorm):
  """Ghost batch normalization, https://arxiv.org/abs/1705.08741.

  Owns the parameters and running statistics of `normjax.ghost_batch_norm`.
  Variables are those of `BatchNorm`.

  Attributes:
    ghost_size: Number of examples in a ghost batch. In training it must divide
      the number of examples.
    axis_name, axis_index_groups: Axes over which running statistics are merged.
      A ghost batch has examples of one device only.
    use_running_average, axis, momentum, epsilon, dtype, param_dtype, use_bias,
      use_scale, bias_init, scale_init, use_fast_variance,
      force_float32_reductions, scale_offset, running_var_ddof, debias: As in
      `BatchNorm`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import GhostBatchNorm
    >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
    >>> norm = GhostBatchNorm(use_running_average=False, ghost_size=2)
    >>> variables = norm.init(jax.random.key(0), x)
    >>> y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    >>> print(y.T)
    [[-1.  1. -1.  1.]]
  """

  ghost_size: int = 32

  @nn.compact
  def __call__(
    self,
    x: ArrayLike,
    use_running_average: bool | None = None,
    *,
    mask: ArrayLike | None = None,
  ) -> jax.Array:
    """Normalizes `x`; in training, updates the running statistics.

    Initializing takes all examples as one ghost batch. Args, Returns and Raises
    as in `BatchNorm`; the examples are along the first axis of `x`.
    """
    return self._normalized(self._by_ghosts, x, use_running_average, mask)

  def _by_ghosts(
    self, x: jax.Array, **options: Any
  ) -> tuple[jax.Array, RunningStats]:
    # A model may be initialized with any number of examples.
    size = len(x) if self.is_initializing() else self.ghost_size
    return functional.ghost_batch_norm(x, ghost_size=size, **options)
