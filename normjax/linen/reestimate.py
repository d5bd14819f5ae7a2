"""Statistics of a whole population, for a model whose parameters are final."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util
from flax.linen.module import InterceptorContext

from normjax.lifecycle.pooling import (
  POOL,
  check_batches,
  check_counts,
  described_batch,
  pooled_call,
)
from normjax.lifecycle.selection import Path, Which, name_of
from normjax.linen.frozen import is_frozen
from normjax.linen.pooling import with_pools
from normjax.linen.selection import (
  arguments,
  called_in_mode,
  chosen_paths,
  is_batch_norm,
)
from normjax.linen.shell import mapped_axis

PyTree = Any
Variables = Mapping[str, PyTree]


def reestimate(
  model: nn.Module | Callable[[Variables, Any], Variables],
  variables: Variables,
  batches: Iterable[Any],
  *,
  which: Which = None,
  method: Callable[..., Any] | str | None = None,
  **options: Any,
) -> Variables:
  """Returns the variables with statistics of a population ("PreciseBN").

  Running averages contain statistics of earlier parameters, and are dominated
  by the last batches. This computes mean and variance of all values that a
  batch norm sees, for the parameters as they are: after training, after
  averaging the parameters (EMA, SWA), or on unlabeled data of another domain
  (adaptive batch norm). Each value counts once, however the batches are cut.

  Every batch goes through the model once, in one compiled step. The model is
  called as in evaluation, so nothing is dropped, but each batch norm of
  `normjax.linen` or `flax.linen` standardizes by the statistics of the batch,
  as it did in training. What a layer after the first sees depends on the size
  of the batches, so take that of training.

  Args:
    model: A Linen module. Or a function of variables and a batch that returns
      the updates of `model.apply(..., mutable=["batch_stats"])`, for example
      mapped over many sets of variables, or over devices. Compile it with
      `jax.jit`.
    variables: Variables of the model.
    batches: A batch is the argument of the model. They may differ in size; a
      size that comes for the first time is compiled. Each needs at least two
      values per channel.
    which: The norms to re-estimate; None means all. As in `frozen`, but no
      class. The others work as in evaluation.
    method: As in `model.apply`: how to call the model with a batch that is not
      one array, such as `lambda model, batch: model(batch["x"],
      mask=batch["mask"], train=False)`.
    **options: Constant options of the call, such as `train=False`.

  Returns:
    Variables in which each chosen batch norm has the mean and the variance of
    all its values, with its `running_var_ddof`, or, if it whitens, their mean
    and covariance (exact if all channels of a value have the same mask). Where
    it keeps the weight of its past (`debias`), each batch counts as one of
    training. Statistics of domains or time steps are of the values in calls
    with this domain or step. A channel without values keeps its own. Variables
    without `batch_stats` are returned as they are.

  Raises:
    TypeError: an option is not constant, `which` is a class, or `batches` is
      an array.
    ValueError: a chosen norm got no values, or does not keep a mean and a
      variance or covariance of its input.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from normjax.linen import reestimate
    >>> model = nn.BatchNorm()
    >>> batches = [jnp.array([[1.0], [3.0]]), jnp.array([[5.0], [6.0], [7.0]])]
    >>> variables = model.init(jax.random.key(0), batches[0], True)
    >>> variables = reestimate(
    ...   model, variables, batches, use_running_average=True)
    >>> stats = variables["batch_stats"]
    >>> print(stats["mean"], stats["var"])
    [4.4] [4.64]

  References: Wu & Johnson, 2021, https://arxiv.org/abs/2105.07576, section 3;
    of another domain: Li et al., 2016, https://arxiv.org/abs/1603.04779.
  """
  if not variables.get("batch_stats"):
    return variables
  apply: Callable[[Variables, Any], Variables]
  if isinstance(model, nn.Module):
    apply = _compiled(model, method, _constant(options))
  elif options or method is not None:
    raise TypeError(
      "A function instead of a model is called as function(variables, batch),"
      f" got also {', '.join(options) or 'method'}. Bind it in the function."
    )
  else:
    apply = model
  check_batches(batches)
  before = variables["batch_stats"]
  stats = with_pools(before, chosen_paths(before, which))
  for batch in batches:
    with nn.intercept_methods(_intercept), _explained(batch):
      updates = apply({**variables, "batch_stats": stats}, batch)
    stats = updates["batch_stats"]
  check_counts(_counts(stats))
  return {**variables, "batch_stats": _with_structure(before, stats)}


def _compiled(
  model: nn.Module,
  method: Callable[..., Any] | str | None,
  options: tuple[tuple[str, Any], ...],
) -> Callable[[Variables, Any], Variables]:
  """Returns the call of a model, compiled."""
  try:
    hash(model)
  except TypeError:  # It has lists or dicts as fields: compiled for this use.
    return jax.jit(functools.partial(_apply, model, method, options))
  return functools.partial(_apply_jitted, model, method, options)


def _apply(
  model: nn.Module,
  method: Callable[..., Any] | str | None,
  options: tuple[tuple[str, Any], ...],
  variables: Variables,
  batch: Any,
) -> Variables:
  _, updates = model.apply(
    variables, batch, method=method, mutable=["batch_stats"], **dict(options)
  )
  return updates


_apply_jitted = jax.jit(_apply, static_argnums=(0, 1, 2))


@contextlib.contextmanager
def _explained(batch: Any) -> Iterator[None]:
  """Adds to an error what was called, and what may be wrong with it."""
  try:
    yield
  except Exception as error:
    error.add_note(
      "reestimate called the model with a batch as its argument:"
      f" {described_batch(batch)}. If it takes only a part of that, or"
      " more arguments, say how to call it: method=lambda model, batch:"
      " model(...). Leave out a batch that is too small, or add it to another."
    )
    raise


def _constant(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
  """Returns options in hashable form."""
  for name, value in options.items():
    try:
      hash(value)
    except TypeError as error:
      raise TypeError(
        f"{name} must be a constant such as train=False, got"
        f" {type(value).__name__}. Make arrays a part of the batch, and call"
        " the model with method=lambda model, batch: model(...)."
      ) from error
  return tuple(sorted(options.items()))


def _intercept(
  next_fun: Callable[..., Any],
  args: Any,
  kwargs: Any,
  context: InterceptorContext,
) -> Any:
  """Calls a batch norm in training, and keeps the moments of all its values."""
  module = context.module
  if (
    not is_batch_norm(context)
    or not module.has_variable("batch_stats", POOL)
    or is_frozen(module)
  ):
    return next_fun(*args, **kwargs)

  def train(own: Mapping[str, jax.Array]) -> tuple[jax.Array, Any]:
    for name, value in own.items():
      module.put_variable("batch_stats", name, value)
    y = called_in_mode(False, next_fun, args, kwargs, context)
    return y, module.get_variable("batch_stats", "weight")

  y, after = pooled_call(
    module,
    arguments(context, args, kwargs).arguments,
    dict(module.variables["batch_stats"]),
    name_of(module.path),
    mapped_axis(module),
    getattr(module, "row_argument", ""),
    train,
  )
  for name, value in after.items():
    module.put_variable("batch_stats", name, value)
  return y


def _counts(stats: Variables) -> dict[Path, jax.Array]:
  """Returns the numbers of values in the pools of norms, by their paths."""
  return {
    path[:-1]: pool.count
    for path, pool in traverse_util.flatten_dict(stats).items()
    if path[-1] == POOL
  }


def _with_structure(like: Variables, stats: Variables) -> dict[str, PyTree]:
  """Returns the statistics that were there before."""
  return {
    name: _with_structure(value, stats[name])
    if isinstance(value, Mapping)
    else stats[name]
    for name, value in like.items()
  }
