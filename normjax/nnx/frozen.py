"""Batch norms that keep their running statistics while others train."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

from normjax.lifecycle.selection import Which
from normjax.nnx.calls import (
  batch_norms,
  called_in_mode,
  intercepted,
  intercepts,
  restore,
)


@contextlib.contextmanager
def frozen(
  model: nnx.Module, which: Which = None, *, missing_ok: bool = False
) -> Iterator[None]:
  """Freezes batch norms: they use and keep their running statistics.

  A context in which the model is called. It trains as usual, but the chosen
  batch norms of `normjax.nnx` and `flax.nnx` work as in evaluation, also after
  `model.train()`. Contexts can be nested; then all that is chosen is frozen.

  Their gain and bias still train. To freeze them too, give
  `frozen_mask(model, which)` to the optimizer.

  Args:
    model: The model, or a part of it: `frozen(model.encoder)`. Other modules
      with the same norms are frozen too. A view (`nnx.view`) and what
      `nnx.cached_partial` got before are copies and are not; a clone that is
      made inside stays frozen.
    which: The norms to freeze; None means all.
      - A string is a pattern of paths as in `fnmatch`. `"encoder"` chooses all
        norms in the submodule `encoder`, `"layers/*/norm"` one of every block.
      - A class of modules chooses its instances.
      - A function gets the path, a tuple of names, and returns a boolean.
      - A collection chooses what any of its items chooses.
    missing_ok: Whether `which`, or an item of it, may choose none. Otherwise
      that is an error.

  Raises:
    TypeError: `which` is of another type.
    ValueError: the model has batch norms, and `which`, or a pattern or function
      in it, chooses none of them.

  Example:
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import BatchNorm, frozen
    >>> rngs = nnx.Rngs(0)
    >>> model = nnx.Sequential(
    ...   BatchNorm(2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs),
    ...   BatchNorm(2, rngs=rngs))
    >>> with frozen(model, "layers/0"):
    ...   y = model(jnp.array([[1.0, 2.0], [3.0, 8.0]]))
    >>> for norm in model.layers[0], model.layers[2]:
    ...   print("trains" if norm.mean.get_value().any() else "is frozen")
    is frozen
    trains
  """
  chosen = batch_norms(model, which, missing_ok=missing_ok).values()
  before = [(module, intercepted(module, _evaluate)) for module in chosen]
  try:
    yield
  finally:
    for module, cls in before:
      restore(module, cls)


def _evaluate(
  module: nnx.Module, call: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
  return called_in_mode(module, True, call, args, kwargs)


def is_frozen(norm: nnx.Module) -> bool:
  """Returns whether a batch norm is frozen in this context."""
  return intercepts(norm, _evaluate)


def frozen_mask(
  model: nnx.Module, which: Which = None, *, missing_ok: bool = False
) -> Any:
  """Returns which parameters belong to the batch norms that are frozen.

  Args:
    model, which, missing_ok: As in `frozen`.

  Returns:
    A tree of booleans of the structure of `nnx.state(model, nnx.Param)`, True
    for the gain and bias of chosen batch norms.
    `optax.selective_transform(optimizer, freeze_mask=mask)` leaves them alone.
    Zero gradients would not be enough: weight decay and momentum would still
    change them.

  Raises:
    TypeError: `which` is of another type.
    ValueError: `which`, or an item of it, chooses none.

  Example:
    >>> import optax
    >>> from flax import nnx
    >>> from normjax.nnx import BatchNorm, frozen_mask
    >>> rngs = nnx.Rngs(0)
    >>> model = nnx.Sequential(
    ...   nnx.Linear(2, 3, rngs=rngs), BatchNorm(3, rngs=rngs))
    >>> mask = frozen_mask(model)
    >>> for name, layer in mask["layers"].items():
    ...   print(name, dict(layer))
    0 {'bias': False, 'kernel': False}
    1 {'bias': True, 'scale': True}
    >>> tx = optax.selective_transform(optax.adamw(1e-3), freeze_mask=mask)
    >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  """
  norms = batch_norms(model, which, missing_ok=missing_ok)
  return nnx.from_flat_state(
    (keys, tuple(map(str, keys[:-1])) in norms)
    for keys, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))
  )
