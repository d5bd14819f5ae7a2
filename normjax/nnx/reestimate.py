"""Statistics of a whole population, for a model whose parameters are final."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from flax import nnx

from normjax.lifecycle.pooling import (
  POOL,
  check_batches,
  check_counts,
  described_batch,
  pooled_call,
)
from normjax.lifecycle.selection import Which
from normjax.nnx.calls import (
  arguments,
  batch_norms,
  called_in_mode,
  statistics,
)
from normjax.nnx.frozen import is_frozen
from normjax.nnx.pooling import add_pools, name_in_model
from normjax.nnx.shell import row_argument


def reestimate(
  model: nnx.Module,
  batches: Iterable[Any],
  *,
  which: Which = None,
  method: Callable[..., Any] | None = None,
) -> None:
  """Gives a model the statistics of a population, in place ("PreciseBN").

  Running averages contain statistics of earlier parameters, and are dominated
  by the last batches. This computes mean and variance of all values that a
  batch norm sees, for the parameters as they are: after training, after
  averaging the parameters (EMA, SWA), or on unlabeled data of another domain
  (adaptive batch norm). Each value counts once, however the batches are cut.

  Every batch goes through the model once, in one compiled step. The model is
  called as in evaluation, so nothing is dropped, but each batch norm of
  `normjax.nnx` or `flax.nnx` standardizes by the statistics of the batch, as it
  did in training. What a layer after the first sees depends on the size of the
  batches, so take that of training. A norm that is `frozen` keeps its own.

  Args:
    model: The model. Its mode does not matter, and stays as it is.
    batches: A batch is the argument of the model. They may differ in size; a
      size that comes for the first time is compiled. Each needs at least two
      values per channel.
    which: The norms to re-estimate; None means all. As in `frozen`. The others
      work as in evaluation.
    method: How to call the model with a batch that is not one array, such as
      `lambda model, batch: model(batch["x"], mask=batch["mask"])`.

  Each chosen batch norm gets the mean and the variance of all its values, with
  its `running_var_ddof`, or, if it whitens, their mean and covariance (exact if
  all channels of a value have the same mask). Where it keeps the weight of its
  past (`debias`), each batch counts as one of training. Statistics of domains
  or time steps are of the values in calls with this domain or step. A channel
  without values keeps its own.

  Raises:
    TypeError: `which` is of another type, or `batches` is an array.
    ValueError: a chosen norm got no values, or does not keep a mean and a
      variance or covariance of its input. The model is then as before.

  Example:
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import reestimate
    >>> model = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
    >>> batches = [jnp.array([[1.0], [3.0]]), jnp.array([[5.0], [6.0], [7.0]])]
    >>> reestimate(model, batches)
    >>> print(model.mean.get_value(), model.var.get_value())
    [4.4] [4.64]

  References: Wu & Johnson, 2021, https://arxiv.org/abs/2105.07576, section 3;
    of another domain: Li et al., 2016, https://arxiv.org/abs/1603.04779.
  """
  check_batches(batches)
  targets = {
    path: norm
    for path, norm in batch_norms(model, which).items()
    if not is_frozen(norm)
  }
  if not targets:
    return
  pooling = nnx.clone(model)
  pooling.eval()
  norms = add_pools(pooling, targets, _pool)

  @nnx.jit
  def see(model: nnx.Module, batch: Any) -> None:
    method(model, batch) if method else model(batch)

  for batch in batches:
    try:
      see(pooling, batch)
    except Exception as error:
      error.add_note(
        "reestimate called the model with a batch as its argument:"
        f" {described_batch(batch)}. If it takes only a part of that, or more"
        " arguments, say how to call it: method=lambda model, batch:"
        " model(...). Leave out a batch that is too small, or add it to"
        " another."
      )
      raise
  check_counts(
    {
      path: statistics(norm)[POOL].get_value().count
      for path, norm in norms.items()
    }
  )
  for path, norm in norms.items():
    seen = statistics(norm)
    for name, variable in statistics(targets[path]).items():
      variable.set_value(seen[name].get_value())


def _pool(
  module: nnx.Module, call: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
  """Calls a batch norm in training, and keeps the moments of all its values."""
  kept = statistics(module)

  def train(own: Mapping[str, jax.Array]) -> tuple[jax.Array, Any]:
    for name, value in own.items():
      kept[name].set_value(value)
    y = called_in_mode(module, False, call, args, kwargs)
    weight = kept.get("weight")
    return y, None if weight is None else weight.get_value()

  y, after = pooled_call(
    module,
    arguments(call, args, kwargs).arguments,
    {name: variable.get_value() for name, variable in kept.items()},
    name_in_model(module),
    getattr(module, "axis_name", None),
    row_argument(module),
    train,
  )
  for name, value in after.items():
    kept[name].set_value(value)
  return y
