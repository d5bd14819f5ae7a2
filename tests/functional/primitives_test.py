"""The primitives: what kernels compute is what the formulas say."""

import re
import unittest
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax import export

import normjax
from normjax.functional import formulas, kernels, primitives
from normjax.functional.formulas import Norm
from normjax.functional.groups import Groups
from normjax.native import library
from tests import reference

# Name, shape of x, norm.
LAYOUTS = (
  ("rows", (6, 5, 48), Norm(Groups((2,)), (2,))),
  ("all_but_batch", (6, 5, 48), Norm(Groups((1, 2)), (1, 2))),
  ("shared_features", (4, 6, 6, 8), Norm(Groups((1, 2, 3)), (3,))),
  ("root_mean_square", (40, 96), Norm(Groups((1,)), (1,), centered=False)),
  ("gain_from_one", (40, 96), Norm(Groups((1,)), (1,), scale_offset=1.0)),
  ("batch", (50, 24), Norm(Groups((0,)), (1,))),
  ("batch_of_images", (5, 7, 7, 8), Norm(Groups((0, 1, 2)), (3,))),
  ("group", (3, 6, 6, 12), Norm(Groups((1, 2), 3, 4), (3,))),
  ("group_channels_first", (3, 12, 6, 6), Norm(Groups((2, 3), 1, 4), (1,))),
  ("group_of_vectors", (9, 12), Norm(Groups((), 1, 4), (1,))),
  ("instance", (3, 6, 6, 12), Norm(Groups((1, 2)), (3,))),
  ("instance_channels_first", (3, 12, 6, 6), Norm(Groups((2, 3)), (1,))),
)
MAPPED = ("rows", "batch", "group_channels_first")
NO_LAYOUT = (
  ("batch_channels_first", (5, 8, 7, 7), Norm(Groups((0, 2, 3)), (1,))),
  ("groups_of_apart_axes", (3, 5, 6, 12), Norm(Groups((1,), 3, 4), (3,))),
  ("other_features", (4, 6, 5), Norm(Groups((1,)), (1,))),
)
needs_kernels = unittest.skipUnless(
  library.load(), "the native kernels are not built"
)


def arguments(shape, norm, dtype=np.float32, mean=3.0):
  random = np.random.default_rng(0)
  normal = lambda shape: jnp.asarray(random.standard_normal(shape), dtype)
  features = tuple(shape[axis] for axis in norm.features)
  x, dy = mean + normal(shape), normal(shape)
  scale, bias = normal(features), normal(features)
  return x, scale, bias, dy


def by_formula(x, scale, bias, dy, norm):
  def apply(x, scale, bias):
    return formulas.normalize(x, scale, bias, None, None, norm)

  y, stats = apply(x, scale, bias)
  push = lambda *tangents: formulas.pushforward(
    x, scale, None, None, stats, *tangents, None, norm
  )[0]
  pulled = jax.linear_transpose(push, x, scale, bias)(dy)
  return y, stats, pulled


def by_primitive(x, scale, bias, dy, norm):
  y, stats = primitives.bind_normalize(x, scale, bias, norm)
  push = lambda *tangents: primitives.bind_pushforward(
    x, scale, stats, *tangents, norm
  )[0]
  pulled = jax.linear_transpose(push, x, scale, bias)(dy)
  return y, stats, pulled


compiled_formula = jax.jit(by_formula, static_argnums=4)
compiled_primitive = jax.jit(by_primitive, static_argnums=4)


def lowered(function, *args, platform="cpu"):
  traced = jax.jit(function).trace(*args)
  return traced.lower(lowering_platforms=(platform,)).as_text()


def gradient(x):
  return jax.grad(lambda x: jnp.sum(jnp.sin(normjax.layer_norm(x))))(x)


@needs_kernels
class KernelsTest(parameterized.TestCase):
  @parameterized.named_parameters(*LAYOUTS)
  def test_agrees_with_formulas(self, shape, norm):
    self.assertIsNotNone(kernels.layout(shape, norm))
    given = arguments(shape, norm)
    results = compiled_primitive(*given, norm)
    expected = compiled_formula(*given, norm)
    chex.assert_trees_all_equal_shapes_and_dtypes(results, expected)
    chex.assert_trees_all_close(results, expected, rtol=2e-5, atol=2e-5)

  @parameterized.product(
    dtype=(jnp.bfloat16, jnp.float16), layout=(LAYOUTS[0], LAYOUTS[7])
  )
  def test_half_precision(self, dtype, layout):
    _, shape, norm = layout
    given = arguments(shape, norm, dtype)
    results = compiled_primitive(*given, norm)
    expected = compiled_formula(*given, norm)
    chex.assert_trees_all_equal_dtypes(results, expected)
    rounding = float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(
      *(
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)
        for tree in (results, expected)
      ),
      rtol=rounding,
      atol=rounding,
    )

  @parameterized.named_parameters(
    *(layout for layout in LAYOUTS if layout[0] in MAPPED)
  )
  def test_mapped(self, shape, norm):
    """Over x alone, over parameters alone, and over cotangents alone."""
    given = arguments(shape, norm)
    stacked = tuple(jnp.stack((leaf, 2 - leaf)) for leaf in given)
    for axes in ((0, None, None, 0), (None, 0, 0, None), (None,) * 3 + (0,)):
      with self.subTest(axes=axes):
        mapped = [
          many if axis == 0 else one
          for one, many, axis in zip(given, stacked, axes, strict=True)
        ]
        compute = lambda *given: by_primitive(*given, norm)
        results = jax.jit(jax.vmap(compute, in_axes=axes))(*mapped)
        for i in range(2):
          single = [
            many[i] if axis == 0 else one
            for one, many, axis in zip(given, stacked, axes, strict=True)
          ]
          chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], results),
            compiled_formula(*single, norm),
            rtol=2e-5,
            atol=2e-5,
          )

  @parameterized.parameters(0.0, 1e4, 1e6)
  def test_exact(self, mean):
    x = np.random.default_rng(0).standard_normal((64, 1000)) + mean
    x = x.astype(np.float32)
    x[1, 500] = mean + 1e3  # An outlier in the middle,
    x[2, 0] = x[3, -1] = mean - 1e3  # and at the ends.
    norm = Norm(Groups((1,)))
    y, _ = jax.jit(lambda x: primitives.bind_normalize(x, None, None, norm))(x)
    error = reference.scaled_error(y, reference.layer_norm(x).y)
    self.assertLessEqual(error, 2e-6)


class LoweringTest(parameterized.TestCase):
  x = np.zeros((8, 16), np.float32)

  @needs_kernels
  def test_kernels_on_cpu_only(self):
    for platform, used in (("cpu", True), ("tpu", False), ("cuda", False)):
      with self.subTest(platform):
        program = lowered(gradient, self.x, platform=platform)
        for target in library.TARGETS:
          self.assertEqual(f"@{target}" in program, used)

  @needs_kernels
  def test_not_for_sharded_arrays(self):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("devices",))
    sharding = jax.NamedSharding(mesh, jax.P("devices"))
    x = jax.device_put(self.x, sharding)
    program = jax.jit(gradient).lower(x).as_text()
    self.assertNotIn("@normjax", program)
    self.assertEqual(gradient(x).sharding, sharding)

  @needs_kernels
  def test_not_in_exported_programs(self):
    exported = export.export(jax.jit(gradient))(self.x)
    self.assertNotIn("@normjax_", exported.mlir_module())
    x = np.random.default_rng(0).standard_normal((8, 16), np.float32)
    chex.assert_trees_all_close(exported.call(x), gradient(x), atol=1e-6)

  @parameterized.named_parameters(
    ("mask", lambda x: normjax.layer_norm(x, mask=x > 0)),
    ("double", lambda x: normjax.layer_norm(x.astype(complex))),
    ("outside", lambda x: normjax.layer_norm(x, epsilon_outside_sqrt=True)),
    ("sample_variance", lambda x: normjax.layer_norm(x, ddof=1)),
    (
      "axis_name",
      jax.vmap(lambda x: normjax.layer_norm(x, axis_name="i"), axis_name="i"),
    ),
  )
  def test_formulas_where_kernels_do_not_reach(self, function):
    self.assertNotIn("@normjax", lowered(function, self.x))

  @parameterized.named_parameters(*NO_LAYOUT)
  def test_no_layout(self, shape, norm):
    self.assertIsNone(kernels.layout(shape, norm))

  def test_without_kernels(self):
    with mock.patch.object(library, "load", lambda: False):
      program = lowered(lambda x: gradient(x + 1), self.x[:, :3])
    self.assertNotIn("@normjax", program)

  @needs_kernels
  def test_keeps_nothing_of_the_size_of_x_but_x(self):
    x = jnp.ones((512, 256))
    _, vjp = jax.vjp(normjax.layer_norm, x, jnp.ones(256), jnp.ones(256))
    large = [leaf for leaf in jax.tree.leaves(vjp) if leaf.size >= x.size]
    self.assertLen(large, 1)
    self.assertIs(large[0], x)

  @needs_kernels
  def test_one_kernel_each_way(self):
    program = lowered(gradient, self.x)
    calls = re.findall(r"@(normjax_\w+)\(", program)
    self.assertEqual(calls, list(library.TARGETS))


class RowsOnGpuTest(parameterized.TestCase):
  """What a GPU computes where no derivative follows, on whatever is here."""

  @parameterized.product(
    size=(1, 2, 5, 768, 1000), mean=(0.0, 1e2, 1e4, 1e6), outlier=(0.0, 1e5)
  )
  def test_exact(self, size, mean, outlier):
    random = np.random.default_rng(0)
    x = mean + random.standard_normal((4, size))
    x[:, 0] += outlier
    x = x.astype(np.float32)
    scale, bias = random.standard_normal((2, size)).astype(np.float32)
    y, stats = formulas.normalize_rows(x, scale, bias, Norm(Groups((1,)), (1,)))
    expected = reference.layer_norm(x, scale, bias)
    tolerance = 2e-6 * max(1, np.abs(scale).max())
    self.assertLessEqual(reference.scaled_error(y, expected.y), tolerance)
    np.testing.assert_allclose(stats.mean, x.mean(1, np.float64)[:, None],
                               rtol=1e-6, atol=1e-6)  # fmt: skip

  @parameterized.parameters(1e-25, 1e25, 3.3e38)
  def test_any_magnitude(self, magnitude):
    x = np.where(np.arange(1000) % 2, magnitude, -magnitude)[None]
    norm = Norm(Groups((1,)), (1,))
    x = x.astype(np.float32)
    y, _ = formulas.normalize_rows(x, None, None, norm)
    expected, _ = formulas.normalize(x, None, None, None, None, norm)
    chex.assert_trees_all_close(y, expected, rtol=1e-5)

  @parameterized.parameters(0.1, 1 / 3, 1e6 / 7, 1e30)
  def test_constant_rows_are_zero(self, value):
    x = np.full((2, 1000), value, np.float32)
    y, _ = formulas.normalize_rows(x, None, None, Norm(Groups((1,))))
    np.testing.assert_array_equal(y, 0)

  def test_only_without_derivatives(self):
    """Where y has sums of its own, there are twice as many."""

    def sums(function, platform):
      x = np.ones((8, 16), np.float32)
      program = lowered(function, x, platform=platform)
      return len(re.findall(r"stablehlo\.reduce\(", program))

    self.assertEqual(sums(normjax.layer_norm, "tpu"), 3)
    self.assertEqual(sums(normjax.layer_norm, "cuda"), 6)
    self.assertEqual(sums(gradient, "cuda"), sums(gradient, "tpu"))
