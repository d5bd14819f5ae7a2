"""One table of norms that feeds every test that is true of all of them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import normjax
from tests import reference


@dataclasses.dataclass(frozen=True)
class Case:
  """A norm, its options and a shape to try it on.

  Attributes:
    name: Names the test.
    function: The library's, called as `(x, scale, bias, **options)`.
    reference: The same in float64 NumPy.
    shape: Of `x`.
    parameter_shape: Of `scale` and `bias`; None where there are none.
    axes: Axes of `x` that a group extends over.
    options: Passed to both.
    num_groups: Groups that the channels, at `channel_axis`, are split into.
    has_bias: Whether there is a bias.
    centered: Whether the mean is subtracted.
  """

  name: str
  function: Callable[..., Any]
  reference: Callable[..., reference.Result]
  shape: tuple[int, ...]
  parameter_shape: tuple[int, ...] | None
  axes: tuple[int, ...]
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  num_groups: int | None = None
  channel_axis: int = -1
  has_bias: bool = True
  centered: bool = True

  def apply(self, x, scale=None, bias=None, **options):
    """Returns the library's output."""
    return self.function(x, *self._given(scale, bias), **self.options | options)

  def expect(self, x, scale=None, bias=None, **options):
    """Returns the reference's `Result`."""
    return self.reference(
      x, *self._given(scale, bias), **self.options | options
    )

  def _given(self, scale, bias):
    if self.parameter_shape is None:
      return ()
    return (scale, bias) if self.has_bias else (scale,)

  def parameters(self, seed=0, dtype=np.float32):
    """Returns a scale and a bias, None where the norm has none."""
    if self.parameter_shape is None:
      return None, None
    random = np.random.default_rng(seed + 100)
    scale = random.standard_normal(self.parameter_shape).astype(dtype)
    bias = random.standard_normal(self.parameter_shape).astype(dtype)
    return scale, bias if self.has_bias else None

  def input(self, mean=0.0, std=1.0, seed=0, dtype=np.float32):
    """Returns normally distributed `x`."""
    random = np.random.default_rng(seed)
    return (mean + std * random.standard_normal(self.shape)).astype(dtype)

  def groups(self):
    """Returns the number of its group for each element of `x`."""
    axes = {axis % len(self.shape) for axis in self.axes}
    number = np.zeros(self.shape, int)
    for axis, index in enumerate(np.indices(self.shape)):
      if axis == self.channel_axis % len(self.shape) and self.num_groups:
        size = self.shape[axis] // self.num_groups
        number = number * self.num_groups + index // size
      elif axis not in axes:
        number = number * self.shape[axis] + index
    return number


def _train(x, *args, **options):
  return normjax.batch_norm(x, *args, use_running_average=False, **options)[0]


def _ghost(x, *args, **options):
  return normjax.ghost_batch_norm(
    x, *args, use_running_average=False, **options
  )[0]


def _standardize(x, *, axes, **options):
  y, derivative = reference.standardize(x, axes, **options)
  return reference.affine(y, derivative, None, None, -1)


_layer = functools.partial(Case, function=normjax.layer_norm,
                           reference=reference.layer_norm)  # fmt: skip
_rms = functools.partial(
  Case, function=normjax.rms_norm, reference=reference.rms_norm,
  has_bias=False, centered=False,
)  # fmt: skip
_batch = functools.partial(
  Case, function=_train, reference=reference.batch_norm
)
_group = functools.partial(Case, function=normjax.group_norm,
                           reference=reference.group_norm)  # fmt: skip
_instance = functools.partial(Case, function=normjax.instance_norm,
                              reference=reference.instance_norm)  # fmt: skip

LAYER = _layer(name="layer", shape=(6, 24), parameter_shape=(24,), axes=(1,))
RMS = _rms(name="rms", shape=(6, 24), parameter_shape=(24,), axes=(1,))
BATCH = _batch(name="batch", shape=(24, 6), parameter_shape=(6,), axes=(0,))
GROUP = _group(
  name="group", shape=(3, 2, 4, 6), parameter_shape=(6,), axes=(1, 2, 3),
  options={"num_groups": 2}, num_groups=2,
)  # fmt: skip
INSTANCE = _instance(
  name="instance", shape=(3, 4, 5, 2), parameter_shape=(2,), axes=(1, 2)
)
ANNOTATED_TRANSFORMER = _layer(
  name="layer_annotated_transformer", shape=(6, 24), parameter_shape=(24,),
  axes=(1,), options={"ddof": 1, "epsilon_outside_sqrt": True},
)  # fmt: skip

# One of each kind, for tests that compile a lot.
KINDS = (LAYER, RMS, BATCH, GROUP, INSTANCE)

CASES = (
  *KINDS,
  ANNOTATED_TRANSFORMER,
  _layer(
    name="layer_image_per_channel", shape=(3, 2, 4, 5), parameter_shape=(5,),
    axes=(1, 2, 3), options={"reduction_axes": (1, 2, 3)},
  ),
  _layer(
    name="layer_image_per_element", shape=(3, 2, 4, 5),
    parameter_shape=(2, 4, 5), axes=(1, 2, 3),
    options={"reduction_axes": (1, 2, 3), "feature_axes": (3, 1, 2)},
  ),
  _layer(
    name="layer_channels_first", shape=(3, 24, 2), parameter_shape=(24,),
    axes=(1,), options={"reduction_axes": 1, "feature_axes": 1},
  ),
  _rms(
    name="rms_offset", shape=(6, 4, 6), parameter_shape=(4, 6), axes=(1, 2),
    options={
      "reduction_axes": (-1, -2), "feature_axes": (1, 2), "scale_offset": 1.0,
    },
  ),
  _batch(
    name="batch_images", shape=(3, 4, 5, 2), parameter_shape=(2,),
    axes=(0, 1, 2),
  ),
  _batch(
    name="batch_channels_first", shape=(3, 2, 4, 5), parameter_shape=(2,),
    axes=(0, 2, 3), options={"axis": 1},
  ),
  _batch(
    name="batch_two_feature_axes", shape=(12, 3, 2, 2), parameter_shape=(3, 2),
    axes=(0, 2), options={"axis": (-1, 1)},
  ),
  _group(
    name="group_channels_first", shape=(3, 6, 8), parameter_shape=(6,),
    axes=(1, 2), channel_axis=1, num_groups=3,
    options={"num_groups": None, "group_size": 2, "channel_axis": 1},
  ),
  _group(
    name="group_channels_only", shape=(3, 2, 24), parameter_shape=(24,),
    axes=(2,), num_groups=2,
    options={"num_groups": 2, "reduction_axes": (-1,)},
  ),
  _instance(
    name="instance_channels_first", shape=(3, 2, 4, 5), parameter_shape=(2,),
    axes=(2, 3), options={"channel_axis": 1},
  ),
  Case(
    name="batch_ghosts", function=_ghost, reference=reference.ghost_batch_norm,
    shape=(8, 3, 4), parameter_shape=(4,), axes=(1,), channel_axis=0,
    num_groups=2, options={"ghost_size": 4},
  ),
  Case(
    name="standardize", function=normjax.standardize, reference=_standardize,
    shape=(4, 3, 6), parameter_shape=None, axes=(0, 2),
    options={"axes": (2, 0)},
  ),
)  # fmt: skip


def named(cases, *more):
  """Returns arguments for `parameterized.named_parameters`."""
  if not more:
    return [(case.name, case) for case in cases]
  return [
    (f"{case.name}_{value}", case, value) for case in cases for value in more
  ]


def differentiable(case, scale, bias, **options):
  """Returns the arguments that are not None, and a function of them."""
  present = [p is not None for p in (scale, bias)]

  def function(x, *parameters):
    rest = iter(parameters)
    given = [next(rest) if there else None for there in present]
    return case.apply(x, *given, **options)

  return [p for p in (scale, bias) if p is not None], jax.jit(function)
