"""Every norm again, in float64 NumPy, with derivatives by closed formulas.

What the library is measured against, so it shares no code with it and does
not optimize anything. A norm returns a `Result`: the output, and its
derivatives in both directions as functions.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg


class Result(NamedTuple):
  """The output of a norm, and its derivatives at that input.

  Attributes:
    y: Output, float64 or complex128.
    pullback: From the gradient with respect to `y` to those with respect to
      `x`, `scale` and `bias`, for a real `x`.
    pushforward: From a tangent of `x` to that of `y`.
  """

  y: np.ndarray
  pullback: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
  pushforward: Callable[[np.ndarray], np.ndarray]


def wide(x):
  """Returns `x` as float64 or complex128."""
  x = np.asarray(x)
  return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def counted(x, mask):
  """Returns `x` with zeros where the mask is False, NaN or not."""
  if mask is None:
    return x
  mask = np.asarray(mask)
  mask = mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape)
  return np.where(mask, x, 0)


def count_of(x, axes, mask=None):
  """Returns the number of elements in each group, axes kept, at least one."""
  ones = counted(np.ones(x.shape), mask)
  return np.maximum(ones.sum(axes, keepdims=True), 1)


def mean_and_var(x, axes, mask=None, ddof=0):
  """Returns mean and variance, axes kept; zeros for an empty group."""
  x = wide(x)
  count = count_of(x, axes, mask)
  mean = counted(x, mask).sum(axes, keepdims=True) / count
  squares = np.abs(counted(x - mean, mask)) ** 2
  return mean, squares.sum(axes, keepdims=True) / np.maximum(count - ddof, 1)


def standardize(
  x,
  axes,
  *,
  epsilon=1e-6,
  mask=None,
  ddof=0,
  epsilon_outside_sqrt=False,
  centered=True,
):
  """Returns y, pullback to x, and pushforward; `centered=False` is RMS."""
  x = wide(x)
  count = count_of(x, axes, mask)
  if centered:
    mean, var = mean_and_var(x, axes, mask, ddof)
    c = counted(x - mean, mask)
  else:
    c = counted(x, mask)
    var = (np.abs(c) ** 2).sum(axes, keepdims=True) / count
  # r(var) and its derivative.
  if epsilon_outside_sqrt:
    root = np.sqrt(var)
    r = 1 / (root + epsilon)
    slope = -(r**2) / (2 * np.where(root > 0, root, np.inf))
  else:
    r = 1 / np.sqrt(var + epsilon)
    slope = -(r**3) / 2

  def differentiate(d):
    # The Jacobian is real symmetric, so this serves both directions.
    d = counted(wide(d), mask)
    d_var = 2 * np.real(np.conj(c) * d).sum(axes, keepdims=True)
    d_var = d_var / np.maximum(count - ddof, 1)
    if centered:
      d = counted(d - d.sum(axes, keepdims=True) / count, mask)
    return r * d + c * slope * d_var

  return c * r, differentiate


def affine(standard, derivative, scale, bias, feature_axes, scale_offset=0.0):
  """Returns the `Result` of scaling and shifting a standardized array."""
  ndim = standard.ndim
  features = sorted(axis % ndim for axis in np.atleast_1d(feature_axes))
  others = tuple(axis for axis in range(ndim) if axis not in features)

  def spread(parameter):
    return np.expand_dims(wide(parameter), others)

  gain = np.ones((1,) * ndim)
  if scale is not None:
    gain = scale_offset + spread(scale)
  y = standard * gain
  if bias is not None:
    y = y + spread(bias)

  def pullback(dy):
    dy = wide(dy)
    d_scale = (dy * standard).sum(others)
    return derivative(dy * gain), d_scale, dy.sum(others)

  return Result(y, pullback, lambda dx: gain * derivative(dx))


def layer_norm(
  x,
  scale=None,
  bias=None,
  *,
  reduction_axes=-1,
  feature_axes=-1,
  scale_offset=0.0,
  **options,
):
  axes = tuple(np.atleast_1d(reduction_axes).tolist())
  y, derivative = standardize(x, axes, **options)
  return affine(y, derivative, scale, bias, feature_axes, scale_offset)


def rms_norm(x, scale=None, bias=None, **options):
  return layer_norm(x, scale, bias, centered=False, **options)


def batch_norm(
  x,
  scale=None,
  bias=None,
  *,
  axis=-1,
  epsilon=1e-5,
  mask=None,
  scale_offset=0.0,
  stats=None,
):
  """Training; evaluation where `stats`, a pair of mean and var, is given."""
  x = wide(x)
  features = tuple(i % x.ndim for i in np.atleast_1d(axis))
  axes = tuple(i for i in range(x.ndim) if i not in features)
  if stats is None:
    y, derivative = standardize(x, axes, epsilon=epsilon, mask=mask)
  else:
    mean, var = (np.expand_dims(wide(field), axes) for field in stats)
    r = 1 / np.sqrt(var + epsilon)
    y = counted(x - mean, mask) * r
    derivative = lambda d: counted(wide(d), mask) * r
  return affine(y, derivative, scale, bias, features, scale_offset)


def ghost_batch_norm(
  x, scale=None, bias=None, *, ghost_size, axis=-1, epsilon=1e-5, mask=None
):
  """Takes every ghost out of the batch and standardizes it alone."""
  x = wide(x)
  axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
  if mask is not None:
    mask = np.broadcast_to(mask, x.shape)
  ghosts = [slice(i, i + ghost_size) for i in range(0, len(x), ghost_size)]
  parts = [
    standardize(
      x[ghost],
      axes,
      epsilon=epsilon,
      mask=None if mask is None else mask[ghost],
    )
    for ghost in ghosts
  ]

  def derivative(d):
    d = np.broadcast_to(d, x.shape)
    return np.concatenate(
      [part[1](d[ghost]) for part, ghost in zip(parts, ghosts, strict=True)]
    )

  y = np.concatenate([part[0] for part in parts])
  return affine(y, derivative, scale, bias, axis)


def running_statistics(
  x, old, *, axis=-1, momentum=0.99, mask=None, running_var_ddof=0
):
  """Returns the updated (mean, var) of a pair; None gives the batch's own."""
  x = wide(x)
  features = tuple(i % x.ndim for i in np.atleast_1d(axis))
  axes = tuple(i for i in range(x.ndim) if i not in features)
  mean, var = mean_and_var(x, axes, mask, running_var_ddof)
  count = counted(np.ones(x.shape), mask).sum(axes)
  if old is None:
    return mean.squeeze(axes), var.squeeze(axes)
  updated = [
    momentum * wide(before) + (1 - momentum) * now.squeeze(axes)
    for before, now in zip(old, (mean, var), strict=True)
  ]
  return (
    np.where(count > 0, updated[0], old[0]),
    np.where(count > running_var_ddof, updated[1], old[1]),
  )


def group_norm(
  x,
  scale=None,
  bias=None,
  *,
  num_groups=32,
  group_size=None,
  channel_axis=-1,
  reduction_axes=None,
  epsilon=1e-6,
  mask=None,
  scale_offset=0.0,
):
  """Takes every group out of the array and standardizes it alone."""
  x = wide(x)
  channel = channel_axis % x.ndim
  channels = x.shape[channel]
  size = group_size or channels // num_groups
  axes = tuple(range(1, x.ndim)) if reduction_axes is None else reduction_axes
  if mask is not None:
    mask = np.asarray(mask)
    mask = np.broadcast_to(
      mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape), x.shape
    )
  slices = [
    (slice(None),) * channel + (slice(start, start + size),)
    for start in range(0, channels, size)
  ]
  parts = [
    standardize(
      x[group],
      tuple(axes),
      epsilon=epsilon,
      mask=None if mask is None else mask[group],
    )
    for group in slices
  ]

  def derivative(d):
    d = np.broadcast_to(d, x.shape)
    return np.concatenate(
      [part[1](d[group]) for part, group in zip(parts, slices, strict=True)],
      channel,
    )

  y = np.concatenate([part[0] for part in parts], channel)
  return affine(y, derivative, scale, bias, channel, scale_offset)


def instance_norm(
  x, scale=None, bias=None, *, channel_axis=-1, scale_offset=0.0, **options
):
  x = wide(x)
  channels = tuple(i % x.ndim for i in np.atleast_1d(channel_axis))
  axes = tuple(i for i in range(1, x.ndim) if i not in channels)
  y, derivative = standardize(x, axes, **options)
  return affine(y, derivative, scale, bias, channels, scale_offset)


def scaled_error(y, expected):
  """Returns max |y - expected| / max(1, |expected|); NaN counts as infinite."""
  error = np.abs(wide(y) - expected) / np.maximum(1, np.abs(expected))
  return np.nan_to_num(error, nan=np.inf).max(initial=0.0)


def relative_error(gradient, expected):
  """Returns max |gradient - expected| / max |expected|, NaN as infinite."""
  error = np.abs(wide(gradient) - expected).max(initial=0.0)
  size = np.abs(expected).max(initial=0.0)
  return np.inf if np.isnan(error) else error / max(size, 1e-30)


def covariance(x, mask=None):
  """Returns mean, covariance, deviations and counts of rows `[rows, channels]`.

  A masked place counts as the mean of its channel.
  """
  mask = np.ones(x.shape, bool) if mask is None else mask
  count = np.maximum(mask.sum(0), 1)
  mean = np.where(mask, x, 0).sum(0) / count
  c = np.where(mask, x - mean, 0) / np.sqrt(count)
  return mean, c.T @ c, c * np.sqrt(count), count


def inverse_root(cov, epsilon, iterations=None):
  """Returns `(cov + epsilon I)^(-1/2)`, or as many steps of Newton's method."""
  matrix = cov + epsilon * np.eye(len(cov))
  if iterations is None:
    return scipy.linalg.inv(scipy.linalg.sqrtm(matrix).real)
  trace = np.trace(matrix)
  p = np.eye(len(cov))
  for _ in range(iterations):
    p = (3 * p - p @ p @ p @ (matrix / trace)) / 2
  return p / np.sqrt(trace)


def whiten(
  x,
  scale=None,
  bias=None,
  *,
  num_groups=1,
  axis=-1,
  epsilon=1e-5,
  mask=None,
  iterations=None,
  stats=None,
):
  """Decorrelated batch norm; evaluation where `stats` are given.

  The derivatives, for no iterations in training, solve Sylvester's equation.
  """
  x = np.moveaxis(wide(x), axis, -1)
  shape, channels = x.shape, x.shape[-1]
  if mask is None:
    mask = np.ones(x.shape, bool)
  else:
    mask = np.asarray(mask)
    mask = mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape)
    mask = np.broadcast_to(np.moveaxis(mask, axis, -1), x.shape)
  gain = np.ones(channels) if scale is None else wide(scale)
  shift = np.zeros(channels) if bias is None else wide(bias)
  rows, there = x.reshape(-1, channels), mask.reshape(-1, channels)
  size = channels // num_groups
  parts = []
  for group in range(num_groups):
    own = slice(group * size, (group + 1) * size)
    mean, cov, c, count = covariance(rows[:, own], there[:, own])
    if stats is not None:
      mean, cov = wide(stats[0])[own], wide(stats[1])[group]
      c = np.where(there[:, own], rows[:, own] - mean, 0)
    parts.append((own, c, there[:, own], count, cov))

  def matrices(cov):
    root = scipy.linalg.sqrtm(cov + epsilon * np.eye(size)).real
    return root, scipy.linalg.inv(root)

  def joined(columns):
    y = np.concatenate(columns, -1).reshape(shape)
    return np.moveaxis(y, -1, axis)

  y = joined([
    c @ inverse_root(cov, epsilon, iterations) for _, c, _, _, cov in parts
  ])  # fmt: skip

  def along(parameter):
    return np.moveaxis(np.broadcast_to(parameter, shape), -1, axis)

  def differentiate(d, transposed):
    d = np.moveaxis(wide(d), axis, -1).reshape(rows.shape)
    columns = []
    for own, c, there, count, cov in parts:
      root, inverse = matrices(cov)
      weight = 1 / np.sqrt(np.outer(count, count))

      def center(d, there=there, count=count):
        d = np.where(there, d, 0)
        return np.where(there, d - d.sum(0) / count, 0)

      if transposed:
        d_inverse = c.T @ (d[:, own] * gain[own])
        d_root = -inverse @ d_inverse @ inverse
        d_cov = scipy.linalg.solve_sylvester(root, root, d_root) * weight
        d_c = (d[:, own] * gain[own]) @ inverse + c @ (d_cov + d_cov.T)
        columns.append(center(d_c))
      else:
        d_c = center(d[:, own])
        d_cov = (d_c.T @ c + c.T @ d_c) * weight
        d_root = scipy.linalg.solve_sylvester(root, root, d_cov)
        d_y = d_c @ inverse - c @ (inverse @ d_root @ inverse)
        columns.append(d_y * gain[own])
    return joined(columns)

  def pullback(dy):
    others = tuple(i for i in range(y.ndim) if i != axis % y.ndim)
    dy = wide(dy)
    return differentiate(dy, True), (dy * y).sum(others), dy.sum(others)

  return Result(
    y * along(gain) + along(shift),
    pullback,
    lambda dx: differentiate(dx, False),
  )


def whitening_statistics(
  x, old, *, num_groups=1, axis=-1, momentum=0.99, mask=None
):
  """Returns the updated (mean, cov) of a pair; None gives the batch's own."""
  x = np.moveaxis(wide(x), axis, -1)
  channels = x.shape[-1]
  rows = x.reshape(-1, channels)
  if mask is not None:
    mask = np.broadcast_to(np.moveaxis(np.asarray(mask), axis, -1), x.shape)
    mask = mask.reshape(rows.shape)
  mean, cov, *_ = covariance(rows, mask)
  size = channels // num_groups
  blocks = np.stack([
    cov[i : i + size, i : i + size] for i in range(0, channels, size)
  ])  # fmt: skip
  if old is None:
    return mean, blocks
  return tuple(
    momentum * wide(before) + (1 - momentum) * now
    for before, now in zip(old, (mean, blocks), strict=True)
  )


def complex_whiten(
  x, scale=None, bias=None, *, axis=-1, epsilon=1e-5, mask=None, stats=None
):
  """Returns y of complex batch norm; evaluation where `stats` are given."""
  x = np.moveaxis(wide(x), axis, -1)
  there = np.ones(x.shape, bool)
  if mask is not None:
    there = np.broadcast_to(np.moveaxis(np.asarray(mask), axis, -1), x.shape)
  y = np.zeros_like(x)
  for channel in range(x.shape[-1]):
    counts = there[..., channel]
    values = x[..., channel][counts]
    parts = np.stack([values.real, values.imag], -1)
    mean, cov, c, _ = covariance(parts)
    if stats is not None:
      mean, cov = stats[0][channel], wide(stats[1][channel])
      c = parts - [mean.real, mean.imag]
    gain = np.eye(2)
    if scale is not None:
      rr, ii, ri = scale[channel]
      gain = np.array([[rr, ri], [ri, ii]], np.float64)
    white = c @ inverse_root(cov, epsilon) @ gain
    y[..., channel][counts] = white[:, 0] + 1j * white[:, 1]
  if bias is not None:
    y = y + wide(bias)
  return np.moveaxis(y, -1, axis)
