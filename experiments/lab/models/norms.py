"""Norms for the models of the lab."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
from flax.linen.module import InterceptorContext

from normjax.linen import make_norm

# Small models have too few channels for the usual 32 groups. Short runs have
# too few steps for the usual momentum of 0.99: after 300 steps, a twentieth of
# the running statistics would still be the initial ones. Whitening needs groups
# several times smaller than the number of examples.
NORM_OPTIONS: Mapping[str, Mapping[str, Any]] = {
  "gn": {"num_groups": 8},
  "bn": {"momentum": 0.9},
  "brn": {"momentum": 0.9},
  "gbn": {"momentum": 0.9},
  "dbn": {"momentum": 0.9, "num_groups": 8},
  "iternorm": {"momentum": 0.9, "num_groups": 8},
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
  groups = NORM_OPTIONS["gn"]["num_groups"]  # The same for all that have it.
  return f"{found}; make {widths} a multiple of {groups}."


def check_statistics(
  next_fun: Callable[..., Any],
  args: Any,
  kwargs: Any,
  context: InterceptorContext,
) -> Any:
  """Raises if a norm's statistics cannot be re-estimated; an interceptor.

  Raises:
    TypeError: A module keeps a running mean, but its mode has another name than
      in `normjax.linen.BatchNorm`.
  """
  module = context.module
  if (
    context.method_name == "__call__"
    and module.has_variable("batch_stats", "mean")
    and not hasattr(module, "use_running_average")
  ):
    raise TypeError(
      f"{type(module).__name__} keeps batch_stats that cannot be re-estimated:"
      " it has no field use_running_average, which is False in training."
    )
  return next_fun(*args, **kwargs)


def without_dropout(model: Any) -> Any:
  """Returns the model without dropout in either mode."""
  return model.clone(dropout=0.0)
