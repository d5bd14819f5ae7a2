"""Count, mean and sum of squared deviations: the core of every norm.

The textbook's formula for one pass, `E[x^2] - E[x]^2`, subtracts two numbers
that are as large as the squared mean. In float32 this leaves no correct digit
if the standard deviation is below a thousandth of the mean. Here the data are
centered before they are squared. The mean is kept as two numbers, with twice
the digits of one, because `x - mean` needs them. See docs/numerics.md.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from normjax.functional import sharding
from normjax.functional.arguments import (
  Axes,
  AxisIndexGroups,
  AxisName,
  canonical_axes,
  canonical_mask,
  check_axis_name,
  check_floating,
  jit,
  statistics_dtype,
)
from normjax.functional.axes import Fold, fold
from normjax.functional.groups import Groups


class _Moments(NamedTuple):
  count: jax.Array  # type: ignore[assignment]  # Hides tuple.count.
  mean: jax.Array
  mean_tail: jax.Array
  m2: jax.Array
  count_tail: jax.Array
  m2_tail: jax.Array


class Moments(_Moments):
  """Count, mean and sum of squared deviations of groups of elements.

  A tail is the rounding error of the number that it belongs to: their sum has
  about twice the digits of one number. So `x - mean` is exact even if the mean
  is a million times the standard deviation. And moments of a long stream can be
  merged even if one more batch is too small to change a digit of the count.

  Attributes:
    count: The number of elements in each group, real, shaped like `mean`.
    mean: The mean; zero for an empty group.
    mean_tail: The rounding error of `mean`.
    m2: The sum of |x - mean|^2, real.
    count_tail: The rounding error of `count`; zero if it is not given.
    m2_tail: The rounding error of `m2`; zero if it is not given.
  """

  __slots__ = ()

  def __new__(
    cls,
    count: Any,
    mean: Any,
    mean_tail: Any,
    m2: Any,
    count_tail: Any = None,
    m2_tail: Any = None,
  ) -> "Moments":
    """Replaces tails that are not given by zero."""
    # Trees of other things, such as the None of Orbax, stay as they are.
    if count_tail is None and count is not None:
      count_tail = jnp.zeros_like(count)
    if m2_tail is None and m2 is not None:
      m2_tail = jnp.zeros_like(m2)
    return super().__new__(cls, count, mean, mean_tail, m2, count_tail, m2_tail)

  @classmethod
  def empty(
    cls, shape: Sequence[int], dtype: jax.typing.DTypeLike = jnp.float32
  ) -> "Moments":
    """Returns the moments of empty groups, to merge others into.

    Args:
      shape: The shape of `mean`.
      dtype: The dtype of `mean`, float32 or wider.
    """
    real = jnp.finfo(dtype).dtype
    # Six arrays, because one array must not be donated twice.
    dtypes = cls(real, dtype, dtype, real, real, real)
    return cls(*(jnp.zeros(shape, dtype) for dtype in dtypes))

  @property
  def var(self) -> jax.Array:
    """The biased variance `m2 / count`; zero for an empty group."""
    return self.variance()

  def variance(self, ddof: int = 0) -> jax.Array:
    """Returns `m2 / (count - ddof)`, with a divisor of at least one."""
    return _variance(self.count, self.m2, ddof)


class GroupMoments(NamedTuple):
  """The moments of the groups of one array: what a norm is computed from.

  Attributes:
    count, mean, mean_tail, m2: As in `Moments`.
  """

  count: jax.Array  # type: ignore[assignment]  # Hides tuple.count.
  mean: jax.Array
  mean_tail: jax.Array
  m2: jax.Array

  def variance(self, ddof: int = 0) -> jax.Array:
    """As `Moments.variance`."""
    return _variance(self.count, self.m2, ddof)

  def unfold(self, view: Fold, axes: tuple[int, ...]) -> "GroupMoments":
    """Returns the moments of the array for those of a view; keeps `axes`."""
    return GroupMoments(*(view.unfold(field, axes) for field in self))

  def squeeze(self, axes: tuple[int, ...]) -> "GroupMoments":
    """Returns the moments without `axes`, which have size one."""
    return GroupMoments(*(lax.squeeze(field, axes) for field in self))


def _variance(count: jax.Array, m2: jax.Array, ddof: int) -> jax.Array:
  return m2 / jnp.maximum(count - ddof, 1)


@jit("axes", "axis_name", "axis_index_groups", "keepdims")
def moments(
  x: jax.Array,
  axes: Axes,
  *,
  mask: ArrayLike | None = None,
  axis_name: AxisName | None = None,
  axis_index_groups: AxisIndexGroups | None = None,
  keepdims: bool = False,
) -> Moments:
  """Returns count, mean and sum of squared deviations over `axes`.

  Args:
    x: Real or complex floating array of any shape. Half precision is computed
      in float32.
    axes: Axes that are averaged over.
    mask: Boolean, broadcasts to `x`; True counts. Masked places may hold NaN.
    axis_name: Name or names of mapped axes (`jax.vmap`, `jax.shard_map`) that
      are averaged over too. Devices are weighted by their counts, so their
      masks may differ.
    axis_index_groups: Indices along `axis_name` that belong together; see
      `jax.lax.psum`.
    keepdims: Keeps the reduced axes, with size one.

  Returns:
    `Moments` shaped like `x` without `axes`, in float32 or wider.

  Raises:
    TypeError: `x` is an integer array, `mask` is not boolean, or an axis is not
      an integer.
    ValueError: an axis is out of range or repeated, or `mask` does not
      broadcast to `x`.
    NameError: `axis_name` is not bound.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> m = normjax.moments(jnp.array([[101.0, 102.0, 103.0]]), axes=1)
    >>> print(m.count, m.mean, m.m2, m.variance(ddof=1))
    [3.] [102.] [2.] [1.]

  Reference: Chan, Golub & LeVeque, 1983, "Algorithms for computing the sample
    variance", The American Statistician 37(3), corrected two-pass algorithm.
  """
  check_floating(x, "moments")
  check_axis_name(axis_name)
  axes = canonical_axes(axes, x.ndim, "axes")
  mask = canonical_mask(mask, x.shape)
  groups = Groups(
    axes, axis_name=axis_name, axis_index_groups=axis_index_groups
  )
  x = x.astype(statistics_dtype(x.dtype))
  view = fold(x, mask, groups)
  stats = group_moments(view.array(x), view.array(mask), view.groups(groups))
  stats = stats.unfold(view, axes)
  return Moments(*(stats if keepdims else stats.squeeze(axes)))


def merge_moments(a: Moments, b: Moments) -> Moments:
  """Returns the moments of the union of two groups.

  Args:
    a: Moments of one group, or of many.
    b: Moments of the other, of the same shape.

  Returns:
    `Moments`. If the batches of a stream of 10^12 elements are merged one after
    the other, count, mean and variance still have all digits of float32.

  Raises:
    TypeError: an argument is not `Moments`.
    ValueError: their shapes differ.

  Example:
    >>> import jax.numpy as jnp, normjax
    >>> x = jnp.arange(10.0)
    >>> parts = normjax.moments(x[:3], 0), normjax.moments(x[3:], 0)
    >>> m = normjax.merge_moments(*parts)
    >>> print(m.count, m.mean, m.var)
    10.0 4.5 8.25

  Reference: Chan, Golub & LeVeque, 1983, "Algorithms for computing the sample
    variance", The American Statistician 37(3); sums of numbers with tails:
    Dekker, 1971, "A floating-point technique for extending the available
    precision", Numerische Mathematik 18.
  """
  for part in (a, b):
    if not isinstance(part, Moments):
      raise TypeError(
        "merge_moments needs two Moments, as normjax.moments returns them, got"
        f" {type(part).__name__}."
      )
  if jnp.shape(a.mean) != jnp.shape(b.mean):
    raise ValueError(
      f"merge_moments got means of shapes {jnp.shape(a.mean)} and"
      f" {jnp.shape(b.mean)}; take both over the same axes of their groups."
    )
  count, count_tail = _added((a.count, a.count_tail), (b.count, b.count_tail))
  share = b.count / jnp.maximum(count, 1)
  # An empty group has no mean: the step from zero would round the other's.
  start, start_tail = (
    sharding.where(a.count > 0, own, other)
    for own, other in zip(a[1:3], b[1:3], strict=True)
  )
  gap = (b.mean - start) + (b.mean_tail - start_tail)
  step = _rounded(gap * share.astype(gap.dtype))
  mean, mean_tail = _added((start, start_tail), (step, jnp.zeros_like(step)))
  between = _rounded(squared_magnitude(gap) * (a.count * share))
  m2, m2_tail = _added((a.m2, a.m2_tail), (b.m2, b.m2_tail))
  m2, m2_tail = _added((m2, m2_tail), (between, jnp.zeros_like(between)))
  return Moments(count, mean, mean_tail, m2, count_tail, m2_tail)


def _added(
  a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Returns the sum of two numbers with tails (Knuth's two-sum; Dekker)."""
  total = a[0] + b[0]
  added = total - a[0]
  error = (a[0] - (total - added)) + (b[0] - added)
  return _split_sum(total, error + (a[1] + b[1]))


def squared_magnitude(x: jax.Array) -> jax.Array:
  """Returns |x|^2, real also where `x` is complex."""
  return jnp.real(jnp.conj(x) * x)


def _mean(total: jax.Array, count: jax.Array) -> jax.Array:
  """Returns `total / count`; zero for an empty group."""
  return _rounded(total / jnp.maximum(count, 1).astype(total.dtype))


def _weighted(
  values: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns `count * values` as a sum of two, exact if the count is short.

  For counts of 12 bits the first is exact, also if several are added up.
  """
  weight, head = count.astype(values.dtype), _rounded(values, 8)
  return _rounded(weight * head), _rounded(weight * (values - head))


def _quotient(
  heads: jax.Array, rests: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns `(heads + rests) / count` and its error, if the count is short."""
  quotient = _mean(heads + rests, count)
  head, rest = _weighted(quotient, count)
  return quotient, _mean(((heads - head) - rest) + rests, count)


def _rounded(product: jax.Array, bits: int = 0) -> jax.Array:
  """Rounds a product explicitly, to one bit less or to so many bits.

  XLA may compute the same product in several fusions (a division by a constant
  is a product too). In one of them it may round the product and a following sum
  together (FMA), in another one separately. Then the mean of one and the tail
  of the other do not belong together. After an explicit rounding all fusions
  have the same number.
  """
  if jnp.iscomplexobj(product):
    return lax.complex(
      _rounded(product.real, bits), _rounded(product.imag, bits)
    )
  info = jnp.finfo(product.dtype)
  # The first bit of a mantissa is not stored.
  stored = bits - 1 if bits else info.nmant - 1
  return lax.reduce_precision(product, info.nexp, stored)


def _split_sum(
  large: jax.Array, small: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the sum and its rounding error (Dekker, 1971)."""
  total = large + small
  return total, small - (total - large)


def masked(x: jax.Array, mask: jax.Array | None) -> jax.Array:
  """Returns `x` with zeros where the mask is False."""
  return x if mask is None else sharding.where(mask, x, jnp.zeros_like(x))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def group_moments(
  x: jax.Array, mask: jax.Array | None, groups: Groups, centered: bool = True
) -> GroupMoments:
  """Returns the moments of checked arguments, for every group.

  Args:
    x: In the dtype of the statistics.
    mask: Boolean, with the rank of `x`.
    groups: Which elements are averaged together.
    centered: Whether deviations are from the mean. If False they are from zero,
      so `mean` is zero and the variance is the mean square.

  Returns:
    `GroupMoments` in a shape that broadcasts to that of `x`.
  """
  size, axes = groups.size(x.shape), groups.axes
  if groups.pooled:
    local = _local_moments(x, mask, axes, centered)
    return _merged(local, size, groups.pool)
  parts = _parts(x.shape[0]) if centered and 0 in axes else 1
  if parts == 1:
    return _local_moments(x, mask, axes, centered)
  # A part is on one device, so only its moments are exchanged, in two rounds.
  x, mask = sharding.split_first(x, parts), sharding.split_first(mask, parts)
  local = _local_moments(x, mask, tuple(axis + 1 for axis in axes), centered)
  return united(local.squeeze((1,)), size, Groups((0,)))


def _parts(size: int) -> int:
  """Returns the number of parts of a first axis that devices may share.

  While `jax.jit` traces, it is not known how many devices share the axis. But
  each has as much as the others, so their number divides the size of the axis.
  The result is a multiple of all such numbers. With one device it is one.
  """
  if not isinstance(size, int):  # A symbolic shape of `jax.export`.
    return 1
  shares = range(1, min(size, jax.device_count()) + 1)
  return math.lcm(*(share for share in shares if size % share == 0))


def _local_moments(
  x: jax.Array, mask: jax.Array | None, axes: tuple[int, ...], centered: bool
) -> GroupMoments:
  """Centers twice, so that no sum has terms much larger than the deviations.

  The first center is an anchor, an element of the group or a rough mean. Even
  if it is an outlier, it is at most sqrt(count) standard deviations from the
  mean. The second center is the mean that is computed from deviations from the
  anchor. Its error is only the rounding of that sum, so a tiny correction turns
  the squares around it into `m2`.
  """
  count = _count(x, mask, axes)

  def total(values: jax.Array) -> jax.Array:
    return jnp.sum(masked(values, mask), axes, keepdims=True)

  if not centered:
    zero = jnp.zeros(count.shape, x.dtype)
    return GroupMoments(count, zero, zero, total(squared_magnitude(x)))
  # Shrunk by a power of two, which costs no digits, so that no sum overflows.
  shrink = shrinking(math.prod(x.shape[axis] for axis in axes))
  small = x * shrink
  # JAX does not slice the first element off an explicitly sharded axis.
  spec = jax.typeof(x).sharding.spec
  has_first = mask is None and all(
    x.shape[axis] and spec[axis] is None for axis in axes
  )
  anchor = first(small, axes) if has_first else _mean(total(small), count)
  center = anchor + _mean(total(small - anchor), count)
  rest = total(small - center)
  squares = total(squared_magnitude(x - center / shrink))
  correction = _mean(rest, count)
  mean, mean_tail = _split_sum(center, correction)
  m2 = _less(squares, count * squared_magnitude(correction / shrink))
  return GroupMoments(count, mean / shrink, mean_tail / shrink, m2)


def shrinking(size: int) -> float:
  """Returns a power of two that keeps sums of `size` differences in range."""
  if not isinstance(size, int):  # A symbolic shape of `jax.export`.
    return 0.5**32
  return 0.5 ** (1 + math.ceil(math.log2(max(size, 1))))


def _less(squares: jax.Array, excess: jax.Array) -> jax.Array:
  """Returns `squares - excess`, at least zero; infinite if `squares` is."""
  difference = jnp.maximum(squares - excess, 0)
  return sharding.where(squares == jnp.inf, squares, difference)


def _count(
  x: jax.Array, mask: jax.Array | None, axes: tuple[int, ...]
) -> jax.Array:
  """Returns the number of unmasked elements, in real arithmetic."""
  shape = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
  real = jnp.finfo(x.dtype).dtype
  if mask is None:
    return jnp.full(shape, math.prod(x.shape[i] for i in axes), real)
  # Counted in integers, because a float32 counter stops at 2^24.
  counted = jnp.broadcast_to(mask, x.shape)
  return jnp.sum(counted, axes, dtype=jnp.int32, keepdims=True).astype(real)


def first(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """Returns the first element along `axes`."""
  limits = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
  return lax.slice(x, (0,) * x.ndim, limits)


def united(partial: GroupMoments, size: int, groups: Groups) -> GroupMoments:
  """Returns the moments of unions of groups.

  Args:
    partial: The moments of the parts.
    size: The number of elements in a union.
    groups: Which parts belong together.

  Returns:
    `GroupMoments` in a shape that broadcasts to that of `partial`.
  """
  return _merged(partial, size, groups.total)


def _merged(
  partial: GroupMoments, size: int, pool: Callable[[Any], Any]
) -> GroupMoments:
  """Merges all parts of a group at once, in two rounds.

  The first round computes a center close to the mean of all parts. The second
  sums squared distances of the parts' means from it, because
  E[mean^2] - E[mean]^2 would cancel. In each round devices exchange one
  message.

  Args:
    partial: The moments of the parts.
    size: The number of elements in a group.
    pool: Returns a tree of sums over parts, each added up over its group.
  """
  shrink = shrinking(size)
  heads, rests = _weighted(partial.mean * shrink, partial.count)
  count, heads, rests = pool((partial.count, heads, rests))
  # If the data are almost constant, a center that is one unit in the last place
  # off is many deviations off. So it has a tail too.
  center, center_tail = _quotient(heads, rests, count)
  center, center_tail = center / shrink, center_tail / shrink
  gap = (partial.mean - center) + (partial.mean_tail - center_tail)
  squares = partial.m2 + partial.count * squared_magnitude(gap)
  heads, rests = _weighted(gap * shrink, partial.count)
  heads, rests, m2 = pool((heads, rests, squares))
  correction = _mean(heads + rests, count) / shrink
  mean, mean_tail = _split_sum(center, center_tail + correction)
  m2 = _less(m2, count * squared_magnitude(correction))
  return GroupMoments(count, mean, mean_tail, m2)


@group_moments.defjvp
def _group_moments_jvp(
  groups: Groups,
  centered: bool,
  primals: tuple[jax.Array, jax.Array | None],
  tangents: tuple[jax.Array, jax.Array | None],
) -> tuple[GroupMoments, GroupMoments]:
  (x, mask), (dx, _) = primals, tangents
  stats = group_moments(x, mask, groups, centered)
  return stats, moments_tangent(x, mask, stats, dx, groups, centered)


def moments_tangent(
  x: jax.Array,
  mask: jax.Array | None,
  stats: GroupMoments,
  dx: jax.Array,
  groups: Groups,
  centered: bool = True,
) -> GroupMoments:
  """Returns d mean = mean(dx) and d m2 = 2 sum(Re conj(x - mean) dx).

  Differentiating the code of `group_moments` would differentiate both centers,
  with terms that cancel. This is the derivative of what it computes. It is
  linear in `dx`, so reverse mode is its transpose.
  """
  dx = masked(dx, mask)
  zero = jnp.zeros_like(stats.mean)
  divisor = jnp.maximum(stats.count, 1).astype(dx.dtype)
  d_mean = groups.total(dx) / divisor if centered else zero
  product = jnp.real(jnp.conj(deviations(x, mask, stats)) * dx)
  d_m2 = 2 * groups.total(product)
  # If the squares have overflowed, the variance is infinite and stays so.
  d_m2 = sharding.where(stats.m2 == jnp.inf, jnp.zeros_like(d_m2), d_m2)
  return GroupMoments(jnp.zeros_like(stats.count), d_mean, zero, d_m2)


def deviations(
  x: jax.Array, mask: jax.Array | None, stats: GroupMoments
) -> jax.Array:
  """Returns `x - mean` with all digits; zero where the mask is False.

  `mean_tail` is subtracted last: the first difference is exact for `x` close to
  the mean, but adding the tail to the mean would round it off. If the squares
  have overflowed, nothing is subtracted: 1 / sqrt(var) is zero, and its product
  with an infinite difference would be NaN.
  """
  huge = stats.m2 == jnp.inf
  mean, tail = (
    sharding.where(huge, jnp.zeros_like(value), value)
    for value in (stats.mean, stats.mean_tail)
  )
  return masked((masked(x, mask) - mean) - tail, mask)
