"""Which layer a batch norm can be folded into, by what a model does."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from normjax.functional.arguments import canonical_axes
from normjax.lifecycle.dataflow import Mark, inputs_read, marks
from normjax.lifecycle.selection import Path, name_of


class Kinds(NamedTuple):
  """What can be folded in a front end.

  Attributes:
    layers, norms: Classes of modules.
    layer_names, norm_names: They, in words.
    hooks: Returns the names of what may do anything with a layer's kernel.
  """

  layers: tuple[type, ...]
  norms: tuple[type, ...]
  layer_names: str
  norm_names: str
  hooks: Callable[[Any], list[str]]


class Call(NamedTuple):
  """A call of a layer or a norm in the model.

  Attributes:
    path, module, kind: Where and what it is, and its class.
    y: Type of its output.
    shapes: Shapes of its variables, by collection and name; trees of shapes
      for variables that are trees.
    evaluates, masked: Of a norm, whether it uses running statistics, and
      whether it has a mask.
  """

  path: Path
  module: Any
  kind: type
  y: Any
  shapes: dict[tuple[str, ...], Any]
  evaluates: bool = True
  masked: bool = False


class Traced(NamedTuple):
  """What a model does in a call.

  Attributes:
    calls: The calls of layers and norms, whose results and inputs are marked by
      their numbers in this list.
    others: Paths of the other modules that are called.
    program: The traced model.
    shapes: Shapes of its variables, by collection and path.
  """

  calls: list[Call]
  others: set[Path]
  program: ClosedJaxpr
  shapes: Mapping[tuple[str, ...], Any]


def shapes_of(value: Any) -> Any:
  """Returns the shape of an array, or those in a tree of arrays."""
  return jax.tree.map(jnp.shape, value)


def find_pairs(
  wanted: Iterable[Path],
  kinds: Kinds,
  traced: Traced,
  read: Callable[[Mapping[Path, Any]], Iterable[Path]],
) -> tuple[dict[Path, tuple[Call, Call]], dict[Path, str]]:
  """Returns calls of norms and of the layers before them, and what is refused.

  Args:
    wanted: Paths of norms.
    kinds: What can be folded.
    traced: What the model does.
    read: Gets types of results by the paths of modules, and returns the paths
      of the variables that the model depends on if these modules return zeros.

  Returns:
    For each norm that can be folded, its call and that of its layer; for each
    other one, the reason.
  """
  finder = _Finder(kinds, traced)
  pairs, refused = {}, {}
  for path in wanted:
    try:
      pairs[path] = finder.layer_of(path)
    except _RefusedError as reason:
      refused[path] = str(reason)
  needed = [*read({c.path: c.y for pair in pairs.values() for c in pair})]
  for path, (norm, layer) in [*pairs.items()]:
    if any(
      name[: len(call.path)] == call.path
      for call in (norm, layer)
      for name in needed
    ):
      del pairs[path]
      refused[path] = (
        f"its parameters, or those of {name_of(layer.path)}, are also used"
        " elsewhere, or are computed from others"
      )
  return pairs, refused


def read_paths(program: ClosedJaxpr, variables: Any) -> list[Path]:
  """Returns the paths of variables, its first inputs, that a program needs.

  Paths are without their first names, the collections.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
  names = (
    tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
    for path, _ in leaves
  )
  reads = inputs_read(program)[: len(leaves)]
  return [path[1:] for path, used in zip(names, reads, strict=True) if used]


class _RefusedError(Exception):
  """Why a norm can not be folded."""


class _Finder:
  """Finds the layer that a norm can be folded into."""

  def __init__(self, kinds: Kinds, traced: Traced):
    self._kinds = kinds
    self._calls = traced.calls
    self._others = traced.others
    self._shapes = traced.shapes
    self._marks: dict[Path, list[Mark]] = {}
    for item in marks(traced.program):
      self._marks.setdefault(self._calls[item.number].path, []).append(item)

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
    _check_norm(self._kinds, norm)
    if norm_mark.source is None:
      raise _RefusedError(
        f"its input is not the output of an {self._kinds.layer_names}, but"
        f" {norm_mark.maker}"
      )
    layer = self._calls[norm_mark.source]
    _check_layer(self._kinds, layer)
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


def _check_norm(kinds: Kinds, norm: Call) -> None:
  if norm.kind not in kinds.norms:
    raise _RefusedError(
      f"its class is {norm.kind.__name__}, which may do something else than"
      f" {kinds.norm_names}"
    )
  if not norm.evaluates:
    raise _RefusedError(
      "it uses the statistics of the batch; call the model as in evaluation,"
      " such as with train=False"
    )
  if norm.masked:
    raise _RefusedError("it has a mask, which a layer does not know")


def _check_layer(kinds: Kinds, layer: Call) -> None:
  if layer.kind not in kinds.layers:
    raise _RefusedError(
      f"the class of {name_of(layer.path)} before it is {layer.kind.__name__},"
      f" which may do something else than {kinds.layer_names}"
    )
  hooks = kinds.hooks(layer.module)
  if hooks:
    raise _RefusedError(
      f"{name_of(layer.path)} before it has {', '.join(hooks)}, which may do"
      " anything with the kernel"
    )
