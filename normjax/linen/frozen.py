"""Batch norms that keep their running statistics while others train."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.linen.module import InterceptorContext

from normjax.lifecycle.selection import (
  Path,
  Which,
  canonical,
  check_choice,
  nothing_chosen,
  selects,
  selects_path,
)
from normjax.linen.selection import (
  called_in_mode,
  is_batch_norm,
  norm_paths,
)

PyTree = Any

# All that is frozen here. It is a part of the keys of JAX's caches, so what was
# compiled in another context is traced again.
_frozen = jax.make_user_context(default_value=())

_MISSING_OK = " If that is meant, pass missing_ok=True."


@contextlib.contextmanager
def frozen(which: Which = None, *, missing_ok: bool = False) -> Iterator[None]:
  """Freezes batch norms: they use and keep their running statistics.

  A context in which models are called, or traced by `jax.jit`. The model trains
  as usual, but the chosen batch norms of `normjax.linen` and `flax.linen` work
  as in evaluation. Contexts can be nested; then all that is chosen is frozen.
  Also a decorator, for a training step: `@frozen("encoder")`.

  Their gain and bias still train. To freeze them too, give
  `frozen_mask(variables, which)` to the optimizer.

  Args:
    which: The norms to freeze; None means all.
      - A string is a pattern of paths as in `fnmatch`. `"encoder"` chooses all
        norms in the submodule `encoder`, `"*/BatchNorm_0"` the first of every
        block.
      - A class of modules chooses its instances.
      - A function gets the path, a tuple of names, and returns a boolean.
      - A collection chooses what any of its items chooses.
    missing_ok: Whether a model may be called in which `which`, or an item of
      it, chooses no batch norm. Otherwise that is an error.

  Raises:
    TypeError: `which` is of another type.
    ValueError: a model has batch norms, and `which`, or a pattern or function
      in it, chooses none of them.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from normjax.linen import BatchNorm, frozen
    >>> model = nn.Sequential([
    ...   BatchNorm(use_running_average=False),
    ...   nn.Dense(2),
    ...   BatchNorm(use_running_average=False)])
    >>> x = jnp.array([[1.0, 2.0], [3.0, 8.0]])
    >>> variables = model.init(jax.random.key(0), x)
    >>> with frozen("layers_0"):
    ...   y, updates = model.apply(variables, x, mutable=["batch_stats"])
    >>> for name, stats in updates["batch_stats"].items():
    ...   print(name, "trains" if stats["mean"].any() else "is frozen")
    layers_0 is frozen
    layers_2 trains
  """
  chosen = canonical(which)
  check = _Check(chosen, missing_ok, f"frozen_{len(_frozen.value)}")

  def intercept(
    next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext
  ) -> Any:
    module = context.module
    if context.method_name == "setup":
      return next_fun(*args, **kwargs)
    with check.call(module):
      if is_batch_norm(context):
        freezes = selects(chosen, module.path, module)
        check.add(module.path, freezes)
        if freezes:
          return called_in_mode(True, next_fun, args, kwargs, context)
      return next_fun(*args, **kwargs)

  with _frozen((*_frozen.value, chosen)), nn.intercept_methods(intercept):
    yield


def is_frozen(module: nn.Module) -> bool:
  """Returns whether a batch norm is frozen in this context."""
  return any(selects(which, module.path, module) for which in _frozen.value)


def frozen_mask(
  variables: Mapping[str, PyTree],
  which: Which = None,
  *,
  missing_ok: bool = False,
) -> PyTree:
  """Returns which parameters belong to the batch norms that are frozen.

  Args:
    variables: Variables of a Linen model, with `params` and `batch_stats`.
      Batch norms are told from others by their running statistics.
    which: As in `frozen`, but no class.
    missing_ok: Whether `which`, or an item of it, may choose none. Otherwise
      that is an error.

  Returns:
    A tree of booleans of the structure of `params`, True for the gain and bias
    of chosen batch norms. `optax.selective_transform(optimizer,
    freeze_mask=mask)` leaves them alone. Zero gradients would not be enough:
    weight decay and momentum would still change them.

  Raises:
    TypeError: `which` is a class, or of another type than `frozen` takes.
    ValueError: `variables` have no `params`, or `which`, or an item of it,
      chooses none.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> from flax import linen as nn
    >>> from normjax.linen import BatchNorm, frozen_mask
    >>> model = nn.Sequential([nn.Dense(3), BatchNorm(True), nn.LayerNorm()])
    >>> variables = model.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> mask = frozen_mask(variables)
    >>> for name, frozen in mask.items():
    ...   print(name, frozen)
    layers_0 {'bias': False, 'kernel': False}
    layers_1 {'bias': True, 'scale': True}
    layers_2 {'bias': False, 'scale': False}
    >>> tx = optax.selective_transform(optax.adamw(1e-3), freeze_mask=mask)
  """
  if "params" not in variables:
    raise ValueError(
      "frozen_mask needs the variables of a model, with 'params' and"
      f" 'batch_stats', got {', '.join(map(repr, variables)) or 'nothing'}."
    )
  chosen = canonical(which)
  paths = [*norm_paths(variables.get("batch_stats", {}))]
  norms = [path for path in paths if selects(chosen, path)]
  if not missing_ok:
    check_choice(
      chosen,
      "these variables",
      paths,
      chosen=bool(norms),
      advice=_MISSING_OK,
    )

  def belongs(path: jax.tree_util.KeyPath, leaf: Any) -> bool:
    """Whether an array stands directly in a norm, and not in its modules."""
    del leaf
    names = (key for key in path if isinstance(key, jax.tree_util.DictKey))
    *module, _ = (str(name.key) for name in names)
    return tuple(module) in norms

  return jax.tree_util.tree_map_with_path(belongs, variables["params"])


class _Check:
  """Notices models of whose batch norms none is frozen."""

  def __init__(self, which: Any, missing_ok: bool, mark: str):
    self._mark = mark
    self._which = which
    self._missing_ok = missing_ok
    self._depth = 0
    self._called: set[Path] = set()
    self._matched = False

  def add(self, path: Path, freezes: bool) -> None:
    """Notes a batch norm that is called."""
    self._called.add(path)
    self._matched |= freezes

  @contextlib.contextmanager
  def call(self, module: nn.Module) -> Iterator[None]:
    """Raises at the end of a call of a model, which may call itself."""
    if not _is_root(module):
      yield
      return
    outermost = self._depth == 0
    if outermost:
      self._called.clear()
      self._check_items(module)
    self._depth += 1
    try:
      with (
        _marked(module, self._which, self._mark)
        if outermost
        else contextlib.nullcontext()
      ):
        yield
    finally:
      self._depth -= 1
    # Matched once is enough: `nn.jit` calls no module of a cached trace.
    done = self._depth == 0 and self._called and not self._matched
    if done and not self._missing_ok:
      raise ValueError(
        nothing_chosen(self._which, type(module).__name__, self._called)
        + _MISSING_OK
      )

  def _check_items(self, model: nn.Module) -> None:
    """Raises if an item of a collection chooses nothing in a model."""
    paths = [*norm_paths(model.variables.get("batch_stats", {}))]
    if paths and not (self._missing_ok or model.is_initializing()):
      name = type(model).__name__
      check_choice(self._which, name, paths, advice=_MISSING_OK)


@contextlib.contextmanager
def _marked(model: nn.Module, chosen: Any, mark: str) -> Iterator[None]:
  """Marks statistics whose path is chosen, for a call of the model.

  Flax traces blocks that `nn.jit` compiles only once if they and their
  variables look the same, wherever they are. Marks, which hold nothing, let the
  variables look different.

  Args:
    model: The model. If its statistics cannot change, no block trains.
    chosen: What is frozen.
    mark: The name of the mark beside a `mean`.
  """
  if model.is_initializing() or not model.is_mutable_collection("batch_stats"):
    yield
    return
  names = [*model.variables.get("batch_stats", {})]
  for name in names:
    stats: Any = model.get_variable("batch_stats", name)
    marks = _marks(stats, chosen, mark, (name,))
    if marks:
      model.put_variable("batch_stats", name, marks)  # Joins what is there.
  yield
  for name in names:
    _unmark(model.get_variable("batch_stats", name), mark)


def _marks(stats: Any, chosen: Any, mark: str, path: Path) -> dict[str, Any]:
  """Returns a tree of nothing but marks, each beside a `mean`."""
  if not isinstance(stats, Mapping):
    return {}
  marks = {
    name: _marks(value, chosen, mark, (*path, name))
    for name, value in stats.items()
  }
  marks = {name: branch for name, branch in marks.items() if branch}
  if "mean" in stats and selects_path(chosen, path):
    marks[mark] = {}
  return marks


def _unmark(stats: Any, mark: str) -> None:
  """Removes marks in place, because modules refer to parts of the tree."""
  if isinstance(stats, dict):
    stats.pop(mark, None)
    for value in stats.values():
      _unmark(value, mark)


def _is_root(module: nn.Module) -> bool:
  """Whether it is the model itself, and not one of its modules."""
  return not module.path and not isinstance(module.parent, nn.Module)
