"""Ghost batch norm: ghosts apart, running statistics together."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import normjax
from tests import meshes, reference

train = functools.partial(normjax.ghost_batch_norm, use_running_average=False)
OLD = normjax.BatchStats(np.ones(6, np.float32), np.full(6, 2, np.float32))


def normal(shape, mean=0.0, seed=0):
  random = np.random.default_rng(seed)
  return (mean + random.standard_normal(shape)).astype(np.float32)


def uneven_mask(shape):
  """Returns a mask with other counts in every example, in the first none."""
  share = np.linspace(0, 1, shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
  mask = np.random.default_rng(2).random(shape) < share
  mask[: shape[0] // 8] = False
  return mask


class StatisticsTest(parameterized.TestCase):
  @parameterized.parameters((0.0, 8, 0), (1e6, 2, 1))
  def test_running_ones_are_of_the_whole_batch(self, mean, ghost_size, ddof):
    """Ghosts far apart, with uneven counts: averages of ghosts differ."""
    x = normal((16, 5, 6), mean) + np.float32(10) * np.arange(
      16, dtype=np.float32
    ).reshape(-1, 1, 1)
    mask = uneven_mask(x.shape)
    x = np.where(mask, x, np.float32(np.nan))
    options = {"momentum": 0.9, "running_var_ddof": ddof, "mask": mask}
    _, stats = train(x, stats=OLD, ghost_size=ghost_size, **options)
    mean, var = reference.running_statistics(
      np.where(mask, x, 0), OLD, **options
    )
    np.testing.assert_allclose(stats.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(stats.var, var, rtol=1e-6)
    _, of_batch = train(x, ghost_size=ghost_size, mask=mask)
    _, whole = normjax.batch_norm(x, use_running_average=False, mask=mask)
    chex.assert_trees_all_close(of_batch, whole, rtol=1e-6)

  def test_counts_and_means_near_the_end_of_float32(self):
    x = np.full((64, 4096, 1), 1e36, np.float32)
    y, stats = train(x, ghost_size=2)
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_allclose(stats.mean, 1e36, rtol=1e-6)

  def test_their_derivative(self):
    x, dx = normal((8, 6), 1e3), normal((8, 6), seed=1)

    def var(norm, x):
      return norm(x)[1].var

    _, push = jax.jvp(functools.partial(var, functools.partial(
      train, ghost_size=2)), (x,), (dx,))  # fmt: skip
    c = x - np.mean(x, 0, np.float64)
    np.testing.assert_allclose(push, 2 * np.mean(c * dx, 0), rtol=1e-4)


class GhostTest(parameterized.TestCase):
  def test_each_is_a_batch(self):
    x, scale, bias = normal((12, 3, 6), 1e4), normal(6), normal(6, seed=1)
    mask = np.arange(3)[None, :, None] < 2  # The same for all examples.
    for options in ({}, {"mask": mask}, {"mask": uneven_mask(x.shape)}):
      y, _ = train(x, scale, bias, ghost_size=4, scale_offset=1.0, **options)
      whole = options.get("mask", np.True_)
      whole = np.broadcast_to(whole, x.shape)
      parts = [
        normjax.batch_norm(
          x[i : i + 4], scale, bias, use_running_average=False,
          mask=whole[i : i + 4], scale_offset=1.0,
        )[0]
        for i in (0, 4, 8)
      ]  # fmt: skip
      np.testing.assert_allclose(y, np.concatenate(parts), rtol=2e-6, atol=2e-6)

  def test_one_ghost_is_batch_norm(self):
    x = normal((8, 6))
    y, stats = train(x, stats=OLD, ghost_size=8)
    expected = normjax.batch_norm(x, stats=OLD, use_running_average=False)
    chex.assert_trees_all_close((y, stats), expected, rtol=1e-6, atol=1e-6)

  def test_channels_first_in_seven_axes(self):
    x = normal((8, 2, 1, 3, 1, 2, 3), 1e4)
    y, stats = train(x, ghost_size=4, axis=1)
    flat, kept = train(np.moveaxis(x, 1, -1).reshape(8, -1, 2), ghost_size=4)
    np.testing.assert_allclose(
      np.moveaxis(y, 1, -1).reshape(flat.shape), flat, rtol=1e-5, atol=2e-6
    )
    chex.assert_trees_all_close(stats, kept, rtol=1e-6)

  def test_evaluation_is_that_of_batch_norm(self):
    x = normal((7, 6))  # The size of ghosts does not matter.
    options = {"stats": OLD, "use_running_average": True}
    chex.assert_trees_all_equal(
      normjax.ghost_batch_norm(x, ghost_size=4, **options),
      normjax.batch_norm(x, **options),
    )


class DevicesTest(parameterized.TestCase):
  def test_running_statistics_are_merged(self):
    """Two ghosts on each of eight devices, and uneven masks."""
    mesh = meshes.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    x = normal((32, 3, 6), 1e6) + np.arange(32, dtype=np.float32).reshape(
      -1, 1, 1
    )
    mask = uneven_mask(x.shape)
    x = np.where(mask, x, np.float32(np.nan))

    def run(x, mask, **options):
      return train(x, stats=OLD, ghost_size=2, mask=mask, **options)

    expected = run(x, mask)
    mapped = jax.shard_map(
      functools.partial(run, axis_name="d"),
      mesh=mesh, in_specs=P("d"), out_specs=(P("d"), P()),
    )  # fmt: skip
    chex.assert_trees_all_close(
      jax.jit(mapped)(x, mask), expected, rtol=1e-6, atol=2e-6
    )
    sharded = jax.device_put(x, NamedSharding(mesh, P("d")))
    chex.assert_trees_all_close(
      run(sharded, mask), expected, rtol=1e-6, atol=2e-6
    )


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"ghost_size": 5}, ValueError, "12 examples.*ghost_size=5. Use a size"),
    ({"ghost_size": 0}, ValueError, "must be positive, got 0"),
    ({"ghost_size": 4.0}, TypeError, "must be an integer, got 4.0"),
    ({"ghost_size": 1}, ValueError, "one value per channel in each ghost"),
    ({"ghost_size": 4, "axis": 0}, ValueError, "axis=0 names the first axis"),
    ({"ghost_size": 4, "axis_name": "who"}, NameError, "'who' is not bound"),
    ({"ghost_size": 4, "scale": jnp.ones(5)}, ValueError, r"\(6,\).*\(12, 6\)"),
    ({"size": 4}, TypeError, "no argument 'size'"),
  )
  def test_message(self, options, error, message):
    with self.assertRaisesRegex(error, message):
      train(normal((12, 6)), **options)
