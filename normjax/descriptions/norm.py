"""What is said about a norm once, for the modules of every front end."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import jax
from flax.typing import Dtype, Initializer

from normjax.descriptions.parameters import (
  feature_shape,
  gain_init,
  result_dtype,
)
from normjax.functional.arguments import AxisName

Shape = tuple[int, ...]
_Class = TypeVar("_Class")


class Parameter(NamedTuple):
  """A parameter, made by `init(key, shape, dtype)`."""

  init: Initializer
  shape: Shape
  dtype: Dtype


class Statistic(NamedTuple):
  """A running statistic, made by `init(shape, dtype)`.

  Attributes:
    init: Returns an array, or a tree of arrays that all have this shape.
    shape, dtype: What it is called with.
    training_only: Whether evaluation can do without it.
  """

  init: Callable[[Shape, Any], Any]
  shape: Shape
  dtype: Dtype
  training_only: bool = False


@dataclass_transform()
def description(cls: type[_Class]) -> type[_Class]:
  """Makes a class a description; its annotated names become options.

  It becomes a dataclass without comparison and representation, which modules
  have of their own.
  """
  return dataclasses.dataclass(eq=False, repr=False)(cls)


@description
class Norm:
  """Describes a norm: its options, its parameters and its function.

  Every front end makes a module of a description, whose fields are the options
  of the module. Some have a meaning here:

  Attributes:
    dtype: The dtype of the result. None means the dtype that `x` and the
      parameters promote to. Every description needs it.
    feature_axes: The axes that parameters vary along; without it, the last.
    axis_name: Name or names of mapped axes that are averaged over too.
    param_dtype: The dtype of the parameters.
    use_scale, use_bias: Whether there are a `scale` and a `bias`.
    scale_init, bias_init: Their initializers.
    scale_offset: The gain is `scale_offset + scale`.

  The last four are those of `parameters`; a description that has others
  replaces it. One without bias has `use_bias = False`, without annotation.
  """

  # The name of the field that tells which axes are features.
  features = "feature_axes"

  def feature_shape(self, x: jax.Array) -> Shape:
    """Returns the shape of the features of `x`."""
    axes = getattr(self, self.features, -1)
    return feature_shape(x, axes, self.features)

  def parameters(self: Any, features: Shape) -> dict[str, Parameter]:
    """Returns the parameters for features of this shape, by name."""
    found = {}
    if self.use_scale:
      found["scale"] = Parameter(gain_init(self), features, self.param_dtype)
    if self.use_bias:
      found["bias"] = Parameter(self.bias_init, features, self.param_dtype)
    return found

  def result_dtype(
    self: Any, x: jax.Array, parameters: Mapping[str, jax.Array]
  ) -> Any:
    """Returns the dtype of the result."""
    return result_dtype(x, *parameters.values(), dtype=self.dtype)

  def normalize(
    self,
    x: jax.Array,
    parameters: Mapping[str, jax.Array],
    *,
    mask: jax.Array | None,
    axis_name: AxisName | None,
  ) -> jax.Array:
    """Returns `x` normalized.

    Args:
      x: The input, in float32 or wider.
      parameters: Their values, by name.
      mask: Boolean; True counts.
      axis_name: The field of that name, or None where it does not hold.
    """
    raise NotImplementedError


def is_description(cls: Any) -> bool:
  """Whether it is a description, and no module that inherits from one."""
  return (
    isinstance(cls, type)
    and issubclass(cls, Norm)
    and all(issubclass(each, Norm) for each in cls.__mro__[:-1])
  )


@description
class RunningNorm(Norm):
  """Describes a norm that keeps running statistics.

  Attributes:
    use_running_average: False in training, True in evaluation; None if it is
      not decided yet.
  """

  features = "axis"

  def statistics(self, features: Shape, dtype: Dtype) -> dict[str, Statistic]:
    """Returns the running statistics, by name.

    Args:
      features: The shape of the features.
      dtype: The dtype of what is averaged, float32 or wider.
    """
    raise NotImplementedError

  def normalize_running(
    self,
    x: jax.Array,
    parameters: Mapping[str, jax.Array],
    statistics: Mapping[str, Any],
    *,
    use_running_average: bool,
    mask: jax.Array | None,
    axis_name: AxisName | None,
    **arguments: Any,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Returns `x` normalized, and new values of the statistics, by name.

    Args:
      x, parameters, mask, axis_name: As in `Norm.normalize`.
      statistics: Their values, by name.
      use_running_average: Whether this is evaluation, where new values are not
        used.
      **arguments: What the call of the module has more, such as `domain`.
    """
    raise NotImplementedError
