"""Every module under every transformation of JAX and of Flax."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.linen.cases import ONE_OF_EACH, STATEFUL, call, named

COLLECTIONS = {"params": 0, "batch_stats": 0}


def mesh():
  return jax.make_mesh((8,), ("shards",), axis_types=(AxisType.Auto,))


def sharded(case):
  """Returns how an input of the case is split over the mesh."""
  names = [None] * len(case.shape)
  names[case.sharded_axis] = "shards"
  return PartitionSpec(*names)


class Chain(nn.Module):
  """The module of a case, as the body of a loop."""

  case: object

  @nn.compact
  def __call__(self, x, _):
    return self.case.build()(x), None


class JaxTest(parameterized.TestCase):
  @parameterized.named_parameters(named())
  def test_jit_changes_nothing(self, case):
    run = functools.partial(call, case.build())
    variables, x = case.variables(), case.input()
    chex.assert_trees_all_close(
      jax.jit(run)(variables, x), run(variables, x), rtol=1e-6, atol=1e-6
    )

  @parameterized.named_parameters(named())
  def test_shapes_are_found_without_computing(self, case):
    x = jax.ShapeDtypeStruct(case.shape, jnp.float32)
    variables = jax.eval_shape(case.build().init, jax.random.key(0), x)
    y, updates = jax.eval_shape(
      functools.partial(call, case.build()), variables, x
    )
    self.assertEqual(y.shape, case.shape)
    chex.assert_trees_all_equal_shapes_and_dtypes({**variables, **updates},
                                                  variables)  # fmt: skip

  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_forward_mode_agrees_with_reverse_mode(self, case):
    variables, x = case.variables(), case.input()
    tangent, cotangent = case.input(seed=5), case.input(seed=6)

    def run(x):
      return call(case.build(), variables, x)[0]

    _, pushed = jax.jvp(run, (x,), (tangent,))
    (pulled,) = jax.vjp(run, x)[1](cotangent)
    np.testing.assert_allclose(
      jnp.vdot(pushed, cotangent), jnp.vdot(tangent, pulled), rtol=1e-4
    )

  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_shards_with_unequal_masks_make_the_whole(self, case):
    variables, x = case.variables(), case.input()
    share = jnp.linspace(0.0, 0.9, 8)  # The first device counts nothing.
    share = jnp.expand_dims(
      share, [i for i in range(x.ndim) if i != case.sharded_axis]
    )
    mask = jax.random.uniform(jax.random.key(1), case.shape) < share
    expected = call(case.build(), variables, x, mask=mask)
    spec = sharded(case)

    @jax.jit
    @functools.partial(
      jax.shard_map,
      mesh=mesh(),
      in_specs=(PartitionSpec(), spec, spec),
      out_specs=(spec, PartitionSpec()),
    )
    def run(variables, x, mask):
      return call(case.build(axis_name="shards"), variables, x, mask=mask)

    chex.assert_trees_all_close(run(variables, x, mask), expected, atol=5e-6)

  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_index_groups_keep_their_own_statistics(self, case):
    variables, x = case.variables(), case.input()
    module = case.build(
      axis_name="shards", axis_index_groups=[[0, 1, 2, 3], [4, 5, 6, 7]]
    )

    @jax.jit
    @functools.partial(
      jax.shard_map,
      mesh=mesh(),
      in_specs=(PartitionSpec(), sharded(case)),
      out_specs=(sharded(case), PartitionSpec("shards")),
      check_vma=False,  # JAX does not implement it for groups.
    )
    def run(variables, x):
      y, updates = call(module, variables, x)
      return y, jax.tree.map(lambda leaf: leaf[None], updates)

    y, updates = run(variables, x)
    halves = jnp.split(x, 2, case.sharded_axis)
    expected = [call(case.build(), variables, half) for half in halves]
    np.testing.assert_allclose(
      y, jnp.concatenate([y for y, _ in expected], case.sharded_axis), atol=5e-6
    )
    for device in range(8):
      chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[device], updates),  # noqa: B023
        expected[device // 4][1],
        rtol=1e-5,
      )

  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_statistics_of_a_sharded_array_are_global_under_jit(self, case):
    variables, x = case.variables(), case.input()
    shards = jax.device_put(x, NamedSharding(mesh(), sharded(case)))
    chex.assert_trees_all_close(
      jax.jit(functools.partial(call, case.build()))(variables, shards),
      call(case.build(), variables, x),
      atol=5e-6,
    )

  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_axis_name_is_ignored_while_initializing(self, case):
    module = case.build(axis_name="shards")
    y, variables = module.init_with_output(jax.random.key(0), case.input())
    expected = case.build().init_with_output(jax.random.key(0), case.input())
    chex.assert_trees_all_equal((y, variables), expected)
    with self.assertRaisesRegex(NameError, "'shards' is not bound"):
      call(module, variables, case.input())


class FlaxTest(parameterized.TestCase):
  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_scan_over_layers_is_the_loop(self, case):
    scanned = nn.scan(
      Chain, COLLECTIONS, split_rngs={"params": True}, length=3
    )(case)
    x = case.input()
    stacked = scanned.init(jax.random.key(0), x, None)
    (y, _), updates = call(scanned, stacked, x, None)
    expected = x
    for i in range(3):
      layer = jax.tree.map(lambda leaf: leaf[i], stacked)  # noqa: B023
      (expected, _), new = call(Chain(case), layer, expected, None)
      chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[i], updates),  # noqa: B023
        new,
        atol=1e-6,
      )
    np.testing.assert_allclose(y, expected, atol=1e-5)

  @parameterized.named_parameters(named(STATEFUL))
  def test_scan_over_time_carries_the_statistics(self, case):
    scanned = nn.scan(
      Chain,
      variable_broadcast="params",
      variable_carry="batch_stats",
      split_rngs={"params": False},
      length=3,
    )(case)
    x, variables = case.input(), {
      name: {f"{case.kind}_0": tree} for name, tree in case.variables().items()
    }  # fmt: skip
    (y, _), updates = call(scanned, variables, x, None)
    expected = x
    for _ in range(3):
      (expected, _), new = call(Chain(case), variables, expected, None)
      variables = {**variables, **new}
    np.testing.assert_allclose(y, expected, atol=1e-5)
    chex.assert_trees_all_close(updates, new, atol=1e-6)

  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_remat_changes_nothing(self, case):
    variables, x = case.variables(), case.input()
    plain = case.build()
    remat = nn.remat(type(plain))(
      **{
        name: getattr(plain, name)
        for name in plain.__dataclass_fields__
        if name not in ("parent", "name")
      }
    )

    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def run(variables, x, module):
      y, updates = call(module, variables, x)
      return jnp.sum(jnp.sin(y)), (y, updates)

    chex.assert_trees_all_close(
      run(variables, x, remat), run(variables, x, plain), atol=1e-5
    )

  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_vmap_with_parameters_for_each(self, case):
    x = jnp.stack([case.input(seed=seed) for seed in range(3)])
    mapped = nn.vmap(
      Chain, COLLECTIONS, {"params": True}, in_axes=(0, None), out_axes=0
    )(case)
    stacked = mapped.init(jax.random.key(0), x, None)
    (y, _), updates = call(mapped, stacked, x, None)
    for i in range(3):
      one = jax.tree.map(lambda leaf: leaf[i], stacked)  # noqa: B023
      (expected, _), new = call(Chain(case), one, x[i], None)
      np.testing.assert_allclose(y[i], expected, atol=1e-6)
      chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[i], updates),  # noqa: B023
        new,
        atol=1e-6,
      )

  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_vmap_with_a_name_makes_the_whole(self, case):
    variables, x = case.variables(), case.input()
    axis = case.sharded_axis
    mapped = nn.vmap(
      lambda module, x: module(x),
      in_axes=axis,
      out_axes=axis,
      variable_axes={"params": None, "batch_stats": None},
      split_rngs={"params": False},
      axis_name="examples",
    )

    def run(variables, x):
      return nn.apply(
        mapped, case.build(axis_name="examples"), mutable=["batch_stats"]
      )(variables, jnp.expand_dims(x, axis + 1))

    y, updates = run(variables, x)
    expected, expected_updates = call(case.build(), variables, x)
    np.testing.assert_allclose(jnp.squeeze(y, axis + 1), expected, atol=5e-6)
    chex.assert_trees_all_close(updates, expected_updates, atol=5e-6)

  @parameterized.named_parameters(named())
  def test_a_module_called_twice_updates_twice_in_order(self, case):
    class Twice(nn.Module):
      @nn.compact
      def __call__(self, x, z):
        norm = case.build()
        return norm(x), norm(z)

    x, z = case.input(seed=2), 3 + case.input(seed=3)
    variables = {
      name: {f"{case.kind}_0": tree} for name, tree in case.variables().items()
    }
    outputs, updates = Twice().apply(variables, x, z, mutable=["batch_stats"])
    one = case.variables()
    first, new = call(case.build(), one, x)
    second, new = call(case.build(), {**one, **new}, z)
    chex.assert_trees_all_close(outputs, (first, second), atol=1e-6)
    chex.assert_trees_all_close(
      [tree[f"{case.kind}_0"] for tree in updates.values()],
      list(new.values()),
      atol=1e-6,
    )
