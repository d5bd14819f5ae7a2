"""What `benchmarks.norms` measures: norms, shapes, dtypes and layouts."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

# All libraries compute with these numbers, whatever their defaults are.
EPSILON = 1e-5
MOMENTUM = 0.9
GROUPS = 32

_ROWS = (
  (64, 128),
  (2048, 256),
  (8192, 768),
  (2048, 4096),
  (4096, 4096),
  (32, 1024, 512),
)
_IMAGES = ((8, 16, 16, 64), (32, 28, 28, 64), (16, 56, 56, 128))
_BATCHES = ((256, 512), (64, 28, 28, 64), (32, 56, 56, 64))

# Shapes by norm, channels last, from a few kilobytes to tens of megabytes.
GRID: dict[str, tuple[tuple[int, ...], ...]] = {
  "layer": (*_ROWS, _IMAGES[1]),
  "rms": (*_ROWS, _IMAGES[1]),
  "batch": _BATCHES,
  "batch-eval": _BATCHES,
  "group": _IMAGES,
  "instance": _IMAGES,
}
QUICK_GRID: dict[str, tuple[tuple[int, ...], ...]] = {
  "layer": ((64, 128),),
  "rms": ((64, 128),),
  "batch": ((256, 512),),
  "batch-eval": ((256, 512),),
  "group": ((8, 16, 16, 64),),
  "instance": ((8, 16, 16, 64),),
}
NORMS = tuple(GRID)
LAYOUTS = ("last", "first")


class Case(NamedTuple):
  """A norm, and the array that it is applied to.

  Attributes:
    norm: One of `NORMS`; `batch` is training, `batch-eval` evaluation.
    shape: The shape with the channels last, also if the layout is `first`.
    dtype: The dtype of the array, such as `float32`. Parameters are float32.
    layout: Where the channels are: `last`, or `first`, right after the batch.
  """

  norm: str
  shape: tuple[int, ...]
  dtype: str = "float32"
  layout: str = "last"

  @property
  def array_shape(self) -> tuple[int, ...]:
    if self.layout == "last":
      return self.shape
    return (self.shape[0], self.channels, *self.shape[1:-1])

  @property
  def channels(self) -> int:
    return self.shape[-1]

  @property
  def channel_axis(self) -> int:
    return -1 if self.layout == "last" else 1

  @property
  def groups(self) -> int:
    """The groups of group norm: `GROUPS` if it divides the channels."""
    return math.gcd(GROUPS, self.channels)

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize

  @property
  def title(self) -> str:
    """
    >>> Case("group", (8, 16, 16, 64), "bfloat16", "first").title
    'group 8x64x16x16 bfloat16, channels first'
    """
    return f"{self.norm} {self.size}"

  @property
  def size(self) -> str:
    """The title without the norm."""
    size = f"{'x'.join(map(str, self.array_shape))} {self.dtype}"
    return size if self.layout == "last" else f"{size}, channels first"


def parse_shape(text: str) -> tuple[int, ...]:
  """
  >>> parse_shape("8192x768")
  (8192, 768)
  """
  try:
    shape = tuple(int(size) for size in text.split("x"))
  except ValueError:
    shape = ()
  if len(shape) < 2 or min(shape) < 1:
    raise ValueError(
      f"Expected a shape such as 8192x768 or 8x16x16x64, got {text!r}."
    )
  return shape


def cases(
  norms: Sequence[str],
  dtypes: Sequence[str],
  layouts: Sequence[str],
  shapes: Sequence[tuple[int, ...]] | None = None,
  *,
  quick: bool = False,
) -> Iterator[Case]:
  """Yields the cases to measure, norm by norm.

  Args:
    norms: Some of `NORMS`.
    dtypes: Such as `float32`.
    layouts: Some of `LAYOUTS`. `first` needs spatial axes; for layer and RMS
      norm it needs images.
    shapes: Shapes with the channels last; None means the grid.
    quick: Whether to use the small grid.
  """
  grid = QUICK_GRID if quick else GRID
  for norm in norms:
    for dtype in dtypes:
      for layout in layouts:
        for shape in grid[norm] if shapes is None else shapes:
          if norm in ("group", "instance") and len(shape) < 3:
            continue  # No spatial axis to average over.
          if layout == "first" and len(shape) < (
            4 if norm in ("layer", "rms") else 3
          ):
            continue
          yield Case(norm, shape, dtype, layout)


class Inputs(NamedTuple):
  """NumPy arrays that every library gets, always float32.

  Attributes:
    x: The input, with the shape for the layout.
    cotangent: The cotangent of the output; in forward mode the tangent of `x`.
    params: Scale and bias; RMS norm has no bias. They are also used as their
      own tangents.
    mean, var: Running statistics of batch norm.
  """

  x: np.ndarray
  cotangent: np.ndarray
  params: tuple[np.ndarray, ...]
  mean: np.ndarray
  var: np.ndarray


def make_inputs(case: Case) -> Inputs:
  """Returns random inputs, always the same for a case."""
  rng = np.random.default_rng(0)

  def normal(shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)

  channels = (case.channels,)
  params = (1 + 0.1 * normal(channels), 0.1 * normal(channels))
  return Inputs(
    x=normal(case.array_shape) + np.float32(0.5),
    cotangent=normal(case.array_shape),
    params=params[:1] if case.norm == "rms" else params,
    mean=0.1 * normal(channels),
    var=1 + 0.1 * np.abs(normal(channels)),
  )
