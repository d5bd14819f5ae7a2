"""Folded layers against the layer and, in float64 NumPy, the norm after it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax import lax

import normjax

FEATURES = 6
EPSILON = 1e-3


def conv(x, kernel, *, numbers, strides=1, padding="SAME", **options):
  """Calls `lax.conv_general_dilated`; `numbers` are as in `"NHWC,HWIO"`."""
  lhs, rhs = numbers.split(",")
  return lax.conv_general_dilated(
    x, kernel, (strides,) * (x.ndim - 2), padding,
    dimension_numbers=(lhs, rhs, lhs), **options,
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Form:
  """A linear layer without bias, called as `(x, kernel)`.

  Attributes:
    layer: The function.
    x, kernel: Shapes.
    axis: The axis of the kernel that counts the output's features.
    channels: The axis of the output that does.
  """

  layer: Callable[..., Any]
  x: tuple[int, ...]
  kernel: tuple[int, ...]
  axis: int = -1
  channels: int = -1


def _conv(numbers, x, kernel, axis=-1, channels=-1, **options):
  layer = functools.partial(conv, numbers=numbers, **options)
  return Form(layer, x, kernel, axis, channels)


FORMS = {
  "dense": Form(lambda x, k: x @ k, (5, 4), (4, FEATURES)),
  "dense_of_torch": Form(lambda x, k: x @ k.T, (5, 4), (FEATURES, 4), 0),
  "dense_channels_first": Form(
    lambda x, k: jnp.einsum("nit,io->not", x, k), (5, 4, 3), (4, FEATURES), -1,
    1,
  ),
  "conv_1d": _conv("NHC,HIO", (2, 9, 4), (3, 4, FEATURES)),
  "conv_2d": _conv("NHWC,HWIO", (2, 7, 6, 4), (3, 3, 4, FEATURES)),
  "conv_3d": _conv("NDHWC,DHWIO", (2, 4, 5, 3, 4), (3, 2, 1, 4, FEATURES)),
  "conv_of_torch": _conv(
    "NCHW,OIHW", (2, 4, 7, 6), (FEATURES, 4, 3, 3), 0, 1, strides=2,
    padding="VALID",
  ),
  "conv_first_with_flax_kernel": _conv(
    "NCHW,HWIO", (2, 4, 7, 6), (3, 3, 4, FEATURES), -1, 1
  ),
  "conv_1d_first": _conv("NCH,OIH", (2, 4, 9), (FEATURES, 4, 3), 0, 1),
  "grouped": _conv(
    "NHWC,HWIO", (2, 7, 6, 4), (3, 3, 2, FEATURES), feature_group_count=2
  ),
  "grouped_of_torch": _conv(
    "NCHW,OIHW", (2, 4, 7, 6), (FEATURES, 2, 3, 3), 0, 1, feature_group_count=2
  ),
  "depthwise": _conv(
    "NHWC,HWIO", (2, 7, 6, FEATURES), (3, 3, 1, FEATURES),
    feature_group_count=FEATURES,
  ),
  "depthwise_multiplied": _conv(
    "NHWC,HWIO", (2, 7, 6, 3), (3, 3, 1, FEATURES), feature_group_count=3
  ),
  "strided_dilated": _conv(
    "NHWC,HWIO", (2, 9, 9, 4), (3, 3, 4, FEATURES), strides=2,
    rhs_dilation=(2, 2),
  ),
  "transposed": _conv(
    "NHWC,HWIO", (2, 4, 5, 4), (3, 3, 4, FEATURES), lhs_dilation=(2, 2),
    padding=((2, 2), (2, 1)),
  ),
  "transposed_of_torch": _conv(
    "NCHW,IOHW", (2, 4, 4, 5), (4, FEATURES, 3, 3), 1, 1, lhs_dilation=(2, 2),
    padding=((2, 2), (2, 1)),
  ),
  "conv_transpose": Form(
    lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME"),
    (2, 4, 5, 4), (3, 3, 4, FEATURES),
  ),
  "conv_transpose_of_the_gradient": Form(
    lambda x, k: lax.conv_transpose(
      x, k, (2, 2), "SAME", transpose_kernel=True
    ),
    (2, 4, 5, 4), (3, 3, FEATURES, 4), -2,
  ),
}  # fmt: skip


def numbers(*shape, seed=0, low=-1.0, high=1.0):
  values = np.random.default_rng(seed).uniform(low, high, shape)
  return values.astype(np.float32)


def norm(seed=10, mean=0.0):
  """Returns gain, shift and running statistics."""
  scale, bias = numbers(FEATURES, seed=seed), numbers(FEATURES, seed=seed + 1)
  stats = normjax.BatchStats(
    mean + 3 * numbers(FEATURES, seed=seed + 2),
    numbers(FEATURES, seed=seed + 3, low=0.1, high=4.0),
  )
  return scale, bias, stats


def fold(*args, **options):
  """Returns the folded kernel and bias as NumPy arrays."""
  return map(np.asarray, normjax.fold_batch_norm(*args, **options))


def normalized(y, scale, bias, stats, offset=0.0):
  """Returns batch norm of `[..., features]` in evaluation, in float64."""
  y, scale, bias, mean, var = map(np.float64, (y, scale, bias, *stats))
  return (y - mean) / np.sqrt(var + EPSILON) * (offset + scale) + bias


class FormsTest(parameterized.TestCase):
  @parameterized.product(form=tuple(FORMS), has_bias=(True, False))
  def test_equals_layer_and_norm(self, form, has_bias):
    form = FORMS[form]
    x, kernel = numbers(*form.x, seed=1), numbers(*form.kernel, seed=2)
    layer_bias = numbers(FEATURES, seed=3) if has_bias else None
    scale, bias, stats = norm()

    def layer(kernel, bias):
      y = np.asarray(form.layer(x, jnp.asarray(kernel)))
      y = np.moveaxis(y, form.channels, -1)
      return y if bias is None else y + bias

    expected = normalized(layer(kernel, layer_bias), scale, bias, stats)
    folded = fold(
      kernel, layer_bias, scale, bias, stats, axis=form.axis, epsilon=EPSILON
    )
    np.testing.assert_allclose(layer(*folded), expected, rtol=1e-5, atol=1e-5)

  def test_several_axes(self):
    """A kernel whose output has two axes of features, each with statistics."""
    x, kernel = numbers(5, 4, seed=1), numbers(4, 2, 3, seed=2)
    layer_bias, scale, bias = (numbers(2, 3, seed=seed) for seed in (3, 4, 5))
    stats = normjax.BatchStats(numbers(2, 3), 0.5 + numbers(2, 3) ** 2)
    y = np.einsum("ni,ipq->npq", x, kernel) + layer_bias
    kernel, shift = fold(
      kernel, layer_bias, scale, bias, stats, axis=(-1, -2), epsilon=EPSILON
    )
    np.testing.assert_allclose(
      np.einsum("ni,ipq->npq", x, kernel) + shift,
      normalized(y, scale, bias, stats),
      rtol=1e-5,
      atol=1e-5,
    )


class OptionsTest(parameterized.TestCase):
  @parameterized.product(has_scale=(True, False), has_bias=(True, False))
  def test_matches_batch_norm(self, has_scale, has_bias):
    """With every kind of statistics, and all that changes the affine map."""
    x, kernel = numbers(5, 4, seed=1), numbers(4, FEATURES, seed=2)
    scale, bias, plain = norm()
    given = scale if has_scale else None, bias if has_bias else None
    kinds = (
      plain,
      normjax.DebiasedStats(*plain, np.ones(FEATURES, np.float32)),
      normjax.moments(numbers(9, FEATURES, seed=3), axes=0),
      normjax.Moments.empty((FEATURES,)),
    )
    for stats in kinds:
      options = {
        "epsilon": 0.3, "running_var_ddof": 1, "scale_offset": 1.0
      }  # fmt: skip
      expected, _ = normjax.batch_norm(
        x @ kernel, *given, stats, use_running_average=True, **options
      )
      folded, shift = fold(kernel, None, *given, stats, **options)
      np.testing.assert_allclose(
        x @ folded + shift, expected, rtol=1e-5, atol=1e-5
      )

  def test_is_an_array_function(self):
    """Under jit, with a traced epsilon, mapped, and differentiated."""
    kernel = numbers(3, 4, FEATURES, seed=2)
    scale, bias, stats = norm()

    def call(kernel, epsilon):
      return normjax.fold_batch_norm(
        kernel, None, scale, bias, stats, epsilon=epsilon
      )

    expected = call(kernel[1], 0.25)
    mapped = jax.jit(jax.vmap(call, in_axes=(0, None)))(kernel, 0.25)
    for found, wanted in zip(mapped, expected, strict=True):
      np.testing.assert_allclose(found[1], wanted, rtol=1e-6)
    gradient = jax.grad(lambda kernel: call(kernel, 0.25)[0].sum())(kernel[0])
    factor = scale / np.sqrt(stats.var + 0.25)
    np.testing.assert_allclose(
      gradient, np.broadcast_to(factor, (4, FEATURES)), rtol=1e-6
    )


class DtypesTest(parameterized.TestCase):
  @parameterized.parameters("bfloat16", "float16")
  def test_half_precision_is_rounded_once(self, dtype):
    kernel = jnp.asarray(numbers(4, FEATURES), dtype)
    layer_bias = jnp.asarray(numbers(FEATURES, seed=3), dtype)
    scale, bias, stats = norm()
    half = lambda value: jnp.asarray(value, dtype)
    for given in (scale, bias, stats), jax.tree.map(half, (scale, bias, stats)):
      wide = lambda value: jnp.asarray(value, jnp.float32)
      expected = normjax.fold_batch_norm(
        *jax.tree.map(wide, (kernel, layer_bias, *given))
      )
      found = normjax.fold_batch_norm(kernel, layer_bias, *given)
      for value, wanted in zip(found, expected, strict=True):
        self.assertEqual(value.dtype, dtype)
        np.testing.assert_array_equal(value, wanted.astype(dtype))

  def test_each_keeps_its_dtype(self):
    kernel = jnp.asarray(numbers(4, FEATURES), jnp.bfloat16)
    found = normjax.fold_batch_norm(kernel, None, *norm())
    self.assertEqual([value.dtype for value in found], [jnp.bfloat16] * 2)
    found = normjax.fold_batch_norm(kernel, numbers(FEATURES), *norm())
    self.assertEqual([v.dtype for v in found], [jnp.bfloat16, jnp.float32])

  def test_complex(self):
    """A real kernel stays real unless the gain is complex."""
    scale, bias, stats = norm()
    x = numbers(5, 4, seed=1) + 1j * numbers(5, 4, seed=2)
    kernel = numbers(4, FEATURES, seed=3)
    stats = stats._replace(mean=stats.mean + 1j * numbers(FEATURES, seed=4))
    for gain, dtype in ((scale, np.float32), (scale * 1j, np.complex64)):
      expected, _ = normjax.batch_norm(
        x @ kernel, gain, bias, stats, use_running_average=True
      )
      folded, shift = fold(kernel, None, gain, bias, stats)
      self.assertEqual(folded.dtype, dtype)
      self.assertEqual(shift.dtype, np.complex64)
      np.testing.assert_allclose(
        x @ folded + shift, expected, rtol=1e-5, atol=1e-5
      )


class LargeMeanTest(parameterized.TestCase):
  """A mean of 1e6 standard deviations, which comes from one of two places."""

  def data(self):
    scale, bias, stats = norm(mean=1e6)
    return numbers(64, 4, seed=1), numbers(4, FEATURES, seed=2), (
      scale, bias, stats,
    )  # fmt: skip

  def test_in_the_bias_is_exact(self):
    """More so than layer and norm, whose sum was rounded in between."""
    x, kernel, (scale, bias, stats) = self.data()
    layer_bias = stats.mean + numbers(FEATURES, seed=5)
    y = np.float64(x) @ np.float64(kernel) + np.float64(layer_bias)
    expected = normalized(y, scale, bias, stats)
    folded, shift = fold(
      kernel, layer_bias, scale, bias, stats, epsilon=EPSILON
    )
    np.testing.assert_allclose(
      x @ folded + shift, expected, rtol=1e-5, atol=1e-5
    )
    unfolded = normalized(x @ kernel + layer_bias, scale, bias, stats)
    self.assertGreater(np.abs(unfolded - expected).max(), 1e-2)

  def test_in_the_products_rounds_as_the_layer_does(self):
    x, kernel, (scale, bias, stats) = self.data()
    x[:, 0] = 1e6
    kernel[0] = stats.mean / np.float32(1e6)
    y = np.float64(x) @ np.float64(kernel)
    expected = normalized(y, scale, bias, stats)
    unfolded = normalized(x @ kernel, scale, bias, stats)
    folded, shift = fold(kernel, None, scale, bias, stats, epsilon=EPSILON)
    error = np.abs(x @ folded + shift - expected).max()
    self.assertLess(error, 4 * np.abs(unfolded - expected).max())


class ErrorsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("axis", {"axis": 0}, ValueError,
     r"layer_bias must have shape \(4,\), the size of axis=0.*got \(6,\)"),
    ("axis_out_of_range", {"axis": 2}, ValueError, "axis=2 is out of range"),
    ("scale", {"scale": numbers(4)}, ValueError, r"scale must have shape"),
    ("stats", {"stats": normjax.BatchStats(numbers(4), numbers(4))}, ValueError,
     r"stats.mean must have shape \(6,\).*PyTorch"),
    ("no_stats", {"stats": None}, TypeError, "in evaluation, got stats=None"),
    ("pair", {"stats": (numbers(6), numbers(6))}, TypeError, "got tuple"),
    ("integers", {"kernel": np.ones((4, 6), np.int8)}, TypeError,
     "kernel must be a floating array, got int8"),
    ("integer_bias", {"layer_bias": np.ones(6, np.int32)}, TypeError,
     "layer_bias must be a floating array, got int32"),
    ("epsilon", {"epsilon": 0.0}, ValueError, "positive, got 0"),
    ("eps", {"eps": 1e-3}, TypeError, "epsilon"),
  )  # fmt: skip
  def test_wrong_calls(self, changed, error, message):
    scale, bias, stats = norm()
    given = {
      "kernel": numbers(4, 6), "layer_bias": numbers(6), "scale": scale,
      "bias": bias, "stats": stats,
    }  # fmt: skip
    with self.assertRaisesRegex(error, message):
      normjax.fold_batch_norm(**given | changed)
