"""One table of layers that PyTorch and Linen both have.

The formulas are in float64 NumPy and share no code with the library.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from normjax.linen import (
  BatchNorm,
  GroupNorm,
  InstanceNorm,
  LayerNorm,
  RMSNorm,
  options_from_torch,
)
from tests import reference
from tests.reference import wide


def channels_last(x):
  return np.moveaxis(x, 1, -1)


def channels_first(y):
  return np.moveaxis(y, -1, 1)


def unchanged(x):
  return x


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A layer in both libraries.

  Attributes:
    name: Ends the name of the test.
    layer: Name of the class in `torch.nn`.
    args, options: Of its constructor.
    shapes: Of its parameters and statistics, by name.
    input: Shape of the input in PyTorch.
    module: The same in Linen.
    formula: Called as `formula(x, **state)`, in the layout of PyTorch.
    there, back: Bring inputs to the layout of Linen, and outputs back.
    conversion: Options of `variables_from_torch`.
  """

  name: str
  layer: str
  args: tuple[Any, ...]
  options: dict[str, Any]
  shapes: dict[str, tuple[int, ...]]
  input: tuple[int, ...]
  module: nn.Module
  formula: Callable[..., Any]
  there: Callable[[Any], Any] = channels_last
  back: Callable[[Any], Any] = channels_first
  conversion: dict[str, Any] = dataclasses.field(default_factory=dict)

  def x(self):
    numbers = np.random.default_rng(0)
    if self.layer == "Embedding":
      return numbers.integers(0, self.args[0], self.input)
    return numbers.normal(1, 2, self.input).astype(np.float32)

  def state(self):
    """Returns parameters and statistics that all differ from each other."""
    numbers = np.random.default_rng(1)
    return {
      name: numbers.uniform(0.5, 2, shape).astype(np.float32)
      for name, shape in self.shapes.items()
    }

  def state_dict(self):
    """Returns the state with the counter that PyTorch adds."""
    tracked = "running_var" in self.shapes
    counter = {"num_batches_tracked": np.array(0)} if tracked else {}
    return {**self.state(), **counter}


def batch_norm(
  x, weight=None, bias=None, running_mean=None, running_var=None, eps=1e-5
):
  stats = None if running_mean is None else (running_mean, running_var)
  return reference.batch_norm(
    x, weight, bias, axis=1, epsilon=eps, stats=stats
  ).y


def group_norm(x, weight=None, bias=None, *, groups, eps=1e-5):
  return reference.group_norm(
    x, weight, bias, num_groups=groups, channel_axis=1, epsilon=eps
  ).y


def instance_norm(x, weight=None, bias=None, eps=1e-5):
  return reference.instance_norm(x, weight, bias, channel_axis=1, epsilon=eps).y


def layer_norm(x, weight=None, bias=None, *, axes=(-1,), eps=1e-5):
  return reference.layer_norm(
    x, weight, bias, reduction_axes=axes, feature_axes=axes, epsilon=eps
  ).y


def rms_norm(x, weight=None, *, axes=(-1,), eps=2.0**-23):
  return reference.rms_norm(
    x, weight, reduction_axes=axes, feature_axes=axes, epsilon=eps
  ).y


def linear(x, weight, bias=0.0):
  return wide(x) @ wide(weight).T + wide(bias)


def _places(window, size, stride, dilation):
  """Returns for each place of a window where an array of `size` meets it."""
  for place in itertools.product(*map(range, window)):
    yield (
      place,
      tuple(
        slice(start, start + stride * (number - 1) + 1, stride)
        for start, number in zip(
          (dilation * p for p in place), size, strict=True
        )
      ),
    )


def conv(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
  """Correlates `x` with `weight`, place by place."""
  window = weight.shape[2:]
  pads = [(0, 0), (0, 0), *[(padding, padding)] * len(window)]
  x = np.pad(wide(x), pads)
  size = [
    (n - dilation * (k - 1) - 1) // stride + 1
    for n, k in zip(x.shape[2:], window, strict=True)
  ]
  parts = []
  for part, w in zip(
    np.split(x, groups, 1), np.split(wide(weight), groups), strict=True
  ):
    y = np.zeros((len(x), len(w), *size))
    for place, where in _places(window, size, stride, dilation):
      seen = part[(slice(None), slice(None), *where)]
      y += np.einsum("ni...,oi->no...", seen, w[(..., *place)])
    parts.append(y)
  y = np.concatenate(parts, 1)
  return y if bias is None else y + bias.reshape(-1, *[1] * len(window))


def conv_transpose(
  x, weight, bias, *, stride=1, padding=0, output_padding=0, dilation=1
):
  """Adds what every element of `x` contributes, place by place."""
  x, window = wide(x), weight.shape[2:]
  size = [
    (n - 1) * stride + dilation * (k - 1) + 1
    for n, k in zip(x.shape[2:], window, strict=True)
  ]
  y = np.zeros((len(x), weight.shape[1], *size))
  for place, where in _places(window, x.shape[2:], stride, dilation):
    y[(slice(None), slice(None), *where)] += np.einsum(
      "ni...,io->no...", x, wide(weight)[(..., *place)]
    )
  y = np.pad(y, [(0, 0), (0, 0), *[(0, output_padding)] * len(window)])
  inside = slice(padding, -padding or None)
  y = y[(slice(None), slice(None), *[inside] * len(window))]
  return y + bias.reshape(-1, *[1] * len(window))


def norm(name, module, layer, args, options, shapes, input, formula, **rest):
  """Returns the case of a norm, whose options are those of PyTorch."""
  converted = options_from_torch(layer, *args, **options)
  if module is BatchNorm:
    converted.setdefault("use_running_average", True)
  formula = functools.partial(
    formula, **{k: v for k, v in options.items() if k == "eps"}
  )
  return Case(
    name, layer, args, options, shapes, input, module(**converted), formula,
    **rest,
  )  # fmt: skip


def vectors(size, *names):
  return dict.fromkeys(names, (size,))


AFFINE = ("weight", "bias")
STATS = ("running_mean", "running_var")
SAME = {"there": unchanged, "back": unchanged}


def flattened(x):
  """Brings the features of a map `[2, 3, 4]` into the order of Linen."""
  return channels_last(x.reshape(-1, 2, 3, 4)).reshape(len(x), -1)


def unflattened(y):
  return channels_first(y.reshape(-1, 3, 4, 2)).reshape(len(y), -1)


MAP = {"feature_maps": {"": (2, 3, 4)}}
BATCH_SHAPES = vectors(6, *AFFINE, *STATS)

# The square feature maps find axes that are exchanged only by their values.
NORMS = (
  norm("batch_vectors", BatchNorm, "BatchNorm1d", (6,), {}, BATCH_SHAPES,
       (5, 6), batch_norm),
  norm("batch_1d", BatchNorm, "BatchNorm1d", (6,), {"eps": 0.1}, BATCH_SHAPES,
       (5, 6, 7), batch_norm),
  norm("batch_2d", BatchNorm, "BatchNorm2d", (6,), {}, BATCH_SHAPES,
       (2, 6, 6, 6), batch_norm),
  norm("batch_3d", BatchNorm, "BatchNorm3d", (6,), {}, BATCH_SHAPES,
       (2, 6, 3, 3, 4), batch_norm),
  norm("batch_sync", BatchNorm, "SyncBatchNorm", (6,), {}, BATCH_SHAPES,
       (2, 6, 4), batch_norm),
  norm("batch_plain", BatchNorm, "BatchNorm2d", (6,), {"affine": False},
       vectors(6, *STATS), (2, 6, 3, 4), batch_norm),
  norm("batch_gain", BatchNorm, "BatchNorm2d", (6,), {"bias": False},
       vectors(6, "weight", *STATS), (2, 6, 3, 4), batch_norm),
  norm("batch_untracked", BatchNorm, "BatchNorm2d", (6,),
       {"track_running_stats": False}, vectors(6, *AFFINE), (2, 6, 3, 4),
       batch_norm, conversion={"untracked": [""]}),
  norm("batch_nothing", BatchNorm, "BatchNorm2d", (6,),
       {"track_running_stats": False, "affine": False}, {}, (2, 6, 3, 4),
       batch_norm, conversion={"untracked": [""]}),
  norm("batch_of_map", BatchNorm, "BatchNorm1d", (24,), {},
       vectors(24, *AFFINE, *STATS), (5, 24), batch_norm, there=flattened,
       back=unflattened, conversion=MAP),
  Case("batch_offset", "BatchNorm2d", (6,), {}, BATCH_SHAPES, (2, 6, 3, 4),
       BatchNorm(use_running_average=True, scale_offset=1.0), batch_norm),
  norm("group", GroupNorm, "GroupNorm", (2, 6), {"eps": 0.1},
       vectors(6, *AFFINE), (3, 6, 6, 6),
       functools.partial(group_norm, groups=2)),
  norm("group_plain", GroupNorm, "GroupNorm", (3, 6), {"affine": False}, {},
       (3, 6, 4), functools.partial(group_norm, groups=3)),
  norm("instance_1d", InstanceNorm, "InstanceNorm1d", (6,), {"affine": True},
       vectors(6, *AFFINE), (3, 6, 4), instance_norm),
  norm("instance_2d", InstanceNorm, "InstanceNorm2d", (6,), {"eps": 0.1}, {},
       (3, 6, 6, 6), instance_norm),
  norm("instance_3d", InstanceNorm, "InstanceNorm3d", (6,),
       {"affine": True, "bias": False}, vectors(6, "weight"), (3, 6, 2, 3, 4),
       instance_norm),
  Case("instance_tracked", "InstanceNorm2d", (6,),
       {"affine": True, "track_running_stats": True}, BATCH_SHAPES,
       (3, 6, 4, 4), BatchNorm(use_running_average=True), batch_norm),
  norm("layer", LayerNorm, "LayerNorm", (6,), {}, vectors(6, *AFFINE),
       (3, 4, 6), layer_norm, **SAME),
  norm("layer_two_axes", LayerNorm, "LayerNorm", ((6, 6),), {"eps": 0.1},
       {"weight": (6, 6), "bias": (6, 6)}, (3, 6, 6),
       functools.partial(layer_norm, axes=(-2, -1)), **SAME),
  norm("layer_map", LayerNorm, "LayerNorm", ([4, 4, 4],), {},
       {"weight": (4, 4, 4), "bias": (4, 4, 4)}, (3, 4, 4, 4),
       functools.partial(layer_norm, axes=(-3, -2, -1)),
       conversion={"feature_maps": {"": (4, 4, 4)}}),
  norm("layer_plain", LayerNorm, "LayerNorm", (6,),
       {"elementwise_affine": False}, {}, (3, 6), layer_norm, **SAME),
  norm("layer_gain", LayerNorm, "LayerNorm", (6,), {"bias": False},
       vectors(6, "weight"), (3, 6), layer_norm, **SAME),
  norm("rms", RMSNorm, "RMSNorm", (6,), {}, vectors(6, "weight"), (3, 4, 6),
       rms_norm, **SAME),
  norm("rms_two_axes", RMSNorm, "RMSNorm", ((4, 6),), {"eps": 0.1},
       {"weight": (4, 6)}, (3, 4, 6),
       functools.partial(rms_norm, axes=(-2, -1)), **SAME),
  norm("rms_plain", RMSNorm, "RMSNorm", (6,), {"elementwise_affine": False},
       {}, (3, 6), rms_norm, **SAME),
  Case("rms_offset", "RMSNorm", (6,), {}, vectors(6, "weight"), (3, 6),
       RMSNorm(epsilon=2.0**-23, scale_offset=1.0), rms_norm, **SAME),
)  # fmt: skip

OTHERS = (
  Case("linear", "Linear", (6, 6), {}, {"weight": (6, 6), "bias": (6,)},
       (3, 4, 6), nn.Dense(6), linear, **SAME),
  Case("linear_plain", "Linear", (6, 5), {"bias": False}, {"weight": (5, 6)},
       (3, 6), nn.Dense(5, use_bias=False), linear, **SAME),
  Case("linear_of_map", "Linear", (24, 24), {},
       {"weight": (24, 24), "bias": (24,)}, (5, 24), nn.Dense(24), linear,
       there=flattened, back=unchanged, conversion=MAP),
  Case("conv_1d", "Conv1d", (6, 4, 3), {"padding": 1},
       {"weight": (4, 6, 3), "bias": (4,)}, (2, 6, 7),
       nn.Conv(4, 3, padding=1), functools.partial(conv, padding=1)),
  Case("conv_2d", "Conv2d", (3, 3, 3), {"stride": 2, "padding": 1},
       {"weight": (3, 3, 3, 3), "bias": (3,)}, (2, 3, 8, 8),
       nn.Conv(3, (3, 3), 2, 1), functools.partial(conv, stride=2, padding=1)),
  Case("conv_2d_plain", "Conv2d", (3, 4, (2, 3)),
       {"bias": False, "dilation": 2}, {"weight": (4, 3, 2, 3)}, (2, 3, 7, 8),
       nn.Conv(4, (2, 3), padding="VALID", kernel_dilation=2, use_bias=False),
       functools.partial(conv, dilation=2)),
  Case("conv_3d", "Conv3d", (2, 3, 2), {},
       {"weight": (3, 2, 2, 2, 2), "bias": (3,)}, (2, 2, 3, 4, 5),
       nn.Conv(3, (2, 2, 2), padding="VALID"), conv),
  Case("conv_grouped", "Conv2d", (6, 4, 3), {"groups": 2},
       {"weight": (4, 3, 3, 3), "bias": (4,)}, (2, 6, 5, 5),
       nn.Conv(4, (3, 3), padding="VALID", feature_group_count=2),
       functools.partial(conv, groups=2)),
  Case("conv_depthwise", "Conv2d", (6, 12, 3), {"groups": 6, "padding": 1},
       {"weight": (12, 1, 3, 3), "bias": (12,)}, (2, 6, 5, 5),
       nn.Conv(12, (3, 3), padding=1, feature_group_count=6),
       functools.partial(conv, groups=6, padding=1)),
  Case("transposed_1d", "ConvTranspose1d", (4, 4, 4),
       {"stride": 2, "padding": 1, "output_padding": 1},
       {"weight": (4, 4, 4), "bias": (4,)}, (2, 4, 5),
       nn.ConvTranspose(4, (4,), 2, [(2, 3)], transpose_kernel=True),
       functools.partial(
         conv_transpose, stride=2, padding=1, output_padding=1)),
  Case("transposed_2d", "ConvTranspose2d", (3, 3, 3), {"stride": 2},
       {"weight": (3, 3, 3, 3), "bias": (3,)}, (2, 3, 4, 4),
       nn.ConvTranspose(3, (3, 3), 2, "VALID", transpose_kernel=True),
       functools.partial(conv_transpose, stride=2)),
  Case("transposed_2d_slid", "ConvTranspose2d", (3, 5, (2, 3)),
       {"stride": 2, "dilation": 2}, {"weight": (3, 5, 2, 3), "bias": (5,)},
       (2, 3, 4, 4),
       nn.ConvTranspose(5, (2, 3), 2, [(2, 2), (4, 4)], 2),
       functools.partial(conv_transpose, stride=2, dilation=2)),
  Case("transposed_3d", "ConvTranspose3d", (3, 3, 2), {},
       {"weight": (3, 3, 2, 2, 2), "bias": (3,)}, (2, 3, 3, 3, 3),
       nn.ConvTranspose(3, (2, 2, 2), padding="VALID"), conv_transpose),
  Case("embedding", "Embedding", (7, 5), {}, {"weight": (7, 5)}, (3, 4),
       nn.Embed(7, 5), lambda x, weight: weight[x], **SAME),
)  # fmt: skip

CASES = (*NORMS, *OTHERS)
