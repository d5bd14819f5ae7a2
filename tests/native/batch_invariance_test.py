"""An example's results have the same bits alone and in any batch."""

import functools
import unittest

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from tests.native.kernels_test import setUpModule  # noqa: F401

SIZES = (1, 2, 7, 20, 64, 256, 4096)
WIDTHS = (
  1, 3, 17, 64, 130, 1000, 2047, 4096, 5000, 16384, 40000, 200000, 1000000,
)  # fmt: skip
DTYPES = {
  "float32": np.float32,
  "bfloat16": jnp.bfloat16,
  "float16": np.float16,
}
# Height, width, channels.
IMAGES = (
  (1, 1, 8),
  (3, 5, 6),
  (7, 7, 48),
  (5, 9, 130),
  (16, 16, 64),
  (28, 28, 36),
  (64, 60, 32),
  (120, 120, 80),
)


@functools.cache
def normal(shape):
  return np.random.default_rng(0).standard_normal(shape, np.float32)


class BatchInvarianceTest(parameterized.TestCase):
  def check(self, function, shape, parameter_shape=None, dtype=np.float32):
    """Compares y and dx of some examples with those of the same among many.

    Args:
      function: A norm, called with x and parameters.
      shape: Of an example.
      parameter_shape: Of scale and bias; None for none.
      dtype: Of x.
    """
    limit = max(3, (1 << 20) // int(np.prod(shape)))
    sizes = sorted({min(size, limit) for size in SIZES})
    x = (3 + normal((sizes[-1], *shape))).astype(dtype)
    dy = normal((sizes[-1], *shape)[::-1]).reshape(x.shape).astype(dtype)
    parameters = (
      () if parameter_shape is None else (1 + normal(parameter_shape),)
    )

    @jax.jit
    def run(x, dy):
      y, pull = jax.vjp(lambda x: function(x, *parameters), x)
      return y, *pull(dy)

    program = run.lower(x, dy).as_text()
    self.assertIn("normjax_normalize", program)
    self.assertIn("normjax_pullback", program)
    among_many = run(x, dy)
    for size in sizes[:-1]:
      for start in {0, 1, sizes[-1] // 2, sizes[-1] - size}:
        some = slice(start, start + size)
        if start + size > sizes[-1]:
          continue
        for name, many, few in zip(
          ("y", "dx"), among_many, run(x[some], dy[some]), strict=True
        ):
          np.testing.assert_array_equal(
            np.asarray(many)[some],
            np.asarray(few),
            f"{name} of {size} of {sizes[-1]} from {start} on",
          )

  @parameterized.product(width=WIDTHS, dtype=tuple(DTYPES))
  def test_layer_norm(self, width, dtype):
    self.check(normjax.layer_norm, (width,), (width,), DTYPES[dtype])

  @parameterized.product(
    width=WIDTHS, function=(normjax.layer_norm, normjax.rms_norm)
  )
  def test_without_parameters(self, width, function):
    self.check(function, (width,))

  @parameterized.product(
    shape=((4, 3), (16, 70), (90, 33), (300, 200), (3, 50000)),
    feature_axes=(1, 2, (1, 2)),
  )
  def test_layer_norm_over_two_axes(self, shape, feature_axes):
    function = functools.partial(
      normjax.layer_norm, reduction_axes=(1, 2), feature_axes=feature_axes
    )
    axes = np.atleast_1d(feature_axes) - 1
    self.check(function, shape, tuple(shape[axis] for axis in axes))

  @parameterized.product(
    image=IMAGES, dtype=tuple(DTYPES), channels_first=(0, 1)
  )
  def test_group_norm(self, image, dtype, channels_first):
    height, width, channels = image
    axis = 1 if channels_first else 3
    shape = (channels, height, width) if channels_first else image
    function = functools.partial(
      normjax.group_norm, num_groups=2, channel_axis=axis
    )
    self.check(function, shape, (channels,), DTYPES[dtype])

  # A single pixel is refused.
  @parameterized.product(image=IMAGES[1:], channels_first=(0, 1))
  def test_instance_norm(self, image, channels_first):
    height, width, channels = image
    axis = 1 if channels_first else 3
    shape = (channels, height, width) if channels_first else image
    function = functools.partial(normjax.instance_norm, channel_axis=axis)
    self.check(function, shape)

  def test_rms_norm_along_columns(self):
    function = functools.partial(
      normjax.rms_norm, reduction_axes=1, feature_axes=2
    )
    self.check(function, (900, 40), (40,))


if __name__ == "__main__":
  unittest.main()
