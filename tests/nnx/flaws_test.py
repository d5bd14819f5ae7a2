"""Where modules of `flax.nnx` are wrong, and these are right.

Each test shows both, so that we notice when Flax is mended: `FlaxIsWrong` then
fails, and the sentences about Flax in our docstrings and pages are to be
changed.
"""

import contextlib

import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from flax import nnx

import normjax.nnx
from tests.nnx.modules import gradients, pure


@contextlib.contextmanager
def flax_is_wrong():
  """Passes if assertions about Flax fail in it."""
  try:
    yield
  except AssertionError:
    return
  raise AssertionError("flax.nnx is right now: mend what we say about it")


def normal(*shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return values.astype(np.float32)


def make(library, kind, features=6, train=True, **options):
  if kind == "BatchNorm":
    options["use_running_average"] = not train
  return getattr(library, kind)(features, rngs=nnx.Rngs(0), **options)


def standardized(x, axes, epsilon=1e-6):
  """Returns the reference, in float64."""
  x = np.float64(x)
  mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
  return (x - mean) / np.sqrt(var + epsilon)


def close(y, expected, atol):
  np.testing.assert_allclose(np.float64(y), expected, atol=atol)


class ReductionTest(parameterized.TestCase):
  @parameterized.parameters(
    ((-1,), (2, 2, 6), (3,)), ((2, -1), (2, 3, 4, 6), (2, 4))
  )
  def test_groups_of_some_positions(self, axes, shape, reduced):
    """Flax repeats the statistics along the axis after the batch."""
    x = normal(*shape) * np.arange(1, shape[1] + 1).reshape(
      1, -1, *[1] * (len(shape) - 2)
    )
    options = {"num_groups": 2, "reduction_axes": axes}
    grouped = x.reshape(*shape[:-1], 2, 3)
    axis = (len(shape),) if len(axes) == 1 else (2, len(shape))
    expected = standardized(grouped, axis).reshape(shape)
    close(make(normjax.nnx, "GroupNorm", **options)(x), expected, 1e-5)
    with flax_is_wrong():
      try:
        y = make(flax.nnx, "GroupNorm", **options)(x)
      except (TypeError, ValueError) as error:
        raise AssertionError from error
      close(y, expected, 1e-1)


class PrecisionTest(parameterized.TestCase):
  def test_statistics_are_those_of_the_input(self):
    """Flax rounds to bfloat16 first, where 100 +- 0.01 is constant."""
    x = 100 + 0.01 * normal(8, 64)
    options = {"features": 64, "dtype": jnp.bfloat16}
    expected = standardized(x, (1,))
    close(make(normjax.nnx, "LayerNorm", **options)(x), expected, 2e-2)
    # Flax needs dtypes to be promoted, since it mixes them.
    with flax_is_wrong(), jax.numpy_dtype_promotion("standard"):
      y = make(flax.nnx, "LayerNorm", use_fast_variance=False, **options)(x)
      close(y, expected, 0.5)

  def test_large_variances_in_half_precision(self):
    """Above 65504, they are infinite in float16."""
    x = 300 * normal(8, 6)
    expected = x / np.sqrt(9e4 + 1e-5)

    def run(library):
      norm = make(library, "BatchNorm", train=False, dtype=jnp.float16)
      norm.var.set_value(jnp.full(6, 9e4))
      with jax.numpy_dtype_promotion("standard"):
        return norm(x)

    close(run(normjax.nnx), expected, 3e-3)
    np.testing.assert_array_equal(run(flax.nnx), 0)

  @parameterized.parameters("LayerNorm", "BatchNorm", "GroupNorm")
  def test_large_means(self, kind):
    """Flax's default subtracts squares of means from means of squares."""
    x = 1e4 + normal(16, 8, 6, seed=1)
    options = {"num_groups": 2} if kind == "GroupNorm" else {}
    axes = {"LayerNorm": (2,), "BatchNorm": (0, 1), "GroupNorm": (1, 3)}[kind]
    grouped = x.reshape(16, 8, 2, 3) if kind == "GroupNorm" else x
    expected = standardized(grouped, axes, 1e-5).reshape(x.shape)
    close(make(normjax.nnx, kind, **options)(x), expected, 3e-3)
    with flax_is_wrong():
      close(make(flax.nnx, kind, **options)(x), expected, 0.1)

  @parameterized.parameters("bfloat16", "float16")
  def test_statistics_stay_float32(self, dtype):
    x = jnp.asarray(3 + normal(64, 6), dtype)
    norm = make(normjax.nnx, "BatchNorm", momentum=0.0, param_dtype=dtype,
                dtype=dtype)  # fmt: skip
    y = norm(x)
    self.assertEqual(y.dtype, dtype)
    mean, var = norm.mean.get_value(), norm.var.get_value()
    self.assertEqual((mean.dtype, var.dtype), ("float32", "float32"))
    np.testing.assert_allclose(mean, np.float64(x).mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, np.float64(x).var(0), rtol=1e-5)

  def test_training_of_statistics_cast_to_half_precision(self):
    """They keep their dtype, so that a scan can carry them."""
    norm = make(normjax.nnx, "BatchNorm", momentum=0.0)
    for variable in norm.mean, norm.var:
      variable.set_value(variable.get_value().astype(jnp.bfloat16))
    norm(3 + normal(64, 6))
    self.assertEqual(norm.mean.get_value().dtype, jnp.bfloat16)
    np.testing.assert_allclose(
      np.float32(norm.mean.get_value()), (3 + normal(64, 6)).mean(0), rtol=1e-2
    )


class MaskTest(parameterized.TestCase):
  @parameterized.product(
    kind=("LayerNorm", "RMSNorm", "BatchNorm"), bad=(np.nan, np.inf)
  )
  def test_nothing_behind_the_mask_is_seen(self, kind, bad):
    """Neither by outputs, nor by gradients, nor by statistics."""
    x = normal(8, 6)
    mask = np.random.default_rng(2).random((8, 6)) < 0.7

    def run(library, x):
      norm = make(library, kind)
      (_, y), grads = gradients(norm, jnp.asarray(x), mask)
      return jax.tree.leaves((y, pure(grads[0]), grads[1], pure(norm)))

    hidden = np.where(mask, x, bad)
    for actual, wanted in zip(
      run(normjax.nnx, hidden), run(normjax.nnx, x), strict=True
    ):
      np.testing.assert_array_equal(actual, wanted)
    with flax_is_wrong():
      for leaf in run(flax.nnx, hidden):
        self.assertTrue(np.isfinite(leaf).all())

  @parameterized.parameters("LayerNorm", "BatchNorm", "InstanceNorm")
  def test_masked_places_come_out_as_bias(self, kind):
    x, mask = normal(4, 5, 6), np.random.default_rng(2).random((4, 5, 6)) < 0.7

    def run(library):
      norm = make(library, kind, bias_init=jax.nn.initializers.constant(0.25))
      return np.asarray(norm(x, mask=mask))

    np.testing.assert_array_equal(run(normjax.nnx)[~mask], 0.25)
    with flax_is_wrong():
      np.testing.assert_array_equal(run(flax.nnx)[~mask], 0.25)

  def test_masked_groups_against_float64(self):
    x, mask = normal(4, 5, 6), np.random.default_rng(2).random((4, 5, 6)) < 0.7
    y = make(normjax.nnx, "GroupNorm", num_groups=2)(x, mask=mask)
    values = np.ma.array(np.float64(x), mask=~mask).reshape(4, 5, 2, 3)
    mean = values.mean((1, 3), keepdims=True)
    var = (np.abs(values - mean) ** 2).mean((1, 3), keepdims=True)
    expected = ((values - mean) / np.ma.sqrt(var + 1e-6)).reshape(x.shape)
    close(y, expected.filled(0), 1e-5)

  def test_masks_of_groups_broadcast(self):
    x, mask = normal(4, 5, 6), np.arange(5)[:, None] < 3
    norm = make(normjax.nnx, "GroupNorm", num_groups=2)
    y = norm(x, mask=mask[None])
    close(y[:, :3], norm(x[:, :3]), 1e-6)
    np.testing.assert_array_equal(y[:, 3:], 0)
    with self.assertRaisesRegex((TypeError, ValueError), "cannot reshape"):
      make(flax.nnx, "GroupNorm", num_groups=2)(x, mask=mask[None])

  def test_a_mask_of_nothing_moves_no_statistic(self):
    norm = make(normjax.nnx, "BatchNorm")
    y = norm(normal(4, 6), mask=np.zeros((4, 6), bool))
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(norm.mean.get_value(), 0)
    np.testing.assert_array_equal(norm.var.get_value(), 1)


class RefusedTest(parameterized.TestCase):
  @parameterized.parameters(
    ("BatchNorm", {}, (1, 6), "one value per channel"),
    ("InstanceNorm", {}, (4, 6), "at least one spatial axis"),
    ("GroupNorm", {"num_groups": 6}, (4, 6), "one element per group"),
    ("LayerNorm", {"reduction_axes": ()}, (4, 6), "reduction_axes is empty"),
    ("LayerNorm", {"reduction_axes": (1, -1)}, (4, 6), "an axis twice"),
    ("LayerNorm", {"epsilon": 0}, (4, 6), "must be positive, got 0"),
    ("LayerNorm", {"epsilon": 768}, (4, 6), "epsilon=768 is an integer"),
    ("BatchNorm", {"momentum": 1.5}, (4, 6), "between 0 and 1, got 1.5"),
  )
  def test_here_but_not_in_flax(self, kind, options, shape, message):
    x = normal(*shape)
    make(flax.nnx, kind, **options)(x)
    with self.assertRaisesRegex(ValueError, message):
      make(normjax.nnx, kind, **options)(x)

  def test_one_value_per_channel_evaluates(self):
    norm = make(normjax.nnx, "BatchNorm")
    with self.assertRaisesRegex(ValueError, "one value per channel.*larger"):
      norm(normal(1, 6))
    np.testing.assert_array_equal(norm.mean.get_value(), 0)
    norm.eval()
    self.assertEqual(norm(normal(1, 6)).shape, (1, 6))
