"""Short names of norms, in every front end."""

import difflib
from collections.abc import Callable
from typing import Any

from normjax.descriptions.batch import BatchNorm
from normjax.descriptions.ghost import GhostBatchNorm
from normjax.descriptions.group import GroupNorm, InstanceNorm
from normjax.descriptions.layer import LayerNorm, RMSNorm
from normjax.descriptions.norm import Norm, RunningNorm, is_description
from normjax.descriptions.renorm import BatchRenorm
from normjax.descriptions.whitening import DecorrelatedBatchNorm, IterNorm

_DESCRIPTIONS: dict[str, type[Norm]] = {
  "ln": LayerNorm,
  "rms": RMSNorm,
  "bn": BatchNorm,
  "gn": GroupNorm,
  "in": InstanceNorm,
  "brn": BatchRenorm,
  "gbn": GhostBatchNorm,
  "dbn": DecorrelatedBatchNorm,
  "iternorm": IterNorm,
}


def register_norm(
  name: str, description: type[Norm], *, overwrite: bool = False
) -> None:
  """Gives a description a name, by which every front end makes its module.

  Args:
    name: The name, without commas and blanks, which separate names in flags.
    description: A class made by `normjax.descriptions.description`.
    overwrite: Replaces a norm of that name. Otherwise that is an error.

  Raises:
    TypeError: `description` is no such class.
    ValueError: the name is taken or not valid.
  """
  if not is_description(description):
    raise TypeError(
      "register_norm needs a subclass of normjax.descriptions.Norm, got"
      f" {description!r:.60}. A factory of one front end is registered there,"
      " as by normjax.linen.register_norm."
    )
  check_name(name, _DESCRIPTIONS, overwrite=overwrite)
  _DESCRIPTIONS[name] = description


def check_name(name: str, taken: Any, *, overwrite: bool) -> None:
  """Raises ValueError if a norm cannot get this name."""
  if not name or "," in name or name.split() != [name]:
    raise ValueError(
      f"A norm's name must not be empty or contain a comma or blank, got"
      f" {name!r}: these separate names in flags."
    )
  if name in taken and not overwrite:
    raise ValueError(
      f"The name {name!r} already belongs to a norm. Choose another, or pass"
      " overwrite=True to replace it."
    )


class Registry:
  """The names of one front end.

  Attributes:
    factories: What makes the modules that are of this front end alone, by name.
  """

  def __init__(
    self,
    package: str,
    module_of: Callable[[type[Norm]], type],
    factory_of: Callable[..., Callable[..., Any]],
  ):
    """Creates it.

    Args:
      package: The front end, such as "normjax.linen".
      module_of: Returns the module of a description.
      factory_of: Returns the factory of a module, as `factory_of(name, module,
        decided)`; `decided` are options that the user does not give.
    """
    self._package = package
    self._module_of = module_of
    self._factory_of = factory_of
    self.factories: dict[str, Callable[..., Any]] = {}

  def names(self) -> tuple[str, ...]:
    """Returns all names: "none", those of descriptions, then others."""
    return tuple(dict.fromkeys(["none", *_DESCRIPTIONS, *self.factories]))

  def factory(self, name: str) -> Callable[..., Any]:
    """Returns what makes the module of that name.

    Raises:
      ValueError: there is no norm of that name.
      TypeError: `name` is not a string.
    """
    if not isinstance(name, str):
      raise TypeError(
        f"make_norm needs the name of a norm, such as 'ln', got {name!r}."
      )
    if name in self.factories:
      return self.factories[name]
    if name in _DESCRIPTIONS:
      description = _DESCRIPTIONS[name]
      running = issubclass(description, RunningNorm)
      decided = ("use_running_average",) if running else ()
      return self._factory_of(name, self._module_of(description), decided)
    names = self.names()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
      f"There is no norm {name!r}; the norms are {', '.join(names)}."
      f"{hint} Add one with {self._package}.register_norm."
    )

  def register(
    self, name: str, factory: Callable[..., Any], *, overwrite: bool
  ) -> None:
    """Gives a factory of this front end a name."""
    check_name(name, self.names(), overwrite=overwrite)
    self.factories[name] = factory
