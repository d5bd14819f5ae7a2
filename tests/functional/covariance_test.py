"""Whitening under every transformation of JAX, and over devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import normjax
from tests import meshes, reference
from tests.functional.whitening_test import (
  correlated,
  gradient_of,
  normal,
  output,
  some_stats,
  train,
)


def uneven_mask(shape):
  """Returns a mask with other counts on every device, on one of them none."""
  mask = normal(shape, seed=2) < np.linspace(-2, 2, shape[0])[:, None]
  mask[: shape[0] // 8] = False
  return mask


def mesh(kind=AxisType.Auto):
  return meshes.make_mesh((8,), ("d",), axis_types=(kind,))


class TransformationsTest(parameterized.TestCase):
  def test_nested_vmap(self):
    xs = np.stack([[correlated((9, 4), 10.0**i, seed=3 * i + j)
                    for j in range(3)] for i in range(2)])  # fmt: skip
    masks = normal(xs.shape, seed=1) < 0.7
    white = lambda x, mask: output(x, mask=mask, num_groups=2)
    ys = jax.vmap(jax.vmap(white))(xs, masks)
    for index in np.ndindex(2, 3):
      expected = reference.whiten(xs[index], mask=masks[index], num_groups=2)
      self.assertLessEqual(reference.scaled_error(ys[index], expected.y), 1e-5)

  def test_remat_and_scan(self):
    x = correlated((16, 4))

    def loss(x, wrap):
      step = wrap(lambda y, _: (output(y) + x, None))
      return jnp.sum(jax.lax.scan(step, x, length=3)[0] ** 2)

    plain, remat = (
      jax.jit(jax.value_and_grad(functools.partial(loss, wrap=wrap)))(x)
      for wrap in (lambda f: f, jax.checkpoint)
    )
    chex.assert_trees_all_close(remat, plain, rtol=1e-5, atol=1e-5)

  def test_eval_shape(self):
    x = jax.ShapeDtypeStruct((8, 3, 6), jnp.bfloat16)
    y, stats = jax.eval_shape(functools.partial(train, num_groups=2), x)
    self.assertEqual((y.shape, y.dtype), (x.shape, x.dtype))
    self.assertEqual((stats.mean.shape, stats.cov.shape), ((6,), (2, 3, 3)))

  def test_symbolic_batch(self):
    shape = export.symbolic_shape("batch, 6")

    def run(x):
      y, vjp = jax.vjp(lambda x: output(x, num_groups=2, iterations=5), x)
      return y, *vjp(x)

    exported = export.export(jax.jit(run))(
      jax.ShapeDtypeStruct(shape, np.float32)
    )
    x = correlated((12, 6))
    expected_of_x = jax.jit(run)(x)
    for actual, expected in zip(exported.call(x), expected_of_x, strict=True):
      np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)

  @parameterized.parameters((None, True), (2, False))
  def test_devices_with_uneven_masks(self, iterations, check_vma):
    x, old = correlated((40, 6), 1e4), some_stats(6, 2)
    mask, dy = uneven_mask(x.shape), normal(x.shape, seed=3)
    options = {"num_groups": 2, "iterations": iterations, "stats": old}

    def white(x, mask, **more):
      return train(jnp.where(mask, x, jnp.nan), mask=mask, **options, **more)

    mapped = jax.shard_map(
      functools.partial(white, axis_name="d"), mesh=mesh(),
      in_specs=(P("d"), P("d")), out_specs=(P("d"), P()), check_vma=check_vma,
    )  # fmt: skip

    def run(function):
      (y, stats), vjp = jax.vjp(lambda x: function(x, mask), x)
      return y, stats, vjp((dy, jax.tree.map(jnp.ones_like, stats)))

    y, stats, dx = jax.jit(lambda: run(mapped))()
    expected_y, expected_stats, expected_dx = jax.jit(lambda: run(white))()
    np.testing.assert_allclose(y, expected_y, atol=1e-5)
    chex.assert_trees_all_close(stats, expected_stats, rtol=1e-6)
    chex.assert_trees_all_close(dx, expected_dx, atol=2e-5)

  def test_groups_of_devices(self):
    x = correlated((64, 4), 3.0)
    y = jax.jit(jax.shard_map(
      lambda x: output(
        x, axis_name="d", axis_index_groups=[[0, 1, 2, 3], [4, 5, 6, 7]]
      ),
      mesh=mesh(), in_specs=P("d"), out_specs=P("d"), check_vma=False,
    ))(x)  # fmt: skip
    expected = np.concatenate([output(half) for half in np.split(x, 2)])
    np.testing.assert_allclose(y, expected, atol=1e-5)

  def test_one_row_on_each_device(self):
    x = correlated((8, 2))
    y = jax.vmap(lambda x: output(x[None], axis_name="d")[0], axis_name="d")(x)
    np.testing.assert_allclose(y, output(x), atol=1e-5)

  def test_three_messages(self):
    """Two for the mean, one for the covariance."""
    mapped = jax.shard_map(
      functools.partial(output, axis_name="d"), mesh=mesh(), in_specs=P("d"),
      out_specs=P("d"),
    )  # fmt: skip
    text = jax.jit(mapped).lower(correlated((16, 4))).compile().as_text()
    self.assertEqual(text.count(" all-reduce("), 3)

  @parameterized.parameters(
    (AxisType.Auto, P("d")), (AxisType.Explicit, P(None, "d"))
  )
  def test_sharded_arrays(self, kind, spec):
    x, dy = correlated((64, 8), 1e2), normal((64, 8), seed=1)
    white = functools.partial(output, num_groups=2)
    expected = gradient_of(white)(x, dy)
    placed = NamedSharding(mesh(kind), spec)
    with jax.set_mesh(placed.mesh):
      actual = gradient_of(white)(*jax.device_put((x, dy), placed))
    chex.assert_trees_all_close(jax.device_get(actual), expected, atol=2e-5)

  @parameterized.parameters((False, True), (True, False))
  def test_explicit_sharding_of_everything(self, evaluation, masked):
    grid = meshes.make_mesh((2, 4), ("data", "model"), (AxisType.Explicit,) * 2)
    x, scale = correlated((4, 8, 16)), normal(16, seed=1)
    stats, mask = some_stats(16, 4), normal(x.shape, seed=5) < 0.7

    @jax.jit
    def run(x, scale, stats, mask):
      def loss(x, scale):
        y, new = normjax.decorrelated_batch_norm(
          x, scale, scale, stats, use_running_average=evaluation,
          num_groups=4, mask=mask if masked else None,
        )  # fmt: skip
        return jnp.sum(jnp.sin(y)), (y, new)

      return jax.grad(loss, (0, 1), has_aux=True)(x, scale)

    specs = P("data", None, "model"), P("model"), P("model")
    expected = run(x, scale, stats, mask)
    with jax.set_mesh(grid):
      of_x, *of_others = (NamedSharding(grid, spec) for spec in specs)
      placed = jax.device_put((scale, stats), tuple(of_others))
      actual = run(jax.device_put(x, of_x), *placed, jax.device_put(mask, of_x))
    y, new = actual[1]
    self.assertEqual(y.sharding.spec, specs[0])
    self.assertEqual(new.mean.sharding.spec, specs[1])
    chex.assert_trees_all_close(
      jax.device_get(actual), jax.device_get(expected), atol=1e-4
    )
