"""Batch norms folded into the layers before them, for inference."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.linen.dtypes import promote_dtype
from flax.linen.module import InterceptorContext

from normjax import functional
from normjax.functional.arguments import canonical_axes
from normjax.linen.batch import BatchNorm
from normjax.linen.calls import Variables, called, intercepted, of_arrays
from normjax.linen.dataflow import Mark, inputs_read, mark, marks
from normjax.linen.selection import (
  Path,
  Which,
  arguments,
  canonical,
  field_set,
  is_batch_norm,
  listed,
  norm_paths,
  nothing_chosen,
  selects,
)

_LAYERS = (nn.Dense, nn.Conv, nn.ConvTranspose)
_LAYER_NAMES = "nn.Dense, nn.Conv or nn.ConvTranspose"
_NORMS = (BatchNorm, nn.BatchNorm)

# Fields of layers that may do anything with the kernel.
_HOOKS = (
  "dot_general",
  "dot_general_cls",
  "conv_general_dilated",
  "conv_general_dilated_cls",
)


class FoldedNorm(NamedTuple):
  """A batch norm that is a part of the layer before it.

  Attributes:
    path, layer: Where norm and layer are in the model, as tuples of names.
    new_bias: Whether the layer had no bias before.
    dtype: That of the norm's results, if the layer's has another; else None.
  """

  path: Path
  layer: Path
  new_bias: bool
  dtype: jnp.dtype | None


@dataclasses.dataclass(frozen=True)
class FoldedModel:
  """A model in which batch norms are parts of the layers before them.

  It is used as the model itself: `folded.apply(variables, x, ...)`, with the
  variables that `fold` returned with it, also under `jax.jit` and
  `jax.export`. The norms are not called.

  Attributes:
    model: The model, unchanged.
    norms: The norms that are folded.
    kept: Paths of other chosen norms, each with the reason why it is not
      folded; see `partial` of `fold`.
  """

  model: nn.Module
  norms: tuple[FoldedNorm, ...]
  kept: tuple[tuple[str, str], ...] = ()

  def apply(self, variables: Variables, *args: Any, **options: Any) -> Any:
    """Returns what `model.apply` returns.

    The call must do with the folded norms what the example did: the same layer
    before each, and evaluation.

    Raises:
      ValueError: it does something else with them, or `variables` are those of
        the model before it was folded.
    """
    stats = set(norm_paths(variables.get("batch_stats", {})))
    unfolded = stats.intersection(norm.path for norm in self.norms)
    if unfolded:
      raise ValueError(
        f"These variables have statistics of {listed(unfolded)}, folded into"
        " layers. Pass the variables that fold returned."
      )
    folding = _Folding(self.norms)
    with intercepted(folding.intercept, self.norms):
      result = self.model.apply(variables, *args, **options)
    folding.check()
    return result


def fold(
  model: nn.Module,
  variables: Variables,
  *args: Any,
  which: Which = None,
  partial: bool = False,
  **options: Any,
) -> tuple[FoldedModel, Variables]:
  """Returns model and variables in which batch norms are parts of layers.

  In evaluation, a batch norm of `normjax.linen` or `flax.linen` is an affine
  map of each channel. An `nn.Dense`, `nn.Conv` or `nn.ConvTranspose` before it
  can do the same with another kernel and bias, for nothing.

  The model is traced once with the example, without computing anything. What
  counts is what it does, not how it is written or how its modules are named: a
  norm is folded if its input is what a layer returned, unchanged, and if
  nothing else in the model uses that, or the parameters of the two.

  The folded model equals the original up to the rounding of its layers, about
  1e-6 in float32. A layer that computes in half precision rounds its result;
  that is now the result of the norm. Means that are many standard deviations
  away are as in `normjax.fold_batch_norm`.

  Args:
    model: A Linen module.
    variables: Its variables.
    *args: An example of the model's arguments. Arrays may be
      `jax.ShapeDtypeStruct`: values do not matter.
    which: The norms to fold; None means all. As in `frozen`.
    partial: Whether norms that can not be folded may stay as they are.
      Otherwise that is an error.
    **options: Options of `model.apply` as in evaluation, such as `train=False`
      or `method`.

  Returns:
    A `FoldedModel`, and its variables: new kernels and biases, and no
    parameters and statistics of the folded norms. A model that has no batch
    norm stays as it is.

  Raises:
    TypeError: `which` is of another type.
    ValueError: none is chosen, or one can not be folded, with the reason for
      each: its input is not what a layer returned, because it stands before the
      layer or after an activation; the layer's output or a parameter is also
      used elsewhere; layer or norm is called twice; the norm is masked, uses
      the statistics of the batch, or has another axis than the layer's
      features; layer or norm is of a class that may do something else.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from normjax.linen import BatchNorm, fold
    >>> model = nn.Sequential([
    ...   nn.Conv(8, (3, 3), use_bias=False),
    ...   BatchNorm(use_running_average=True),
    ...   nn.relu])
    >>> x = jnp.ones((1, 4, 4, 3))
    >>> variables = model.init(jax.random.key(0), x)
    >>> folded, folded_variables = fold(model, variables, x)
    >>> print(jax.tree.map(jnp.shape, folded_variables))
    {'params': {'layers_0': {'bias': (8,), 'kernel': (3, 3, 3, 8)}}}
    >>> y = jax.jit(folded.apply)(folded_variables, x)
    >>> bool(jnp.allclose(y, model.apply(variables, x), atol=1e-5))
    True
  """
  chosen = canonical(which)
  plain = nn.meta.unbox(dict(variables))
  apply, arrays = of_arrays(model, args, options)
  calls = _Calls()
  with intercepted(calls.intercept):
    program = jax.make_jaxpr(apply)(plain, arrays)
  paths = {call.path: call.module for call in calls.norms()}
  for path in norm_paths(plain.get("batch_stats", {})):
    paths.setdefault(path, None)
  wanted = [
    path for path, module in paths.items() if _selects(chosen, path, module)
  ]
  if paths and not wanted:
    raise ValueError(nothing_chosen(which, type(model).__name__, [*paths]))
  finder = _Finder(calls.calls, [*marks(program)], plain)
  pairs, kept = {}, {}
  for path in wanted:
    try:
      pairs[path] = finder.layer_of(path)
    except _RefusedError as reason:
      kept[path] = str(reason)
  for path in _read_elsewhere(pairs, apply, plain, arrays):
    layer = pairs.pop(path)[1]
    kept[path] = (
      f"its parameters, or those of {_name(layer.path)}, are also used"
      " elsewhere, or are computed from others"
    )
  if kept and not partial:
    raise ValueError(_message(model, kept, len(wanted)))
  folded = FoldedModel(
    model,
    tuple(_folded_norm(*pair) for pair in pairs.values()),
    tuple((_name(path), reason) for path, reason in kept.items()),
  )
  return folded, _folded_variables(variables, pairs.values())


class _Call(NamedTuple):
  """A call of a layer or a norm in the model.

  Attributes:
    path, module: Where and what it is.
    y: Type of its output.
    shapes: Shapes of its variables, by collection and name.
    evaluates, masked: Of a norm, whether it uses running statistics, and
      whether it has a mask.
  """

  path: Path
  module: Any
  y: Any
  shapes: dict[tuple[str, ...], tuple[int, ...]]
  evaluates: bool = True
  masked: bool = False


class _Calls:
  """Notes and marks all calls of layers and norms while a model is traced."""

  def __init__(self) -> None:
    self.calls: list[_Call] = []

  def norms(self) -> Iterator[_Call]:
    return (c for c in self.calls if not isinstance(c.module, _LAYERS))

  def intercept(
    self, next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext
  ) -> Any:
    module = context.module
    if isinstance(module, _LAYERS) and called(context):
      y = next_fun(*args, **kwargs)
      return mark(y, self._add(module, y))
    if not is_batch_norm(context):
      return next_fun(*args, **kwargs)
    given = arguments(context, args, kwargs)
    name = next(iter(given.arguments))
    x = jnp.asarray(given.arguments[name])
    mode = given.arguments.get("use_running_average")
    number = self._add(
      module,
      x,
      evaluates=bool(module.use_running_average if mode is None else mode),
      masked=given.arguments.get("mask") is not None,
    )
    given.arguments[name] = mark(x, number)
    y = next_fun(*given.args, **given.kwargs)
    self.calls[number] = self.calls[number]._replace(y=jax.typeof(y))
    return y

  def _add(self, module: Any, y: jax.Array, **of_norm: bool) -> int:
    variables = traverse_util.flatten_dict(nn.meta.unbox(module.variables))
    self.calls.append(
      _Call(
        module.path,
        module,
        jax.typeof(y),
        {path: jnp.shape(value) for path, value in variables.items()},
        **of_norm,
      )
    )
    return len(self.calls) - 1


class _RefusedError(Exception):
  """Why a norm can not be folded."""


class _Finder:
  """Finds the layer that a norm can be folded into."""

  def __init__(
    self, calls: list[_Call], found: list[Mark], variables: Variables
  ):
    self._calls = calls
    self._marks: dict[Path, list[Mark]] = {}
    for item in found:
      self._marks.setdefault(calls[item.number].path, []).append(item)
    self._shapes = {
      path: jnp.shape(value)
      for path, value in traverse_util.flatten_dict(dict(variables)).items()
    }

  def layer_of(self, path: Path) -> tuple[_Call, _Call]:
    """Returns the calls of the norm and of the layer before it.

    Raises:
      _RefusedError: the norm can not be folded.
    """
    if path not in self._marks:
      raise _RefusedError(
        "the model does not call it with these arguments, it is no batch norm,"
        " or nn.jit has compiled it together with a block that looks the same"
      )
    norm_mark, norm = self._only(path)
    _check_norm(norm)
    if norm_mark.source is None:
      raise _RefusedError(
        f"its input is not the output of an {_LAYER_NAMES}, but"
        f" {norm_mark.maker}"
      )
    layer = self._calls[norm_mark.source]
    _check_layer(layer)
    layer_mark, _ = self._only(layer.path)
    if layer_mark.uses > 1:
      raise _RefusedError(
        f"the output of {_name(layer.path)} before it is also used elsewhere"
      )
    ndim = layer.y.ndim
    axes = canonical_axes(norm.module.axis, ndim, "axis")
    if axes != (ndim - 1,):
      raise _RefusedError(
        f"it normalizes axis={norm.module.axis} of an array with {ndim} axes,"
        f" but the features of {_name(layer.path)} are the last"
      )
    for call in norm, layer:
      self._check_shapes(call)
    return norm, layer

  def _only(self, path: Path) -> tuple[Mark, _Call]:
    found = self._marks[path]
    if len(found) > 1:
      raise _RefusedError(f"{_name(path)} is called {len(found)} times")
    return found[0], self._calls[found[0].number]

  def _check_shapes(self, call: _Call) -> None:
    for (collection, *names), shape in call.shapes.items():
      stored = self._shapes.get((collection, *call.path, *names))
      if stored != shape:
        raise _RefusedError(
          f"{'/'.join(names)} of {_name(call.path)} has shape {shape} inside of"
          f" the model, but {stored} in the variables, as by nn.scan or nn.vmap"
          " over layers"
        )


def _check_norm(norm: _Call) -> None:
  if type(norm.module) not in _NORMS:
    raise _RefusedError(
      f"it is a {type(norm.module).__name__}, which may do something else than"
      " normjax.linen.BatchNorm and flax.linen.BatchNorm"
    )
  if not norm.evaluates:
    raise _RefusedError(
      "it uses the statistics of the batch; call the model as in evaluation,"
      " such as with train=False"
    )
  if norm.masked:
    raise _RefusedError("it has a mask, which a layer does not know")


def _check_layer(layer: _Call) -> None:
  module = layer.module
  if type(module) not in _LAYERS:
    raise _RefusedError(
      f"{_name(layer.path)} before it is a {type(module).__name__}, which may"
      f" do something else than {_LAYER_NAMES}"
    )
  hooks = [name for name in _HOOKS if getattr(module, name, None) is not None]
  if getattr(module, "promote_dtype", promote_dtype) is not promote_dtype:
    hooks.append("promote_dtype")
  if hooks:
    raise _RefusedError(
      f"{_name(layer.path)} before it has {', '.join(hooks)}, which may do"
      " anything with the kernel"
    )


def _selects(chosen: Any, path: Path, module: nn.Module | None) -> bool:
  """Whether `chosen` selects a norm; one that is not called has no class."""
  if isinstance(chosen, tuple):
    return any(_selects(item, path, module) for item in chosen)
  if module is None and isinstance(chosen, type):
    return False
  return selects(chosen, path, module)


def _read_elsewhere(
  pairs: Mapping[Path, tuple[_Call, _Call]],
  apply: Callable[..., Any],
  variables: Variables,
  arrays: list[Any],
) -> list[Path]:
  """Returns the norms whose parameters, or whose layer's, are read elsewhere.

  In a model in which the layers and the norms return zeros, nothing must
  depend on them any more.
  """
  results = {call.path: call.y for pair in pairs.values() for call in pair}

  def intercept(
    next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext
  ) -> Any:
    if not called(context) or context.module.path not in results:
      return next_fun(*args, **kwargs)
    y = results[context.module.path]
    return jnp.zeros(y.shape, y.dtype)

  with intercepted(intercept):
    program = jax.make_jaxpr(apply)(variables, arrays)
  leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
  names = (
    tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
    for path, _ in leaves
  )
  reads = inputs_read(program)[: len(leaves)]
  read = [path[1:] for path, used in zip(names, reads, strict=True) if used]
  return [
    path
    for path, pair in pairs.items()
    if any(name[: len(c.path)] == c.path for c in pair for name in read)
  ]


def _folded_norm(norm: _Call, layer: _Call) -> FoldedNorm:
  dtype = None if norm.y.dtype == layer.y.dtype else norm.y.dtype
  return FoldedNorm(norm.path, layer.path, not layer.module.use_bias, dtype)


def _folded_variables(
  variables: Variables, pairs: Any
) -> dict[str, dict[str, Any]]:
  """Returns the variables with folded layers and without the norms."""
  flat = traverse_util.flatten_dict(dict(variables), keep_empty_nodes=True)
  get = lambda *path: nn.meta.unbox(flat.get(path))
  for norm, layer in pairs:
    module = norm.module
    of_layer, of_norm = ("params", *layer.path), ("params", *norm.path)
    stats = ("batch_stats", *norm.path)
    transposed = getattr(layer.module, "transpose_kernel", False)
    folded = functional.fold_batch_norm(
      get(*of_layer, "kernel"),
      get(*of_layer, "bias"),
      get(*of_norm, "scale"),
      get(*of_norm, "bias"),
      functional.BatchStats(get(*stats, "mean"), get(*stats, "var")),
      axis=-2 if transposed else -1,
      epsilon=module.epsilon,
      scale_offset=getattr(module, "scale_offset", 0.0),
    )
    for name, value in zip(("kernel", "bias"), folded, strict=True):
      path = (*of_layer, name)
      flat[path] = nn.meta.replace_boxed(flat.get(path, value), value)
    for path in [*flat]:
      if path[1 : len(norm.path) + 1] == norm.path:
        del flat[path]
  return traverse_util.unflatten_dict(flat)


class _Folding:
  """Runs a model without the norms that are folded."""

  def __init__(self, norms: tuple[FoldedNorm, ...]):
    self._norms = {norm.path: norm for norm in norms}
    self._layers = {norm.layer: norm for norm in norms}
    # Outputs of layers whose norm is still to come.
    self._pending: dict[Path, Any] = {}

  def intercept(
    self, next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext
  ) -> Any:
    path = context.module.path if called(context) else None
    if path in self._layers:
      return self._layer(self._layers[path], next_fun, args, kwargs, context)
    if path in self._norms:
      return self._norm(self._norms[path], args, kwargs, context)
    return next_fun(*args, **kwargs)

  def check(self) -> None:
    """Raises if a norm was not called after its layer."""
    if self._pending:
      raise ValueError(
        f"{listed(self._pending)} did not come after the layer that it was"
        f" folded into. {_AS_EXAMPLE}"
      )

  def _layer(
    self,
    norm: FoldedNorm,
    next_fun: Any,
    args: Any,
    kwargs: Any,
    context: InterceptorContext,
  ) -> Any:
    with (
      field_set(context.module, "use_bias", True)
      if norm.new_bias
      else contextlib.nullcontext()
    ):
      y = next_fun(*args, **kwargs)
    self._pending[norm.path] = y
    return y

  def _norm(
    self, norm: FoldedNorm, args: Any, kwargs: Any, context: InterceptorContext
  ) -> Any:
    given = arguments(context, args, kwargs).arguments
    module: Any = context.module
    x = next(iter(given.values()))
    mode = given.get("use_running_average")
    mode = module.use_running_average if mode is None else mode
    if (
      not mode
      or given.get("mask") is not None
      or self._pending.pop(norm.path, None) is not x
    ):
      raise ValueError(
        f"{_name(norm.path)} was folded into {_name(norm.layer)}, but is now"
        " called in training, with a mask, or with something else than the"
        f" output of that layer. {_AS_EXAMPLE}"
      )
    return x if norm.dtype is None else x.astype(norm.dtype)


_AS_EXAMPLE = (
  "Call the folded model as in the example that it was folded with, or fold it"
  " with an example of this call."
)


def _name(path: Path) -> str:
  return "/".join(path) or "itself"


def _message(model: nn.Module, kept: Mapping[Path, str], total: int) -> str:
  reasons = "".join(
    f"\n  {_name(path)}: {reason}." for path, reason in kept.items()
  )
  return (
    f"{len(kept)} of {total} batch norms of {type(model).__name__} can not be"
    f" folded:{reasons}\nPass partial=True to leave these as they are, or"
    " choose others by `which`."
  )
