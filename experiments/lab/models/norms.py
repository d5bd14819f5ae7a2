"""Norms for the models of the lab."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from normjax.linen import make_norm

# Small models have too few channels for the usual 32 groups. Short runs have
# too few steps for the usual momentum of 0.99: after 300 steps, a twentieth of
# the running statistics would still be the initial ones.
NORM_OPTIONS: Mapping[str, Mapping[str, Any]] = {
  "gn": {"num_groups": 8},
  "bn": {"momentum": 0.9},
}


def norm_factory(norm: str, **options: Any) -> Callable[..., nn.Module]:
  """Returns a norm factory for a model's `norm` field.

  Args:
    norm: Short name of the norm.
    **options: Options of the norm, which replace those of `NORM_OPTIONS`.

  >>> norm_factory("bn")(train=True).momentum
  0.9
  """
  return functools.partial(
    make_norm, norm, **{**NORM_OPTIONS.get(norm, {}), **options}
  )


def error_text(error: Exception, widths: str) -> str:
  """Returns the message of a norm's error, with advice that fits the lab.

  Args:
    error: What the norm raised.
    widths: What sets the number of channels, such as "--hidden".
  """
  found, advises_groups, _ = str(error).partition(". Use one of")
  if not advises_groups:
    return str(error)
  groups = NORM_OPTIONS["gn"]["num_groups"]
  return f"{found}; make {widths} a multiple of {groups}."


def without_memory(model: Any) -> Any:
  """Returns the model with momentum 0: each batch replaces the statistics.

  Dropout is off too, so that the statistics are those of evaluation.

  Args:
    model: Has the fields `norm`, called as `norm(train=...)`, and `dropout`.

  Raises:
    TypeError: The norm has no momentum.
  """
  forgetful = functools.partial(model.norm, momentum=0.0)
  return without_dropout(model.clone(norm=forgetful))


def without_dropout(model: Any) -> Any:
  """Returns the model without dropout in either mode."""
  return model.clone(dropout=0.0)
