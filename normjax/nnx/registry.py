"""Short names of norms, for example for a flag `--norm`."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax.typing import ArrayLike

from normjax.descriptions.registry import Registry
from normjax.functional.keywords import check_keywords
from normjax.nnx.shell import module_of

# A factory is called as factory(num_features, rngs=..., **options). It returns
# a module that is called as module(x, mask=None).
NormFactory = Callable[..., nnx.Module]


class Identity(nnx.Module):
  """Returns its input: the norm called "none".

  Args:
    num_features: Accepted as by all norms, without effect.
    dtype: The dtype of the result; None means that of `x`.
    rngs: Accepted as by all norms, without effect.
  """

  def __init__(
    self,
    num_features: Any = None,
    *,
    dtype: Dtype | None = None,
    rngs: nnx.Rngs | None = None,
  ):
    del num_features, rngs
    self.dtype = dtype

  def __call__(
    self, x: ArrayLike, *, mask: ArrayLike | None = None
  ) -> jax.Array:
    """Returns `x` in `dtype`; `mask` changes nothing."""
    del mask
    return jnp.asarray(x, self.dtype)


def make_norm(
  name: str, num_features: int, *, rngs: nnx.Rngs, **options: Any
) -> nnx.Module:
  """Returns the norm of that name, a module called as `module(x, mask=None)`.

  Norms that use running statistics in evaluation start in training;
  `model.eval()` and `model.train()` change the mode.

  Args:
    name: One of `norm_names()`.
    num_features: Number of features of `x`.
    rngs: As in all modules of NNX.
    **options: Arguments of the module, such as `num_groups=8` for "gn".

  Raises:
    ValueError: there is no norm of that name.
    TypeError: `name` is not a string, or the norm has no option of that name.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from normjax.nnx import make_norm
    >>> norm = make_norm("gn", 4, num_groups=2, rngs=nnx.Rngs(0))
    >>> print(norm(jnp.arange(4.0)[None]))
    [[-1.  1. -1.  1.]]
  """
  make = _REGISTRY.factory(name)
  module: nnx.Module = make(num_features, rngs=rngs, **options)
  return module


def norm_names() -> tuple[str, ...]:
  """Returns the names that `make_norm` accepts.

  Example:
    >>> from normjax.nnx import norm_names
    >>> norm_names()[:6]
    ('none', 'ln', 'rms', 'bn', 'gn', 'in')
  """
  return _REGISTRY.names()


def register_norm(
  name: str, factory: NormFactory, *, overwrite: bool = False
) -> None:
  """Registers an NNX module, so that `make_norm` makes it by its name.

  `normjax.descriptions.register_norm` registers a norm in all front ends.

  Args:
    name: The name, without commas and blanks, which separate names in flags.
    factory: Called as `factory(num_features, rngs=..., **options)`. It returns
      a module that is called as `module(x, mask=None)`.
    overwrite: Replaces a norm of that name. Otherwise that is an error.

  Raises:
    ValueError: the name is taken or not valid.
  """
  _REGISTRY.register(name, factory, overwrite=overwrite)


def _factory(
  name: str, module: Any, decided: tuple[str, ...] = ()
) -> NormFactory:
  """Returns the factory of a class, whose arguments are the options.

  Args:
    name: The short name.
    module: The class.
    decided: Arguments that are no options of the factory.
  """
  arguments = inspect.signature(module.__init__).parameters
  accepted = sorted(
    arguments.keys() - {"self", "num_features", "rngs", *decided}
  )

  def factory(num_features: int, **options: Any) -> nnx.Module:
    rngs = options.pop("rngs")
    check_keywords(f"The norm {name!r}", options, accepted)
    made: nnx.Module = module(num_features, rngs=rngs, **options)
    return made

  return factory


_REGISTRY = Registry("normjax.nnx", module_of, _factory)
_REGISTRY.factories["none"] = _factory("none", Identity)
