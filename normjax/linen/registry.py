"""Short names of norms, for example for a flag `--norm`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype
from jax.typing import ArrayLike

from normjax.descriptions.registry import Registry
from normjax.functional.keywords import check_keywords
from normjax.linen.shell import module_of

# A factory is called as factory(train=..., **options). It returns a module that
# is called as module(x, mask=None).
NormFactory = Callable[..., nn.Module]


class Identity(nn.Module):
  """Returns its input: the norm called "none".

  Attributes:
    dtype: The dtype of the result; None means that of `x`.
  """

  dtype: Dtype | None = None

  def __call__(
    self, x: ArrayLike, *, mask: ArrayLike | None = None
  ) -> jax.Array:
    """Returns `x` in `dtype`; `mask` changes nothing."""
    del mask
    return jnp.asarray(x, self.dtype)


def make_norm(name: str, *, train: bool, **options: Any) -> nn.Module:
  """Returns the norm of that name, a module called as `module(x, mask=None)`.

  Args:
    name: One of `norm_names()`.
    train: Whether the model is training. "bn", "brn", "gbn", "dbn" and
      "iternorm" then use the statistics of the batch, else their running
      statistics.
    **options: Fields of the module, such as `num_groups=8` for "gn".

  Raises:
    ValueError: there is no norm of that name.
    TypeError: `name` is not a string, or the norm has no option of that name.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import make_norm
    >>> norm = make_norm("gn", train=True, num_groups=2)
    >>> y, _ = norm.init_with_output(jax.random.key(0), jnp.arange(4.0)[None])
    >>> print(y)
    [[-1.  1. -1.  1.]]
  """
  module: nn.Module = _REGISTRY.factory(name)(train=train, **options)
  return module


def norm_names() -> tuple[str, ...]:
  """Returns the names that `make_norm` accepts.

  Example:
    >>> from normjax.linen import norm_names
    >>> norm_names()[:6]
    ('none', 'ln', 'rms', 'bn', 'gn', 'in')
  """
  return _REGISTRY.names()


def register_norm(
  name: str, factory: NormFactory, *, overwrite: bool = False
) -> None:
  """Registers a Linen module, so that `make_norm` makes it by its name.

  `normjax.descriptions.register_norm` registers a norm in all front ends.

  Args:
    name: The name, without commas and blanks, which separate names in flags.
    factory: Called as `factory(train=..., **options)`. It returns a module that
      is called as `module(x, mask=None)`.
    overwrite: Replaces a norm of that name. Otherwise that is an error.

  Raises:
    ValueError: the name is taken or not valid.
  """
  _REGISTRY.register(name, factory, overwrite=overwrite)


def _factory(
  name: str, module: type[nn.Module], decided: tuple[str, ...] = ()
) -> NormFactory:
  """Returns the factory of a class, whose fields are the options.

  Args:
    name: The short name.
    module: The class.
    decided: Fields that the factory decides, by `train`.
  """
  fields = {field.name for field in dataclasses.fields(module)}
  accepted = sorted(fields - {"parent", *decided})

  def factory(*, train: bool, **options: Any) -> nn.Module:
    check_keywords(f"The norm {name!r}", options, accepted)
    return module(**dict.fromkeys(decided, not train), **options)

  return factory


_REGISTRY = Registry("normjax.linen", module_of, _factory)
_REGISTRY.factories["none"] = _factory("none", Identity)
