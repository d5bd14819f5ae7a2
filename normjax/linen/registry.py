"""Short names of norms, for example for a flag `--norm`."""

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype
from jax.typing import ArrayLike

from normjax.functional.keywords import check_keywords
from normjax.linen.batch import BatchNorm
from normjax.linen.ghost import GhostBatchNorm
from normjax.linen.group import GroupNorm, InstanceNorm
from normjax.linen.layer import LayerNorm, RMSNorm
from normjax.linen.renorm import BatchRenorm
from normjax.linen.whitening import DecorrelatedBatchNorm, IterNorm

# A factory is called as factory(train=..., **options). It returns a module that
# is called as module(x, mask=None).
NormFactory = Callable[..., nn.Module]

_FACTORIES: dict[str, NormFactory] = {}


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
  if not isinstance(name, str):
    raise TypeError(
      f"make_norm needs the name of a norm, such as 'ln', got {name!r}."
    )
  if name not in _FACTORIES:
    close = difflib.get_close_matches(name, _FACTORIES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
      f"There is no norm {name!r}; the norms are {', '.join(_FACTORIES)}."
      f"{hint} Add one with normjax.linen.register_norm."
    )
  return _FACTORIES[name](train=train, **options)


def norm_names() -> tuple[str, ...]:
  """Returns the names that `make_norm` accepts, in order of registration.

  Example:
    >>> from normjax.linen import norm_names
    >>> norm_names()[:6]
    ('none', 'ln', 'rms', 'bn', 'gn', 'in')
  """
  return tuple(_FACTORIES)


def register_norm(
  name: str, factory: NormFactory, *, overwrite: bool = False
) -> None:
  """Registers a norm, so that `make_norm` makes it by its name.

  Args:
    name: The name, without commas and blanks, which separate names in flags.
    factory: Called as `factory(train=..., **options)`. It returns a module that
      is called as `module(x, mask=None)`.
    overwrite: Replaces a norm of that name. Otherwise that is an error.

  Raises:
    ValueError: the name is taken or not valid.
  """
  if not name or "," in name or name.split() != [name]:
    raise ValueError(
      f"A norm's name must not be empty or contain a comma or blank, got"
      f" {name!r}: these separate names in flags."
    )
  if name in _FACTORIES and not overwrite:
    raise ValueError(
      f"The name {name!r} already belongs to a norm. Choose another, or pass"
      " overwrite=True to replace it."
    )
  _FACTORIES[name] = factory


def _register_class(
  name: str,
  module: type[nn.Module],
  by_train: Callable[[bool], dict[str, Any]] = lambda train: {},
) -> None:
  """Registers a class. Its fields are the options.

  Args:
    name: The short name.
    module: The class.
    by_train: Returns the fields that are determined by `train`.
  """
  fields = {field.name for field in dataclasses.fields(module)} - {"parent"}

  def factory(*, train: bool, **options: Any) -> nn.Module:
    decided = by_train(train)
    check_keywords(
      f"The norm {name!r}", options, sorted(fields - decided.keys())
    )
    return module(**decided, **options)

  register_norm(name, factory)


def _mode(train: bool) -> dict[str, bool]:
  """Returns the mode of a norm that has running statistics."""
  return {"use_running_average": not train}


_register_class("none", Identity)
_register_class("ln", LayerNorm)
_register_class("rms", RMSNorm)
_register_class("bn", BatchNorm, _mode)
_register_class("gn", GroupNorm)
_register_class("in", InstanceNorm)
_register_class("brn", BatchRenorm, _mode)
_register_class("gbn", GhostBatchNorm, _mode)
_register_class("dbn", DecorrelatedBatchNorm, _mode)
_register_class("iternorm", IterNorm, _mode)
