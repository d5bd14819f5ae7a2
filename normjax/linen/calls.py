"""How tools call a model, and see what it does."""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.linen.module import InterceptorContext

from normjax.lifecycle.dataflow import is_array

PyTree = Any
Variables = Mapping[str, PyTree]

# What a model is called for. It is a part of the keys of JAX's caches.
_purpose = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def intercepted(
  interceptor: Callable[..., Any], purpose: Hashable = None
) -> Iterator[None]:
  """Lets `interceptor` see the calls of all modules.

  Blocks that `nn.jit` has compiled are traced anew, so that it sees them too.
  But Flax still traces blocks that look the same only once.

  Args:
    interceptor: As in `flax.linen.intercept_methods`.
    purpose: Calls of equal purpose are intercepted alike; None means that no
      others are.
  """
  purpose = object() if purpose is None else purpose
  with _purpose(purpose), nn.intercept_methods(interceptor):
    yield


def called(context: InterceptorContext) -> bool:
  """Whether a module of a running model is called."""
  return context.method_name == "__call__" and context.module.scope is not None


def of_arrays(
  model: nn.Module, args: Sequence[Any], options: Mapping[str, Any]
) -> tuple[Callable[[Variables, list[Any]], Any], list[Any]]:
  """Returns `model.apply` as a function of variables and arrays, and these.

  Args:
    model: A Linen module.
    args, options: Arguments of `model.apply` after the variables. Their arrays,
      also in trees and as `jax.ShapeDtypeStruct`, can be traced. All else, such
      as `train=False` and `method`, is constant.
  """
  leaves, structure = jax.tree.flatten((tuple(args), dict(options)))
  arrays = [leaf for leaf in leaves if is_array(leaf)]

  def apply(variables: Variables, arrays: list[Any]) -> Any:
    rest = iter(arrays)
    filled = [next(rest) if is_array(leaf) else leaf for leaf in leaves]
    args, options = jax.tree.unflatten(structure, filled)
    return model.apply(variables, *args, **options)

  return apply, arrays


def constants(args: Sequence[Any], options: Mapping[str, Any]) -> int | None:
  """Returns a hash of all that is constant in arguments, as in `of_arrays`.

  It is None if something constant has no hash.
  """
  leaves, structure = jax.tree.flatten((tuple(args), dict(options)))
  try:
    return hash((structure, *(x for x in leaves if not is_array(x))))
  except TypeError:
    return None
