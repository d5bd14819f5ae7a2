"""Norms of arrays that are spread over eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import normjax
from tests import reference

MEANS = (0.0, 1e2, 1e4, 1e6)


def mesh(kind=AxisType.Auto):
  return jax.make_mesh((8,), ("d",), axis_types=(kind,))


def normal(shape, mean=0.0, seed=0):
  random = np.random.default_rng(seed)
  return (mean + random.standard_normal(shape)).astype(np.float32)


def uneven_mask(shape):
  """Returns a mask with other counts on every device, on one of them none."""
  share = np.linspace(0, 1, shape[0])[:, None]
  mask = np.random.default_rng(2).random(shape) < share
  mask[: shape[0] // 8] = False
  return mask


class ShardMapTest(parameterized.TestCase):
  def map(self, function, *specs, out, **options):
    return jax.jit(jax.shard_map(
      function, mesh=mesh(), in_specs=specs, out_specs=out, **options
    ))  # fmt: skip

  def assert_exact(self, y, expected):
    self.assertLessEqual(reference.scaled_error(y, expected), 2e-6)

  @parameterized.product(size=(24, 40, 1000), check_vma=(True, False))
  def test_reduced_axis_in_parts(self, size, check_vma):
    for norm, expected in (
      (normjax.layer_norm, reference.layer_norm),
      (normjax.rms_norm, reference.rms_norm),
    ):
      f = self.map(
        functools.partial(norm, axis_name="d"), P(None, "d"),
        out=P(None, "d"), check_vma=check_vma,
      )  # fmt: skip
      for mean in MEANS:
        x = normal((8, size), mean)
        self.assert_exact(f(x), expected(x).y)

  @parameterized.parameters(False, True)
  def test_batch_norm(self, masked):
    # https://github.com/google/flax/issues/2417: a mean of means, 5.07 where
    # the masked mean is 2.21.
    old = normjax.BatchStats(np.ones(6, np.float32), np.ones(6, np.float32))
    f = self.map(
      lambda x, mask, stats: normjax.batch_norm(
        x, stats=stats, use_running_average=False, momentum=0.9,
        mask=mask if masked else None, axis_name="d",
      ),
      P("d"), P("d"), P(), out=(P("d"), P()),
    )  # fmt: skip
    for mean in MEANS:
      x = normal((40, 6), mean) + np.arange(40, dtype=np.float32)[:, None]
      mask = uneven_mask(x.shape) if masked else np.ones(x.shape, bool)
      y, stats = f(np.where(mask, x, np.float32(np.nan)), mask, old)
      self.assert_exact(y, reference.batch_norm(x, mask=mask).y)
      mean, var = reference.running_statistics(x, old, mask=mask, momentum=0.9)
      np.testing.assert_allclose(stats.mean, mean, rtol=1e-6, atol=1e-6)
      np.testing.assert_allclose(stats.var, var, rtol=1e-6)

  def test_nothing_on_any_device(self):
    x = np.full((16, 6), np.nan, np.float32)
    old = normjax.BatchStats(np.ones(6, np.float32), np.ones(6, np.float32))
    f = self.map(
      lambda x, stats: normjax.batch_norm(
        x, stats=stats, use_running_average=False, axis_name="d",
        mask=jnp.zeros(x.shape, bool),
      ),
      P("d"), P(), out=(P("d"), P()),
    )  # fmt: skip
    y, stats = f(x, old)
    np.testing.assert_array_equal(y, 0)
    for field in stats:
      np.testing.assert_array_equal(field, 1)

  @parameterized.parameters(0.1, 123.456, 1e6 + 0.1875)
  def test_constant_groups_are_zero(self, value):
    x = np.full((56, 3), value, np.float32)
    mask = uneven_mask(x.shape)
    for given in (None, mask):
      f = self.map(
        lambda x, mask: normjax.batch_norm(
          x, use_running_average=False, epsilon=1e-30, axis_name="d",
          mask=None if given is None else mask,  # noqa: B023
        )[0],
        P("d"), P("d"), out=P("d"),
      )  # fmt: skip
      np.testing.assert_array_equal(f(x, mask), 0)

  def test_half_of_the_devices_far_away(self):
    x = normal((16, 6), 1e6)
    x[:8] -= 1e6
    f = self.map(
      lambda x: normjax.standardize(x, 0, axis_name="d"), P("d"), out=P("d")
    )
    self.assert_exact(f(x), reference.standardize(x, (0,))[0])

  @parameterized.product(masked=(False, True), check_vma=(True, False))
  def test_gradient_inside_equals_gradient_outside(self, masked, check_vma):
    x = normal((40, 6), 1e4)
    scale, dy = normal(6, seed=1), normal(x.shape, seed=3)
    mask = uneven_mask(x.shape) if masked else None
    given = np.ones(x.shape, bool) if mask is None else mask

    def norm(x, scale, mask):
      y, _ = normjax.batch_norm(
        x, scale, use_running_average=False, axis_name="d",
        mask=mask if masked else None,
      )  # fmt: skip
      return y

    def inside(x, scale, mask, dy):
      loss = lambda x: jnp.sum(norm(x, scale, mask) * dy)
      if check_vma:
        return jax.grad(lambda x: jax.lax.psum(loss(x), "d"))(x)
      # Unchecked, a psum is its own transpose and sums the losses by itself.
      return jax.grad(loss)(x)

    expected = reference.batch_norm(x, scale, mask=mask).pullback(dy)
    f = self.map(
      inside, P("d"), P(), P("d"), P("d"), out=P("d"), check_vma=check_vma
    )
    dx = f(x, scale, given, dy)
    self.assertLess(reference.relative_error(dx, expected[0]), 1e-5)
    f = self.map(norm, P("d"), P(), P("d"), out=P("d"), check_vma=check_vma)
    dx, d_scale = jax.vjp(lambda x, s: f(x, s, given), x, scale)[1](dy)
    self.assertLess(reference.relative_error(dx, expected[0]), 1e-5)
    self.assertLess(reference.relative_error(d_scale, expected[1]), 1e-5)

  def test_forward_mode(self):
    x, dx = normal((8, 24), 1e4), normal((8, 24), seed=1)
    f = self.map(
      lambda x: normjax.layer_norm(x, axis_name="d"), P(None, "d"),
      out=P(None, "d"),
    )  # fmt: skip
    _, dy = jax.jvp(f, (x,), (jnp.asarray(dx),))
    expected = reference.layer_norm(x).pushforward(dx)
    self.assertLess(reference.relative_error(dy, expected), 1e-5)

  def test_second_order(self):
    x, v = normal((8, 24), 1e2), normal((8, 24), seed=1)
    weight = normal((8, 24), seed=2)

    def product(norm):
      loss = lambda x: jnp.sum(jnp.tanh(norm(x)) * weight)
      return jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (v,))[1])(x)

    f = self.map(
      lambda x: normjax.layer_norm(x, axis_name="d"), P(None, "d"),
      out=P(None, "d"),
    )  # fmt: skip
    expected = np.float64(product(normjax.layer_norm))
    self.assertLess(reference.relative_error(product(f), expected), 1e-5)

  def test_two_mesh_axes(self):
    grid = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    x = normal((16, 6), 1e4)
    f = jax.shard_map(
      lambda x: normjax.batch_norm(
        x, use_running_average=False, axis_name=("a", "b")
      )[0],
      mesh=grid, in_specs=P(("a", "b")), out_specs=P(("a", "b")),
    )  # fmt: skip
    self.assert_exact(jax.jit(f)(x), reference.batch_norm(x).y)
    f = jax.shard_map(
      lambda x: normjax.layer_norm(x, axis_name="b"),
      mesh=grid, in_specs=P("a", "b"), out_specs=P("a", "b"),
    )  # fmt: skip
    self.assert_exact(jax.jit(f)(x), reference.layer_norm(x).y)

  def test_axis_index_groups(self):
    x = normal((16, 6), 1e4) + np.arange(16, dtype=np.float32)[:, None]
    mask = uneven_mask(x.shape)
    halves = [[0, 1, 2, 3], [4, 5, 6, 7]]
    # JAX implements groups only where it does not check what varies.
    f = self.map(
      lambda x, mask: normjax.batch_norm(
        x, use_running_average=False, mask=mask, axis_name="d",
        axis_index_groups=halves,
      )[0],
      P("d"), P("d"), out=P("d"), check_vma=False,
    )  # fmt: skip
    y = f(x, mask)
    self.assert_exact(y[:8], reference.batch_norm(x[:8], mask=mask[:8]).y)
    self.assert_exact(y[8:], reference.batch_norm(x[8:], mask=mask[8:]).y)


class ShardedArraysTest(parameterized.TestCase):
  """Under jit, statistics of sharded arrays are global without axis names."""

  def assert_exact(self, y, expected):
    self.assertLessEqual(reference.scaled_error(y, expected), 2e-6)

  @parameterized.product(mean=MEANS, spec=(P("d"), P(None, "d")))
  def test_equals_one_device(self, mean, spec):
    x = normal((16, 24), mean)
    mask = uneven_mask(x.shape)
    sharded = jax.device_put(x, NamedSharding(mesh(), spec))
    self.assert_exact(normjax.layer_norm(sharded), reference.layer_norm(x).y)
    self.assert_exact(normjax.rms_norm(sharded), reference.rms_norm(x).y)
    self.assert_exact(
      normjax.layer_norm(sharded, mask=mask),
      reference.layer_norm(x, mask=mask).y,
    )
    y, stats = normjax.batch_norm(sharded, use_running_average=False)
    self.assert_exact(y, reference.batch_norm(x).y)
    np.testing.assert_allclose(stats.var, x.var(0, np.float64), rtol=1e-5)
    # Groups that end in the middle of a device, too.
    for groups in (4, 8):
      self.assert_exact(
        normjax.group_norm(sharded, num_groups=groups),
        reference.group_norm(x, num_groups=groups).y,
      )

  @parameterized.product(mean=MEANS, size=(40, 56, 1000))
  def test_sizes(self, mean, size):
    x = normal((8, size), mean)
    sharded = jax.device_put(x, NamedSharding(mesh(), P(None, "d")))
    self.assert_exact(normjax.layer_norm(sharded), reference.layer_norm(x).y)
    self.assert_exact(
      normjax.group_norm(sharded, num_groups=4),
      reference.group_norm(x, num_groups=4).y,
    )

  @parameterized.product(spec=(P("d"), P(None, "d")), masked=(False, True))
  def test_gradients(self, spec, masked):
    x, dy = normal((16, 24), 1e4), normal((16, 24), seed=1)
    sharded = jax.device_put(x, NamedSharding(mesh(), spec))
    options = {"mask": uneven_mask(x.shape)} if masked else {}
    for norm, expected in (
      (normjax.layer_norm, reference.layer_norm(x, **options)),
      (normjax.rms_norm, reference.rms_norm(x, **options)),
      (lambda x, **options: normjax.batch_norm(
        x, use_running_average=False, **options)[0],
       reference.batch_norm(x, **options)),
      (functools.partial(normjax.group_norm, num_groups=4),
       reference.group_norm(x, num_groups=4, **options)),
    ):  # fmt: skip
      norm = functools.partial(norm, **options)
      dx = jax.jit(lambda x: jax.vjp(norm, x)[1](dy)[0])(sharded)  # noqa: B023
      expected = expected.pullback(dy)[0]
      self.assertLess(reference.relative_error(dx, expected), 1e-5)

  @parameterized.parameters((P("d"),), (P(None, "d"),))
  def test_explicit_sharding(self, spec):
    # What jax.make_mesh gives by default in newer versions of JAX.
    explicit = mesh(AxisType.Explicit)
    x, dy = normal((16, 24), 1e4), normal((16, 24), seed=1)
    with jax.set_mesh(explicit):
      sharded = jax.device_put(x, NamedSharding(explicit, spec))
      dy_sharded = jax.device_put(dy, NamedSharding(explicit, spec))
      for norm, expected in (
        (normjax.layer_norm, reference.layer_norm(x)),
        (normjax.rms_norm, reference.rms_norm(x)),
        (lambda x: normjax.batch_norm(x, use_running_average=False)[0],
         reference.batch_norm(x)),
        (lambda x: normjax.group_norm(x, num_groups=8),
         reference.group_norm(x, num_groups=8)),
      ):  # fmt: skip
        y, pullback = jax.vjp(norm, sharded)
        self.assert_exact(y, expected.y)
        dx = pullback(dy_sharded)[0]
        wanted = expected.pullback(dy)[0]
        self.assertLess(reference.relative_error(dx, wanted), 1e-5)
