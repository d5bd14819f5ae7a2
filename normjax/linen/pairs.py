"""What a Linen model does with its layers and batch norms."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.linen.dtypes import promote_dtype
from flax.linen.module import InterceptorContext

from normjax.lifecycle.dataflow import mark
from normjax.lifecycle.pairs import (
  Call,
  Kinds,
  Traced,
  read_paths,
  shapes_of,
)
from normjax.lifecycle.selection import Path
from normjax.linen.batch import BatchNorm
from normjax.linen.calls import Variables, called, intercepted, of_arrays
from normjax.linen.ghost import GhostBatchNorm
from normjax.linen.renorm import BatchRenorm
from normjax.linen.selection import arguments, is_batch_norm

# Fields of layers that may do anything with the kernel.
_HOOKS = (
  "dot_general",
  "dot_general_cls",
  "conv_general_dilated",
  "conv_general_dilated_cls",
)


def _hooks(module: Any) -> list[str]:
  """Returns the names of what the user has put into a layer."""
  hooks = [name for name in _HOOKS if getattr(module, name, None) is not None]
  if getattr(module, "promote_dtype", promote_dtype) is not promote_dtype:
    hooks.append("promote_dtype")
  return hooks


KINDS = Kinds(
  (nn.Dense, nn.Conv, nn.ConvTranspose),
  # In evaluation, all of these are batch norm.
  (BatchNorm, BatchRenorm, GhostBatchNorm, nn.BatchNorm),
  "nn.Dense, nn.Conv or nn.ConvTranspose",
  "normjax.linen.BatchNorm and flax.linen.BatchNorm",
  _hooks,
)


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
    return (c for c in self.calls if not isinstance(c.module, KINDS.layers))

  def intercept(
    self, next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext
  ) -> Any:
    module = context.module
    if isinstance(module, KINDS.layers) and called(context):
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
        type(module),
        jax.typeof(y),
        {path: shapes_of(value) for path, value in variables.items()},
        **of_norm,
      )
    )
    return len(self.calls) - 1


def trace(
  model: nn.Module,
  variables: Variables,
  args: tuple[Any, ...],
  options: Mapping[str, Any],
) -> tuple[Traced, Iterator[Call], Callable[[Mapping[Path, Any]], list[Path]]]:
  """Returns what a model does, its calls of norms, and the `read` of pairs."""
  apply, arrays = of_arrays(model, args, options)
  calls = Calls()
  with intercepted(calls.intercept):
    program = jax.make_jaxpr(apply)(variables, arrays)
  shapes = {
    path: shapes_of(value)
    for path, value in traverse_util.flatten_dict(dict(variables)).items()
  }

  def read(results: Mapping[Path, Any]) -> list[Path]:
    def intercept(
      next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext
    ) -> Any:
      if not called(context) or context.module.path not in results:
        return next_fun(*args, **kwargs)
      y = results[context.module.path]
      return jnp.zeros(y.shape, y.dtype)

    with intercepted(intercept):
      program = jax.make_jaxpr(apply)(variables, arrays)
    return read_paths(program, variables)

  return Traced(calls.calls, calls.others, program, shapes), calls.norms(), read
