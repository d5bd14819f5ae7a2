"""Which values a norm averages over, found by differentiating it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normjax.linen import make_norm

AXIS_NAMES = {2: "NC", 3: "NLC", 4: "NHWC"}


class Norm:
  """A freshly initialized norm for arrays of one shape, channels last.

  >>> norm = Norm("in", (2, 4, 4, 3))
  >>> norm.extents
  (1, 4, 4, 1)
  >>> norm.describe()
  'H W, 16 values'
  """

  def __init__(self, name: str, shape: Sequence[int], **options: Any):
    """Initializes the norm and finds its groups.

    Args:
      name: Short name of the norm.
      shape: Shape of the arrays.
      **options: Options of the norm.

    Raises:
      ValueError: The norm does not accept arrays of this shape.
    """
    if name == "gn":
      options = {"num_groups": math.gcd(2, shape[-1]), **options}
    module = make_norm(name, train=True, **options)
    # Any values: a derivative is zero by chance with probability zero.
    x = jax.random.normal(jax.random.key(1), tuple(shape))
    variables = module.init(jax.random.key(0), x)
    self._apply = jax.jit(
      lambda x: module.apply(variables, x, mutable=["batch_stats"])[0]
    )
    self.shape = tuple(shape)
    self.epsilon = float(getattr(module, "epsilon", 0.0))
    self.parameters = {
      key: np.asarray(value)
      for key, value in variables.get("params", {}).items()
    }
    self.extents = self._extents(x)

  def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
    return self._apply(jnp.asarray(x))

  def influences(self, x: jax.typing.ArrayLike) -> np.ndarray:
    """Returns booleans: which values of `x` the first output depends on."""
    first = (0,) * len(self.shape)
    return np.asarray(jax.grad(lambda x: self(x)[first])(jnp.asarray(x)) != 0)

  def grouped(self, values: np.ndarray) -> np.ndarray:
    """Reshapes `values` to `[groups, values of a group]`."""
    split, inner, outer = [], [], []
    for axis, extent in enumerate(self.extents):
      outer.append(2 * axis)
      inner.append(2 * axis + 1)
      split += [self.shape[axis] // extent, extent]
    blocks = np.reshape(values, split).transpose(*outer, *inner)
    return blocks.reshape(-1, math.prod(self.extents))

  def describe(self) -> str:
    """Returns the axes that are averaged over, and the size of a group."""
    names = AXIS_NAMES.get(len(self.shape), "")
    parts = []
    for axis, (extent, size) in enumerate(
      zip(self.extents, self.shape, strict=True)
    ):
      name = names[axis] if names else f"axis {axis}"
      if extent == size > 1:
        parts.append(name)
      elif extent > 1:
        parts.append(f"{extent} of {size} {name}")
    count = math.prod(self.extents)
    return f"{' '.join(parts) or 'nothing'}, {count} values"

  def _extents(self, x: jax.Array) -> tuple[int, ...]:
    where = np.nonzero(self.influences(x))
    return tuple(len(np.unique(indices)) for indices in where)
