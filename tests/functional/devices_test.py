"""Norms of arrays that are spread over eight devices."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import normjax
from tests import meshes, reference

MEANS = (0.0, 1e2, 1e4, 1e6)


def mesh(kind=AxisType.Auto):
  return meshes.make_mesh((8,), ("d",), axis_types=(kind,))


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
    grid = meshes.make_mesh((4, 2), ("a", "b"), (AxisType.Auto,) * 2)
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


HALVES = [[0, 1, 2, 3], [4, 5, 6, 7]]
WAYS = ("jit", "explicit", "shard_map", "halves")


def running():
  """Returns running statistics of every kind."""
  mean, var = np.full(6, 3, np.float32), np.full(6, 2, np.float32)
  return {
    "exponential": normjax.BatchStats(mean, var),
    "debiased": normjax.DebiasedStats(mean, var, np.ones(6, np.float32)),
    "moments": normjax.Moments(5 * var, mean, 0 * mean, 7 * var),
  }


def batch_norm(x, scale, bias, mask, stats, **options):
  """Returns y, and new means and variances of every kind of statistics."""
  results = {
    kind: normjax.batch_norm(
      x, scale, bias, old, use_running_average=False, momentum=0.75, mask=mask,
      **options,
    )
    for kind, old in stats.items()
  }  # fmt: skip
  new = {kind: (new.mean, new.var) for kind, (_, new) in results.items()}
  return next(iter(results.values()))[0], new


def spread(way, x, mask):
  """Returns `batch_norm` for a way of using devices, and arrays for it.

  Args:
    way: One of `WAYS`, or "one_device".
    x, mask: Examples.

  Returns:
    A function of x, scale, bias, mask and stats; these, and another array that
    is placed as x is.
  """
  explicit = way == "explicit"
  devices = mesh(AxisType.Explicit if explicit else AxisType.Auto)
  parts = NamedSharding(devices, P("d"))
  whole = NamedSharding(devices, P())
  if way == "one_device":
    parts = whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  function = batch_norm
  if way in ("shard_map", "halves"):
    halves = HALVES if way == "halves" else None
    function = jax.shard_map(
      functools.partial(batch_norm, axis_name="d", axis_index_groups=halves),
      mesh=devices,
      in_specs=(P("d"), P(), P(), P("d"), P()),
      # Halves have statistics of their own, which are put one after the other.
      out_specs=(P("d"), P("d") if halves else P()),
      # JAX implements groups only where it does not check what varies.
      check_vma=not halves,
    )
  x, mask, dy = jax.device_put((x, mask, normal(x.shape, seed=5)), parts)
  scale, bias = 1 + normal(6, seed=3), normal(6, seed=4)
  scale, bias, stats = jax.device_put((scale, bias, running()), whole)
  return function, (x, scale, bias, mask, stats), dy


def results_and_gradients(function):
  """Returns a function of the arguments and dy: y, statistics, gradients."""

  def run(x, scale, bias, mask, stats, dy):
    y, pullback, new = jax.vjp(
      lambda *primals: function(*primals, mask, stats),
      x, scale, bias, has_aux=True,
    )  # fmt: skip
    return y, new, pullback(dy)

  return jax.jit(run)


class SynchronizedTest(parameterized.TestCase):
  """Batch norm in training, of a batch that eight devices share."""

  def run_on(self, way, x, mask):
    function, arguments, dy = spread(way, x, mask)
    return jax.device_get(results_and_gradients(function)(*arguments, dy))

  def assert_close(self, actual, expected):
    for leaf, wanted in zip(
      jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
    ):
      # Float32 keeps 2 ** -24 of the largest.
      np.testing.assert_allclose(
        leaf, wanted, rtol=1e-6, atol=1e-6 * max(1, np.max(np.abs(wanted)))
      )

  @parameterized.product(way=WAYS[:3], mean=(0.0, 1e6))
  def test_eight_devices_equal_one(self, way, mean):
    """With other counts on each, and none on the first."""
    x = normal((40, 2, 6), mean)
    mask = np.stack([uneven_mask((40, 6))] * 2, axis=1)
    mask[9, 1] = False
    x = np.where(mask, x, np.float32(np.nan))
    y, new, gradients = self.run_on(way, x, mask)
    self.assert_close((y, new, gradients), self.run_on("one_device", x, mask))
    scale, bias = 1 + normal(6, seed=3), normal(6, seed=4)
    expected = reference.batch_norm(x, scale, bias, mask=mask)
    self.assertLessEqual(reference.scaled_error(y, expected.y), 2e-6)
    for actual, wanted in zip(
      gradients, expected.pullback(normal(x.shape, seed=5)), strict=True
    ):
      self.assertLess(reference.relative_error(actual, wanted), 2e-6)
    old = running()["exponential"]
    wanted = reference.running_statistics(x, old, mask=mask, momentum=0.75)
    np.testing.assert_allclose(new["exponential"], wanted, rtol=2e-6)

  @parameterized.parameters(0.0, 1e6)
  def test_groups_of_devices_equal_one_device_each(self, mean):
    x = normal((40, 6), mean) + np.repeat([0, 5], 20)[:, None]
    x, mask = np.float32(x), uneven_mask((40, 6))
    y, new, (dx, *d_parameters) = self.run_on("halves", x, mask)
    totals = [0, 0]
    for half, devices in enumerate(HALVES):
      rows = slice(20 * half, 20 * half + 20)
      one = results_and_gradients(batch_norm)
      _, (_, scale, bias, _, stats), dy = spread("one_device", x, mask)
      wanted_y, wanted, (wanted_dx, *parts) = one(
        x[rows], scale, bias, mask[rows], stats, dy[rows]
      )
      self.assert_close((y[rows], dx[rows]), (wanted_y, wanted_dx))
      totals = [a + b for a, b in zip(totals, parts, strict=True)]
      for device in devices:
        own = slice(6 * device, 6 * device + 6)
        self.assert_close(jax.tree.map(lambda leaf: leaf[own], new), wanted)  # noqa: B023
    self.assert_close(d_parameters, totals)

  @parameterized.product(way=WAYS, masked=(False, True))
  def test_two_collectives_for_statistics_and_one_for_gradients(
    self, way, masked
  ):
    """The latter has the gradients of gain and bias too.

    With groups of devices these are one more, because they are sums over all.
    """
    (*arguments, mask, stats), dy, forward = self.program(way, masked)
    self.assertEqual(
      collectives(forward, *arguments, mask, stats), {"all-reduce": 2}
    )
    _, pullback, _ = jax.vjp(
      lambda *primals: forward(*primals, mask, stats), *arguments, has_aux=True
    )
    self.assertEqual(
      collectives(jax.jit(lambda pull, dy: pull(dy)), pullback, dy),
      {"all-reduce": 2 if way == "halves" else 1},
    )

  @parameterized.product(way=("jit", "shard_map"), kind=("debiased", "moments"))
  def test_two_collectives_for_any_statistics(self, way, kind):
    arguments, _, forward = self.program(way, True, kind)
    self.assertEqual(collectives(forward, *arguments), {"all-reduce": 2})

  def program(self, way, masked, kind="exponential"):
    """Returns arguments of batch norm, another array like x, and batch norm."""
    x = normal((16, 2, 2, 6))
    mask = np.ones(x.shape, bool)
    function, (*arguments, mask, stats), dy = spread(way, x, mask)

    def forward(x, scale, bias, mask, stats):
      return function(x, scale, bias, mask if masked else None, stats)

    return (*arguments, mask, {kind: stats[kind]}), dy, jax.jit(forward)


def collectives(function, *arguments):
  """Returns how many messages of each kind the compiled program has."""
  program = function.lower(*arguments).compile().as_text()
  kinds = (
    "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    "|collective-broadcast"
  )
  found = re.findall(rf" ({kinds})(?:-start)?\(", program)
  return dict(collections.Counter(found))
