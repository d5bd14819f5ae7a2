"""Batch normalization and its running statistics."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from normjax import functional
from normjax.functional.running import Stats, after_microbatch
from normjax.linen.constructors import explained
from normjax.linen.parameters import assign
from normjax.linen.running import RunningNorm


@explained
class BatchNorm(RunningNorm):
  """Batch normalization, https://arxiv.org/abs/1502.03167.

  Owns the parameters and running statistics of `normjax.batch_norm`. Drop-in
  for `flax.linen.BatchNorm`; the fields from `scale_offset` on are additions.

  Attributes:
    use_running_average: False in training, True in evaluation. Given here or
      in the call.
    axis: The feature axis, or axes. Everything else is averaged over.
    momentum: The share of the old statistic that is kept. PyTorch's number is
      one minus this.
    epsilon: Added to the variance, inside the square root.
    dtype, param_dtype, use_bias, use_scale, bias_init, scale_init, axis_name,
      axis_index_groups, use_fast_variance, force_float32_reductions,
      scale_offset: As in `LayerNorm`.
    running_var_ddof: The running variance divides by `count` minus this number:
      0 as in Flax and Keras, 1 as in PyTorch.
    debias: Keeps the initial mean and variance, zero and one, out of the
      running average: the first batch replaces them. With `momentum=1.0` it is
      the cumulative average of all batches, PyTorch's `momentum=None`. See
      `normjax.DebiasedStats`, whose `weight` joins the collection.
    microbatches: Number of calls after which the running statistics change, by
      the statistics of all their values together. If gradients are accumulated
      over as many calls, as by `optax.MultiSteps`, these are the statistics of
      the whole batch. Each call standardizes by those of its own `x`. The
      moments so far, `pending`, and the number of `calls` join the collection.

  The running `mean` and `var` are in the collection `batch_stats`. Training
  updates it, so it must be mutable. They are float32, or float64 if `x`, the
  parameters or `dtype` are float64. The mean is complex if `x` is.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import BatchNorm
    >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    >>> norm = BatchNorm(momentum=0.9)
    >>> variables = norm.init(jax.random.key(0), x, use_running_average=False)
    >>> y, updates = norm.apply(
    ...   variables, x, use_running_average=False, mutable=["batch_stats"])
    >>> print(y)
    [[-1. -1.]
     [ 1.  1.]]
    >>> print(updates["batch_stats"]["mean"])
    [0.2 2. ]
    >>> y = norm.apply({**variables, **updates}, x, use_running_average=True)
  """

  microbatches: int = 1

  @nn.compact
  def __call__(
    self,
    x: ArrayLike,
    use_running_average: bool | None = None,
    *,
    mask: ArrayLike | None = None,
  ) -> jax.Array:
    """Normalizes `x`; in training, updates the running statistics.

    Initializing does not update them. It accepts any `x`, also one example.

    Args:
      x: Array `[batch, ..., channels]`, or with the channels elsewhere.
      use_running_average: Give either this or the field of the same name.
      mask: Broadcasts to `x`; True counts. Masked places come out as `bias`,
        also in evaluation, where Flax normalizes them.

    Returns:
      Array shaped like `x`, computed in float32 or wider and rounded once.

    Raises:
      ValueError: training with one value per channel, or a `microbatches` that
        is not a positive integer.
      ModifyScopeVariableError: training while `batch_stats` is not mutable.
    """
    if not isinstance(self.microbatches, int) or self.microbatches < 1:
      raise ValueError(
        f"microbatches must be a positive integer, got {self.microbatches!r}."
        " It is the number of calls whose values make one batch; 1 means that"
        " each call is a batch."
      )
    accumulates = self.microbatches > 1
    return self._normalized(
      self._accumulating if accumulates else functional.batch_norm,
      x,
      use_running_average,
      mask,
    )

  def _accumulating(
    self, x: jax.Array, *, stats: Stats, **options: Any
  ) -> tuple[jax.Array, Stats]:
    """As `normjax.batch_norm`; the statistics wait for the last microbatch."""
    if options["use_running_average"] and not self.is_initializing():
      return functional.batch_norm(x, stats=stats, **options)
    shape, dtype = stats.mean.shape, stats.mean.dtype
    kept: dict[str, nn.Variable] = {
      "pending": self.variable(
        "batch_stats", "pending", functional.Moments.empty, shape, dtype
      ),
      "calls": self.variable("batch_stats", "calls", jnp.zeros, (), jnp.int32),
    }
    if self.is_initializing():
      return functional.batch_norm(x, stats=stats, **options)
    y, pending = functional.batch_norm(
      x, stats=kept["pending"].value, **options
    )
    stats, pending, calls = after_microbatch(
      stats,
      pending,
      kept["calls"].value,
      self.microbatches,
      momentum=self.momentum,
      running_var_ddof=self.running_var_ddof,
    )
    assign(kept, {"pending": pending, "calls": calls})
    return y, stats
