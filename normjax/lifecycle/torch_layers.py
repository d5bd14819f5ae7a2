"""How PyTorch names and lays out the arrays of each layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_NAMES = {
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}

_Function = Callable[[np.ndarray], np.ndarray]


class Layers(NamedTuple):
  """Classes of modules of a front end that have counterparts in PyTorch."""

  dense: tuple[type[Any], ...]
  conv: tuple[type[Any], ...]
  conv_transpose: tuple[type[Any], ...]
  embed: tuple[type[Any], ...]
  batch_norms: tuple[type[Any], ...]
  other_norms: tuple[type[Any], ...]

  @property
  def norms(self) -> tuple[type, ...]:
    """All norms."""
    return (*self.batch_norms, *self.other_norms)


class Counterpart(NamedTuple):
  """What corresponds to a variable in PyTorch.

  Attributes:
    name: PyTorch's name, within the layer.
    from_torch: Returns Flax's array for PyTorch's.
    to_torch: The inverse.
  """

  name: str
  from_torch: _Function
  to_torch: _Function


def counterpart(layers: Layers, module: Any, name: str) -> Counterpart:
  """Returns the counterpart of a module's variable.

  Variables of modules that are not known have the same name and layout there.

  Args:
    layers: The classes of the front end.
    module: The module, or None.
    name: The name of the variable.

  Raises:
    ValueError: a batch norm has more variables than PyTorch's.
  """
  if isinstance(module, layers.dense) and name == "kernel":  # [out, in] there.
    return Counterpart("weight", _swapped, _swapped)
  if isinstance(module, layers.conv) and name == "kernel":
    return Counterpart("weight", _kernel_from_torch, _kernel_to_torch)
  if isinstance(module, layers.conv_transpose) and name == "kernel":
    # PyTorch's is the transpose of a convolution, hence laid out and ordered
    # as that convolution's. Flax means that by `transpose_kernel`; without, it
    # slides a kernel of its own over the input.
    if module.transpose_kernel:
      return Counterpart("weight", _kernel_from_torch, _kernel_to_torch)
    return Counterpart(
      "weight",
      lambda weight: np.swapaxes(_kernel_from_torch(_flipped(weight)), -1, -2),
      lambda kernel: _flipped(_kernel_to_torch(np.swapaxes(kernel, -1, -2))),
    )
  if isinstance(module, layers.embed) and name == "embedding":
    return Counterpart("weight", _same, _same)
  if isinstance(module, layers.norms):
    if name not in _NAMES:
      raise ValueError(
        f"PyTorch's norms have nothing like {name!r} of a"
        f" {type(module).__name__} with debias or microbatches. Convert with a"
        " model without these; the other variables are the same."
      )
    offset = getattr(module, "scale_offset", 0.0) if name == "scale" else 0.0
    if offset:
      return Counterpart(
        _NAMES[name],
        lambda weight: weight - np.float32(offset),
        lambda scale: scale + np.float32(offset),
      )
    return Counterpart(_NAMES[name], _same, _same)
  return Counterpart(name, _same, _same)


def after_feature_map(
  found: Counterpart, shape: tuple[int, ...]
) -> Counterpart:
  """Returns the counterpart for a layer that sees whole feature maps.

  Args:
    found: The counterpart without.
    shape: Shape of the map in PyTorch, channels first.
  """
  last = (*shape[1:], shape[0])
  return Counterpart(
    found.name,
    lambda array: found.from_torch(_moved(array, shape, 0, -1)),
    lambda array: _moved(found.to_torch(array), last, -1, 0),
  )


def _moved(
  array: np.ndarray, shape: tuple[int, ...], source: int, destination: int
) -> np.ndarray:
  """Moves an axis of the features, the last of `array`, flattened or not."""
  flat = array.shape[-len(shape) :] != shape
  others = array.shape[: -1 if flat else -len(shape)]
  features = array.reshape(-1, *shape)
  axes = np.arange(1, features.ndim)
  moved = np.moveaxis(features, axes[source], axes[destination])
  if flat:
    return moved.reshape(array.shape)
  return moved.reshape(*others, *moved.shape[1:])


def _same(array: np.ndarray) -> np.ndarray:
  return array


def _swapped(array: np.ndarray) -> np.ndarray:
  return np.swapaxes(array, -1, -2)


def _kernel_from_torch(weight: np.ndarray) -> np.ndarray:
  """Returns `[..., in, out]` for `[out, in, ...]`."""
  return np.moveaxis(weight, (0, 1), (-1, -2))


def _kernel_to_torch(kernel: np.ndarray) -> np.ndarray:
  return np.moveaxis(kernel, (-1, -2), (0, 1))


def _flipped(weight: np.ndarray) -> np.ndarray:
  """Reverses the order of the places of `[out, in, ...]`."""
  return np.flip(weight, tuple(range(2, weight.ndim)))
