"""Batch norms folded into the layers before them, for inference."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.extend.core import ClosedJaxpr

from normjax import functional
from normjax.lifecycle.dataflow import is_array, mark
from normjax.lifecycle.folding import FoldedNorm, folded_norm, refusal
from normjax.lifecycle.pairs import (
  Call,
  Kinds,
  Traced,
  find_pairs,
  read_paths,
  shapes_of,
)
from normjax.lifecycle.selection import Path, Which, name_of
from normjax.nnx.batch import BatchNorm
from normjax.nnx.calls import (
  arguments,
  batch_norms,
  intercepted,
  is_batch_norm,
  modules,
  restore_all,
  value,
)
from normjax.nnx.ghost import GhostBatchNorm
from normjax.nnx.renorm import BatchRenorm


class FoldedModel(NamedTuple):
  """A model in which batch norms are parts of the layers before them.

  Attributes:
    model: The model, for evaluation only. The norms return their input.
    norms: The norms that are folded.
    kept: Paths of other chosen norms, each with the reason why it is not
      folded; see `partial` of `fold`.
  """

  model: Any
  norms: tuple[FoldedNorm, ...]
  kept: tuple[tuple[str, str], ...]


def fold(
  model: nnx.Module,
  *args: Any,
  which: Which = None,
  partial: bool = False,
  **kwargs: Any,
) -> FoldedModel:
  """Returns a model in which batch norms are parts of layers.

  In evaluation, a batch norm of `normjax.nnx` or `flax.nnx`, and also
  `BatchRenorm` and `GhostBatchNorm`, is an affine map of each channel. An
  `nnx.Linear`, `nnx.Conv` or `nnx.ConvTranspose` before it can do the same with
  another kernel and bias, for nothing.

  The model is traced with the example, in evaluation, without computing
  anything. What counts is what it does, not how it is written: a norm is folded
  if its input is what a layer returned, unchanged, and if nothing else in the
  model uses that, or the parameters of the two. The folded model equals the
  original up to the rounding of its layers, in calls that do the same with
  these norms.

  Args:
    model: The model. It stays as it is.
    *args, **kwargs: An example of its arguments. Arrays may be
      `jax.ShapeDtypeStruct`: values do not matter.
    which: The norms to fold; None means all. As in `frozen`.
    partial: Whether norms that can not be folded may stay as they are.
      Otherwise that is an error.

  Returns:
    A `FoldedModel`. Its `model` is a copy with new kernels and biases, in which
    a folded norm is a `FoldedBatchNorm`. It refuses training and masks.

  Raises:
    TypeError: `which` is of another type.
    ValueError: `which`, or an item of it, chooses none, or a norm can not be
      folded, with the reason for each, as in `normjax.linen.fold`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import BatchNorm, fold
    >>> rngs = nnx.Rngs(0)
    >>> model = nnx.Sequential(
    ...   nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs),
    ...   BatchNorm(8, rngs=rngs), nnx.relu)
    >>> model.eval()
    >>> x = jnp.ones((1, 4, 4, 3))
    >>> folded = fold(model, x).model
    >>> print(folded.layers[0].bias.shape, type(folded.layers[1]).__name__)
    (8,) FoldedBatchNorm
    >>> bool(jnp.allclose(folded(x), model(x), atol=1e-5))
    True
  """
  folded = nnx.clone(model)
  restore_all(folded)  # What is frozen evaluates, which is all that counts.
  folded.eval()
  wanted = batch_norms(folded, which)
  traced, read = _trace(folded, args, kwargs)
  pairs, kept = find_pairs(wanted, _KINDS, traced, read)
  if kept and not partial:
    raise ValueError(refusal(type(model).__name__, kept, len(wanted)))
  found = dict(modules(folded))
  norms = tuple(folded_norm(*pair) for pair in pairs.values())
  for norm in norms:
    _fold(found[norm.path], found[norm.layer], norm)
  return FoldedModel(
    folded,
    norms,
    tuple((name_of(path), reason) for path, reason in kept.items()),
  )


class FoldedBatchNorm(nnx.Module):
  """What is left of a batch norm that is a part of the layer before it."""

  def __init__(self, name: str, layer: str, dtype: Any):
    """Creates it; `name` and `layer` say what was folded into what."""
    self.name = name
    self.layer = layer
    self.dtype = dtype
    self.use_running_average = True

  def __call__(
    self,
    x: jax.Array,
    use_running_average: bool | None = None,
    *,
    mask: Any = None,
  ) -> jax.Array:
    """Returns `x`, the result of the layer.

    Raises:
      ValueError: the call is one of training, or has a mask.
    """
    mode = use_running_average
    mode = self.use_running_average if mode is None else mode
    if not mode or mask is not None:
      raise ValueError(
        f"{self.name} was folded into {self.layer}, but is now called in"
        " training or with a mask. Call the folded model as in the example that"
        " it was folded with, after model.eval()."
      )
    return x if self.dtype is None else x.astype(self.dtype)


def _fold(norm: Any, layer: Any, record: FoldedNorm) -> None:
  """Makes a norm a part of a layer, in place."""
  transposed = getattr(layer, "transpose_kernel", False)
  kernel, bias = functional.fold_batch_norm(
    layer.kernel.get_value(),
    value(layer, "bias"),
    value(norm, "scale"),
    value(norm, "bias"),
    functional.BatchStats(norm.mean.get_value(), norm.var.get_value()),
    axis=-2 if transposed else -1,
    epsilon=norm.epsilon,
    scale_offset=getattr(norm, "scale_offset", 0.0),
  )
  layer.kernel.set_value(kernel)
  if record.new_bias:
    layer.use_bias = True
    layer.bias = nnx.Param(bias)
  else:
    layer.bias.set_value(bias)
  # In place, so that it is folded wherever the model refers to it.
  for name in [*vars(norm)]:
    if not name.startswith("_"):
      delattr(norm, name)
  object.__setattr__(norm, "__class__", FoldedBatchNorm)
  FoldedBatchNorm.__init__(
    norm, name_of(record.path), name_of(record.layer), record.dtype
  )


def _hooks(layer: Any) -> list[str]:
  """Returns the names of what the user has put into a layer."""
  usual = {
    "dot_general": jax.lax.dot_general,
    "conv_general_dilated": jax.lax.conv_general_dilated,
    "promote_dtype": promote_dtype,
    "mask": None,
  }
  return [
    name
    for name, value in usual.items()
    if getattr(layer, name, value) is not value
  ]


_KINDS = Kinds(
  (nnx.Linear, nnx.Conv, nnx.ConvTranspose),
  # In evaluation, all of these are batch norm.
  (BatchNorm, BatchRenorm, GhostBatchNorm, nnx.BatchNorm),
  "nnx.Linear, nnx.Conv or nnx.ConvTranspose",
  "normjax.nnx.BatchNorm and flax.nnx.BatchNorm",
  _hooks,
)


class _Calls:
  """Notes and marks the calls of a model's modules while it is traced.

  Attributes:
    model: A copy of the model whose calls are noted.
    calls: The calls of layers and norms.
    others: Paths of the other modules that are called.
  """

  def __init__(self, model: nnx.Module):
    self.model = nnx.clone(model)
    self.calls: list[Call] = []
    self.others: set[Path] = set()
    for path, module in [*modules(self.model)]:
      intercept = functools.partial(self._note, path, type(module))
      intercepted(module, intercept)

  def _note(
    self, path: Path, kind: type, module: Any, call: Any, args: Any, kwargs: Any
  ) -> Any:
    if isinstance(module, _KINDS.layers):
      y = call(*args, **kwargs)
      return mark(y, self._add(path, kind, module, y))
    if not is_batch_norm(module):
      self.others.add(path)
      return call(*args, **kwargs)
    given = arguments(call, args, kwargs)
    name = next(iter(given.arguments))
    x = jnp.asarray(given.arguments[name])
    mode = given.arguments.get("use_running_average")
    number = self._add(
      path,
      kind,
      module,
      x,
      evaluates=bool(module.use_running_average if mode is None else mode),
      masked=given.arguments.get("mask") is not None,
    )
    given.arguments[name] = mark(x, number)
    y = call(*given.args, **given.kwargs)
    self.calls[number] = self.calls[number]._replace(y=jax.typeof(y))
    return y

  def _add(
    self, path: Path, kind: type, module: Any, y: jax.Array, **of_norm: bool
  ) -> int:
    shapes: dict[tuple[str, ...], Any] = {
      (_STATE, name): shapes_of(variable.get_value())
      for name, variable in vars(module).items()
      if isinstance(variable, nnx.Variable)
    }
    y = jax.typeof(y)
    self.calls.append(Call(path, module, kind, y, shapes, **of_norm))
    return len(self.calls) - 1


# The first name of all paths of variables.
_STATE = "state"


def _trace(
  model: nnx.Module, args: Any, kwargs: Any
) -> tuple[Traced, Callable[[Mapping[Path, Any]], list[Path]]]:
  """Returns what a model does in a call, and the `read` of `find_pairs`."""
  noted = _Calls(model)
  program, variables = _program(noted.model, args, kwargs)
  shapes = {
    tuple(jax.tree_util.keystr((key,), simple=True) for key in path): x.shape
    for path, x in jax.tree_util.tree_flatten_with_path(variables)[0]
  }

  def read(results: Mapping[Path, Any]) -> list[Path]:
    silent = nnx.clone(model)
    for path, module in [*modules(silent)]:
      if path in results:
        intercepted(module, functools.partial(_zeros, results[path]))
    program, variables = _program(silent, args, kwargs)
    return read_paths(program, variables)

  return Traced(noted.calls, noted.others, program, shapes), read


def _zeros(y: Any, module: Any, call: Any, args: Any, kwargs: Any) -> jax.Array:
  """Is called instead of a module; returns zeros of the type of its result."""
  del module, call, args, kwargs
  return jnp.zeros(y.shape, y.dtype)


def _program(
  model: nnx.Module, args: Any, kwargs: Any
) -> tuple[ClosedJaxpr, dict[str, Any]]:
  """Returns a call of a model, traced, and its variables, the first inputs."""
  leaves, structure = jax.tree.flatten((args, kwargs))
  graph, state = nnx.split(model)

  def apply(variables: dict[str, Any], arrays: list[Any]) -> Any:
    nnx.replace_by_pure_dict(state, variables[_STATE])
    rest = iter(arrays)
    filled = [next(rest) if is_array(leaf) else leaf for leaf in leaves]
    args, kwargs = jax.tree.unflatten(structure, filled)
    return nnx.merge(graph, state)(*args, **kwargs)

  variables = {_STATE: nnx.to_pure_dict(state)}
  arrays = [leaf for leaf in leaves if is_array(leaf)]
  return jax.make_jaxpr(apply)(variables, arrays), variables
