"""What may be wrong with the batch norms of an NNX model."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from normjax import functional
from normjax.lifecycle.diagnosis import (
  Diagnosis,
  fields,
  norm_diagnosis,
)
from normjax.lifecycle.pooling import POOL, input_moments
from normjax.lifecycle.selection import Which
from normjax.nnx.calls import arguments, batch_norms, statistics, value
from normjax.nnx.pooling import add_pools, name_in_model


def diagnose(
  model: nnx.Module, *args: Any, which: Which = None, **kwargs: Any
) -> Diagnosis:
  """Returns what a batch tells of the batch norms of a model.

  Each batch norm of `normjax.nnx` or `flax.nnx`, and every other one that has
  `use_running_average` and keeps a `mean` and a `var` or `cov`, is compared
  with what it sees. `normjax.linen.diagnose` says what the numbers mean that
  are printed.

  Call the model as in evaluation, after `model.eval()`, to see what each norm
  gets there: the first norm with a drift is where to look, because all that
  follow it see its effects. In training, each norm sees what it does there.

  Args:
    model: The model. It stays as it is.
    *args, **kwargs: A batch, and options of the call.
    which: The norms to look at; None means all. As in `frozen`.

  Returns:
    A `Diagnosis`, in NumPy arrays. A model without batch norms has no norms.

  Raises:
    TypeError: the model is traced, or `which` is of another type.
    ValueError: none is chosen, or a chosen norm does not keep a mean and a
      variance or covariance of its input, as norms that keep them for each
      domain or step.

  Example:
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import BatchNorm, diagnose
    >>> model = BatchNorm(2, use_running_average=True, rngs=nnx.Rngs(0))
    >>> model.mean.set_value(jnp.array([1.0, 3.0]))
    >>> x = jnp.tile(jnp.array([[2.0], [4.0]]), (32, 2))
    >>> diagnosis = diagnose(model, x)
    >>> for line in str(diagnosis).splitlines()[:2]:
    ...   print(line)
    norm    channels  values  drift  variance  constant  gain~0  broken
    itself         2      64   1.41      1.00         0       0       0
    >>> print(diagnosis.norms["itself"].drift)
    [2. 0.]
  """
  targets = batch_norms(model, which)
  if any(
    isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(nnx.state(model))
  ):
    raise TypeError(
      "diagnose returns numbers and advice, so it is called outside of nnx.jit"
      " and other transformations, got a traced model."
    )
  noting = nnx.clone(model)
  norms = add_pools(noting, targets, _note)
  nnx.jit(_call)(noting, args, kwargs)
  found = [
    norm_diagnosis(
      path,
      {name: v.get_value() for name, v in statistics(targets[path]).items()},
      _noted(module),
      value(targets[path], "scale"),
    )
    for path, module in norms.items()
  ]
  return Diagnosis({norm.path: norm for norm in found})


def _call(model: nnx.Module, args: Any, kwargs: Any) -> None:
  model(*args, **kwargs)


def _note(
  module: nnx.Module, call: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
  """Calls a batch norm, and keeps the moments of all its values."""
  kept = statistics(module)[POOL]
  pool: functional.Moments = kept.get_value()
  given = arguments(call, args, kwargs).arguments
  seen = input_moments(module, given, pool, name_in_model(module))
  kept.set_value(functional.merge_moments(pool, seen))
  return call(*args, **kwargs)


def _noted(module: nnx.Module) -> dict[str, Any]:
  """Returns what `norm_diagnosis` takes."""
  pool = statistics(module)[POOL].get_value()
  return {POOL: pool, **fields(module, pool.m2)}


def _value(module: nnx.Module, name: str) -> Any:
  variable = getattr(module, name, None)
  return variable.get_value() if isinstance(variable, nnx.Variable) else None
