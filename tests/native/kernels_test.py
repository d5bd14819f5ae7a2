"""The kernels against float64, layout by layout."""

import concurrent.futures
import copy
import os
import shutil
import tempfile
import unittest
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from normjax.native import library

EPSILON = 1e-6


def setUpModule():
  if library.load():
    return
  if os.environ.get("NORMJAX_NATIVE") == "0":
    raise unittest.SkipTest("NORMJAX_NATIVE=0 keeps the kernels off")
  if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")):
    raise unittest.SkipTest("there is no C++ compiler")
  folder = tempfile.mkdtemp()
  unittest.addModuleCleanup(shutil.rmtree, folder)
  os.environ["NORMJAX_CACHE_DIR"] = folder
  unittest.addModuleCleanup(os.environ.pop, "NORMJAX_CACHE_DIR")
  library.build(library.cache_folder())
  library.find.cache_clear()
  library._provide.cache_clear()
  assert library.load()


class Layout(NamedTuple):
  """What kernels are told; see kernels.cc."""

  outer: int
  reduced: int
  inner: int = 1
  features: int = 1
  repeat: int = 1
  groups: int = 1

  @property
  def size(self):
    return self.outer * self.reduced * self.inner


LAYOUTS = (
  ("rows", Layout(66, 130, features=130)),
  ("long_rows", Layout(5, 4099, features=4099)),
  ("rows_of_segments", Layout(7, 96, features=32)),
  ("rows_of_odd_segments", Layout(7, 130, features=13)),
  ("one_parameter", Layout(6, 70)),
  ("parameters_for_several_rows", Layout(12, 5, features=15)),
  ("images_of_rows", Layout(8, 128, features=4, repeat=64)),
  ("small_images_of_rows", Layout(6, 33, features=11, repeat=3)),
  ("groups_of_small_images", Layout(8, 36, features=16, repeat=9)),
  ("one_image_a_row", Layout(6, 100, features=3, repeat=100)),
  ("one_parameter_for_two_rows", Layout(12, 33, features=3, repeat=66)),
  ("columns", Layout(1, 50, inner=24, features=24, groups=24)),
  ("few_columns", Layout(1, 999, inner=3, features=3, groups=3)),
  ("many_columns", Layout(1, 9, inner=2001, features=2001, groups=2001)),
  ("images_of_columns", Layout(5, 49, inner=24, features=24, groups=24)),
  ("groups_of_columns", Layout(5, 49, inner=24, features=24, groups=4)),
  ("one_group_of_columns", Layout(5, 49, inner=24, features=24, groups=1)),
)
# Large enough to be worked on in parts, of either kind.
SPLIT_LAYOUTS = (
  ("rows", Layout(1030, 129, features=129)),
  ("rows_of_segments", Layout(520, 256, features=64)),
  ("images_of_rows", Layout(520, 256, features=4, repeat=64)),
  ("one_row", Layout(1, 131075)),
  ("three_rows", Layout(3, 50000, features=50000)),
  ("three_rows_of_segments", Layout(3, 50000, features=100)),
  ("three_images", Layout(3, 50000, features=50, repeat=1000)),
  ("parameters_for_all", Layout(3, 50000, features=150000)),
  ("columns", Layout(1, 3001, inner=64, features=64, groups=64)),
  ("few_columns", Layout(1, 50001, inner=3, features=3, groups=1)),
  ("two_images_of_columns", Layout(2, 1501, inner=64, features=64, groups=8)),
  ("images_of_columns", Layout(33, 98, inner=64, features=64, groups=32)),
)
VARIANTS = {
  "float32": {},
  "bfloat16": {"dtype": jnp.bfloat16},
  "float16": {"dtype": jnp.float16},
  "plain": {"gain": False, "bias": False},
  "gain_alone": {"bias": False},
  "bias_alone": {"gain": False},
  "root_mean_square": {"centered": False},
  "large_mean": {"mean": 1e6},
}


class Case:
  """Arguments for a layout, and what comes out of them in float64."""

  def __init__(
    self, layout, x=None, *, dtype=jnp.float32, gain=True, bias=True,
    centered=True, mean=0.0,
  ):  # fmt: skip
    random = np.random.default_rng(0)
    normal = lambda size: random.standard_normal(size).astype(np.float32)
    self.layout, self.centered = layout, centered
    x = mean + normal(layout.size) if x is None else x
    self.x = jnp.asarray(x, jnp.float32).astype(dtype)
    self.dy = jnp.asarray(normal(layout.size)).astype(dtype)
    self.gain = normal(layout.features) if gain else np.zeros(0, np.float32)
    self.bias = normal(layout.features) if bias else np.zeros(0, np.float32)

  def _call(self, name, results, *arguments):
    attributes = {k: np.int64(v) for k, v in self.layout._asdict().items()}
    call = jax.ffi.ffi_call(
      name, [jax.ShapeDtypeStruct((size,), dtype) for size, dtype in results]
    )
    return call(
      *arguments,
      **attributes,
      epsilon=np.float32(EPSILON),
      centered=self.centered,
    )

  def normalize(self):
    statistic = (self.layout.outer * self.layout.inner, jnp.float32)
    results = (self.x.size, self.x.dtype), statistic, statistic, statistic
    return self._call(
      "normjax_normalize", results, self.x, self.gain, self.bias
    )

  def pullback(self, *statistics):
    results = (
      (self.x.size, self.x.dtype),
      (self.gain.size, jnp.float32),
      (self.bias.size, jnp.float32),
    )
    return self._call(
      "normjax_pullback", results, self.x, self.dy, self.gain, *statistics
    )

  def check(self):
    """Compares everything that the kernels return."""
    y, mean, tail, m2 = self.normalize()
    dx, d_gain, d_bias = self.pullback(mean, tail, m2)
    assert y.dtype == dx.dtype == self.x.dtype

    outer, reduced, inner, features, repeat, groups = self.layout
    groups = groups if inner > 1 else 1
    shape = (outer, reduced, groups, inner // groups)
    average = lambda v: np.mean(v, (1, 3), keepdims=True)
    place = np.arange(self.x.size) // repeat % features
    per_element = lambda v, missing: (
      np.float64(v)[place].reshape(shape) if v.size else missing
    )
    x, dy = (np.float64(v).reshape(shape) for v in (self.x, self.dy))
    gain, bias = per_element(self.gain, 1.0), per_element(self.bias, 0.0)
    center = average(x) * self.centered
    c = x - center
    r = 1 / np.sqrt(average(c * c) + EPSILON)
    g = dy * gain
    expected_dx = r * (
      g - average(g) * self.centered - c * r**2 * average(g * c)
    )
    h = dy * c * r
    count = reduced * inner // groups
    per_statistic = lambda v: np.broadcast_to(
      v, (outer, 1, groups, inner // groups)
    ).ravel()
    per_feature = lambda v: np.bincount(place, v.ravel(), features)

    half = self.x.dtype != jnp.float32
    info = jnp.finfo(self.x.dtype)
    unit, smallest = float(info.eps), float(info.smallest_subnormal)
    rounding = lambda v: half * np.maximum(unit * np.abs(v), smallest) / 2
    y, dx = (np.float64(v).reshape(shape) for v in (y, dx))
    expected_y = c * r * gain + bias
    size = np.maximum(1, np.abs(gain)) + np.abs(expected_y)
    self._close("y", y, expected_y, 2e-6 * size + rounding(expected_y))
    size = r * np.abs(g).max((1, 3), keepdims=True) * (1 + np.abs(c * r))
    self._close("dx", dx, expected_dx, 2e-6 * size + rounding(expected_dx))
    deviation = per_statistic(1 / r)
    self._close(
      "mean",
      np.float64(mean) + np.float64(tail),
      per_statistic(center),
      1e-6 * deviation,
    )
    self._close(
      "m2",
      np.float64(m2),
      per_statistic(average(c * c) * count),
      1e-6 * count * deviation**2,
    )
    for name, value, terms in (("gain", d_gain, h), ("bias", d_bias, dy)):
      if value.size:
        tolerance = 1e-6 * (per_feature(np.abs(terms)) + 1)
        self._close(f"d_{name}", value, per_feature(terms), tolerance)

  def _close(self, name, actual, expected, tolerance):
    excess = np.max(np.abs(actual - expected) / tolerance)
    assert excess <= 1, f"{name} is off by {excess:.3g} of what is allowed."


def group_of_each(layout):
  """Returns the number of every element's group."""
  index = np.arange(layout.size)
  unit = layout.reduced * layout.inner
  if layout.inner == 1:
    return index // unit
  width = layout.inner // layout.groups
  return index // unit * layout.groups + index % layout.inner // width


class KernelsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    (f"{name}_{variant}", layout, options)
    for name, layout in LAYOUTS
    for variant, options in VARIANTS.items()
  )
  def test_agrees_with_float64(self, layout, options):
    Case(layout, **options).check()

  @parameterized.named_parameters(
    (f"{name}_{variant}", layout, VARIANTS[variant])
    for name, layout in SPLIT_LAYOUTS
    for variant in ("bfloat16", "large_mean")
  )
  def test_agrees_with_float64_in_parts(self, layout, options):
    Case(layout, **options).check()

  @parameterized.product(
    size=(1, 2, 3, 15, 17, 64, 100, 1023, 1025, 2049, 65536),
    columns=(False, True),
  )
  def test_any_size(self, size, columns):
    rows = Layout(5, size, features=size)
    lanes = Layout(2, size, inner=5, features=5, groups=5)
    Case(lanes if columns else rows, mean=1e5).check()

  @parameterized.product(
    layout=(
      Layout(4, 3000),
      Layout(1, 200000),
      Layout(1, 3000, inner=4, features=4, groups=4),
      Layout(1, 50000, inner=4, features=4, groups=2),
    ),
    position=(0, -1),
  )
  def test_outlier_in_any_position(self, layout, position):
    x = np.random.default_rng(1).standard_normal(layout.size)
    shape = layout.outer, layout.reduced, layout.inner
    x.reshape(shape)[:, position] = 1e6
    Case(layout, x).check()

  def test_groups_whose_channels_are_far_apart(self):
    layout = Layout(3, 400, inner=8, features=8, groups=2)
    x = np.random.default_rng(1).standard_normal((1200, 8))
    Case(layout, x + 1e5 * np.arange(8)).check()

  @parameterized.parameters(
    (Layout(3, 1000, features=1000),),
    (Layout(1, 200000),),
    (Layout(3, 70, inner=7, features=7, groups=7),),
    (Layout(1, 40000, inner=7, features=7, groups=7),),
  )
  def test_constant_is_bias_exactly(self, layout):
    for value in (1234567.1, 3e38):  # The second: sums of it overflow.
      case = Case(layout, np.full(layout.size, value))
      y, _, _, m2 = case.normalize()
      repeats = layout.size // layout.features
      np.testing.assert_array_equal(y, np.tile(case.bias, repeats))
      np.testing.assert_array_equal(m2, 0)

  @parameterized.product(
    layout=(
      Layout(9, 40, features=40),
      Layout(1030, 129, features=129),
      Layout(9, 200, features=2, repeat=100),
      Layout(3, 40, inner=6, features=6, groups=6),
      Layout(1, 40000, inner=6, features=6, groups=3),
    ),
    value=(np.nan, np.inf, -np.inf),
    centered=(True, False),
  )
  def test_what_is_not_finite_makes_its_own_group_nan(
    self, layout, value, centered
  ):
    case = Case(layout, centered=centered)
    place = layout.size // 2
    case.x = case.x.at[place].set(value)
    statistics = case.normalize()
    dx, *_ = case.pullback(*statistics[1:])
    groups = group_of_each(layout)
    same = groups == groups[place]
    np.testing.assert_array_equal(np.isnan(statistics[0]), same)
    np.testing.assert_array_equal(np.isnan(dx), same)

  @parameterized.product(
    layout=(
      Layout(9, 40, features=40),
      Layout(8, 130, features=130),
      Layout(4, 50000, features=50000),
      Layout(8, 200, features=2, repeat=100),
      Layout(8, 50, features=200),
      Layout(3, 40, inner=6, features=6, groups=6),
      Layout(4, 70, inner=6, features=6, groups=2),
      Layout(1, 40000, inner=8, features=8, groups=4),
    ),
    magnitude=(1e19, 1e25, 1e30, 3e38),
    dtype=(jnp.float32, jnp.bfloat16),
    centered=(True, False),
  )
  def test_huge_groups_come_out_as_bias(
    self, layout, magnitude, dtype, centered
  ):
    case = Case(layout, dtype=dtype, centered=centered)
    group = group_of_each(layout)
    # In turn ordinary, of both signs, constant, and with one outlier.
    kind = group % 4
    sign = np.sign(np.float32(case.dy))
    outlier = np.random.default_rng(1).permutation(layout.size)
    x = np.where(kind == 1, magnitude * sign, case.x)
    x = np.where(kind == 2, magnitude, x)
    first = np.unique(group[outlier], return_index=True)[1]
    chosen = np.zeros(layout.size, bool)
    chosen[outlier[first]] = True
    x = np.where((kind == 3) & chosen, -magnitude, x)

    huge = copy.copy(case)
    huge.x = jnp.asarray(x, jnp.float32).astype(dtype)
    x = np.float64(huge.x)
    size = np.bincount(group)
    mean = np.bincount(group, x) / size * centered
    squares = np.bincount(group, (x - mean[group]) ** 2)
    self.assertTrue(np.any(squares > 3.5e38))
    overflows = (squares > 3.5e38)[group]

    y, *statistics = huge.normalize()
    dx, d_gain, d_bias = huge.pullback(*statistics)
    expected_y, *expected_statistics = case.normalize()
    expected_dx, *_ = case.pullback(*expected_statistics)
    # What is ordinary has the bits that it has elsewhere.
    np.testing.assert_array_equal(y[kind == 0], expected_y[kind == 0])
    np.testing.assert_array_equal(dx[kind == 0], expected_dx[kind == 0])
    place = np.arange(layout.size) // layout.repeat % layout.features
    bias = case.bias[place].astype(dtype)
    exact = overflows | (centered & (kind == 2))
    np.testing.assert_array_equal(y[exact], bias[exact])
    np.testing.assert_array_equal(dx[overflows], 0)
    for result in (y, dx, d_gain, d_bias):
      self.assertTrue(np.all(np.isfinite(result)))

    statistic = np.arange(layout.outer * layout.inner)
    if layout.inner > 1:
      statistic = group.reshape(layout.outer, -1, layout.inner)[:, 0].ravel()
    actual_mean, tail, m2 = map(np.float64, statistics)
    scale = np.bincount(group, np.abs(x)) / size
    error = np.abs(actual_mean + tail - mean[statistic])
    self.assertTrue(np.all(error <= 1e-6 * scale[statistic]))
    np.testing.assert_array_equal(np.isinf(m2), (squares > 3.5e38)[statistic])
    if centered:
      np.testing.assert_array_equal(m2[statistic % 4 == 2], 0)
    # The parameters' gradients see the other groups alone.
    deviation = np.sqrt(squares / size + EPSILON)
    h = (x - mean[group]) / deviation[group] * ~overflows
    dy = np.float64(case.dy)
    for actual, terms in ((d_gain, h * dy), (d_bias, dy)):
      expected = np.bincount(place, terms, layout.features)
      tolerance = 1e-6 * (np.bincount(place, np.abs(terms)) + 1)
      self.assertTrue(np.all(np.abs(actual - expected) <= tolerance))

  @parameterized.parameters(
    (Layout(1030, 129, features=129),),
    (Layout(1, 3001, inner=64, features=64, groups=64),),
  )
  def test_concurrent_calls_return_the_same_bits(self, layout):
    case = Case(layout)
    run = jax.jit(lambda: case.pullback(*case.normalize()[1:]))
    expected = run()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      for results in pool.map(lambda _: run(), range(24)):
        for actual, wanted in zip(results, expected, strict=True):
          np.testing.assert_array_equal(actual, wanted)

  @parameterized.parameters(
    (Layout(0, 8, features=8),),
    (Layout(3, 0, inner=4, features=4, groups=4),),
  )
  def test_empty(self, layout):
    case = Case(layout)
    y, *statistics = case.normalize()
    _, d_gain, d_bias = case.pullback(*statistics)
    self.assertEqual(y.size, 0)
    for value in (*statistics, d_gain, d_bias):
      np.testing.assert_array_equal(value, 0)

  @parameterized.parameters(
    (Layout(2, 12, features=5), "layout is not supported"),
    (Layout(2, 12, inner=4, features=2), "layout is not supported"),
    (Layout(2, 12, inner=4, features=4, groups=3), "layout is not supported"),
  )
  def test_refuses_what_it_cannot_do(self, layout, message):
    with self.assertRaisesRegex(Exception, message):
      jax.block_until_ready(Case(layout).normalize())

  def test_refuses_sizes_that_do_not_fit(self):
    case = Case(Layout(2, 12, features=12))
    case.layout = Layout(2, 13, features=13)
    with self.assertRaisesRegex(Exception, "outer \\* reduced \\* inner"):
      jax.block_until_ready(case.normalize())
    case = Case(Layout(2, 12, features=12))
    case.gain = case.gain[:6]
    with self.assertRaisesRegex(Exception, "as many elements as features"):
      jax.block_until_ready(case.normalize())


if __name__ == "__main__":
  unittest.main()
