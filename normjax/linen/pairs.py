"""Which layer a batch norm can be folded into, by what a model does."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.linen.dtypes import promote_dtype
from flax.linen.module import InterceptorContext
from jax.extend.core import ClosedJaxpr

from normjax.functional.arguments import canonical_axes
from normjax.linen.batch import BatchNorm
from normjax.linen.calls import Variables, called, intercepted
from normjax.linen.dataflow import Mark, inputs_read, mark, marks
from normjax.linen.ghost import GhostBatchNorm
from normjax.linen.renorm import BatchRenorm
from normjax.linen.selection import Path, arguments, is_batch_norm

_LAYERS = (nn.Dense, nn.Conv, nn.ConvTranspose)
_LAYER_NAMES = "nn.Dense, nn.Conv or nn.ConvTranspose"
# In evaluation, all of these are batch norm.
_NORMS = (BatchNorm, BatchRenorm, GhostBatchNorm, nn.BatchNorm)

# Fields of layers that may do anything with the kernel.
_HOOKS = (
  "dot_general",
  "dot_general_cls",
  "conv_general_dilated",
  "conv_general_dilated_cls",
)


class Call(NamedTuple):
  """A call of a layer or a norm in the model.

  Attributes:
    path, module: Where and what it is.
    y: Type of its output.
    shapes: Shapes of its variables, by collection and name; trees of shapes
      for variables that are trees.
    evaluates, masked: Of a norm, whether it uses running statistics, and
      whether it has a mask.
  """

  path: Path
  module: Any
  y: Any
  shapes: dict[tuple[str, ...], Any]
  evaluates: bool = True
  masked: bool = False


class Calls:
  """Notes and marks all calls of layers and norms while a model is traced.

  Attributes:
    calls: The calls.
    others: Paths of the other modules that are called.
  """

  def __init__(self) -> None:
    self.calls: list[Call] = []
    self.others: set[Path] = set()

  def norms(self) -> Iterator[Call]:
    return (c for c in self.calls if not isinstance(c.module, _LAYERS))

  def intercept(
    self, next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext
  ) -> Any:
    module = context.module
    if isinstance(module, _LAYERS) and called(context):
      y = next_fun(*args, **kwargs)
      return mark(y, self._add(module, y))
    if not is_batch_norm(context):
      if called(context):
        self.others.add(module.path)
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
      Call(
        module.path,
        module,
        jax.typeof(y),
        {path: _shapes(value) for path, value in variables.items()},
        **of_norm,
      )
    )
    return len(self.calls) - 1


def find_pairs(
  wanted: Iterable[Path],
  calls: Calls,
  program: ClosedJaxpr,
  apply: Callable[..., Any],
  variables: Variables,
  arrays: list[Any],
) -> tuple[dict[Path, tuple[Call, Call]], dict[Path, str]]:
  """Returns calls of norms and of the layers before them, and what is refused.

  Args:
    wanted: Paths of norms.
    calls: What was noted while the model was traced.
    program: The traced model.
    apply, variables, arrays: The model as a function, and its arguments.

  Returns:
    For each norm that can be folded, its call and that of its layer; for each
    other one, the reason.
  """
  finder = _Finder(calls, [*marks(program)], variables)
  pairs, refused = {}, {}
  for path in wanted:
    try:
      pairs[path] = finder.layer_of(path)
    except _RefusedError as reason:
      refused[path] = str(reason)
  for path in _read_elsewhere(pairs, apply, variables, arrays):
    _, layer = pairs.pop(path)
    refused[path] = (
      f"its parameters, or those of {name_of(layer.path)}, are also used"
      " elsewhere, or are computed from others"
    )
  return pairs, refused


class _RefusedError(Exception):
  """Why a norm can not be folded."""


class _Finder:
  """Finds the layer that a norm can be folded into."""

  def __init__(self, calls: Calls, found: list[Mark], variables: Variables):
    self._calls = calls.calls
    self._others = calls.others
    self._marks: dict[Path, list[Mark]] = {}
    for item in found:
      self._marks.setdefault(self._calls[item.number].path, []).append(item)
    self._shapes = {
      path: _shapes(value)
      for path, value in traverse_util.flatten_dict(dict(variables)).items()
    }

  def layer_of(self, path: Path) -> tuple[Call, Call]:
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
        f"the output of {name_of(layer.path)} before it is also used elsewhere"
      )
    ndim = layer.y.ndim
    axes = canonical_axes(norm.module.axis, ndim, "axis")
    if axes != (ndim - 1,):
      raise _RefusedError(
        f"it normalizes axis={norm.module.axis} of an array with {ndim} axes,"
        f" but the features of {name_of(layer.path)} are the last"
      )
    for call in norm, layer:
      self._check_shapes(call)
      if call.path in self._others:
        raise _RefusedError(
          f"{name_of(call.path)} is also the path of another module, as by"
          " nn.share_scope"
        )
    return norm, layer

  def _only(self, path: Path) -> tuple[Mark, Call]:
    found = self._marks[path]
    if len(found) > 1:
      raise _RefusedError(f"{name_of(path)} is called {len(found)} times")
    return found[0], self._calls[found[0].number]

  def _check_shapes(self, call: Call) -> None:
    for (collection, *names), shape in call.shapes.items():
      stored = self._shapes.get((collection, *call.path, *names))
      if stored != shape:
        raise _RefusedError(
          f"{'/'.join(names)} of {name_of(call.path)} has shape {shape} inside"
          f" of the model, but {stored} in the variables, as by nn.scan or"
          " nn.vmap over layers"
        )


def _shapes(value: Any) -> Any:
  """Returns the shape of an array, or those in a tree of arrays."""
  return jax.tree.map(jnp.shape, value)


def _check_norm(norm: Call) -> None:
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


def _check_layer(layer: Call) -> None:
  module = layer.module
  if type(module) not in _LAYERS:
    raise _RefusedError(
      f"{name_of(layer.path)} before it is a {type(module).__name__}, which may"
      f" do something else than {_LAYER_NAMES}"
    )
  hooks = [name for name in _HOOKS if getattr(module, name, None) is not None]
  if getattr(module, "promote_dtype", promote_dtype) is not promote_dtype:
    hooks.append("promote_dtype")
  if hooks:
    raise _RefusedError(
      f"{name_of(layer.path)} before it has {', '.join(hooks)}, which may do"
      " anything with the kernel"
    )


def _read_elsewhere(
  pairs: Mapping[Path, tuple[Call, Call]],
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


def name_of(path: Path) -> str:
  return "/".join(path) or "itself"
