"""Tests of mapping over lanes."""

import chex
import jax
import jax.numpy as jnp
from absl.testing import parameterized

from experiments.lab.training import lanes


def function(tree, x, factor):
  return {"sum": tree["a"] + x * factor, "key": jax.random.bits(tree["k"])}


class LanesTest(parameterized.TestCase):
  @parameterized.product(mapping=(lanes.vmapped, lanes.unrolled), count=(1, 3))
  def test_equals_vmap(self, mapping, count):
    tree = {
      "a": jnp.arange(2.0 * count).reshape(count, 2),
      "k": jax.random.split(jax.random.key(0), count),
    }
    args = tree, jnp.arange(1.0 * count), jnp.asarray(2.0)
    chex.assert_trees_all_equal(
      mapping(function, in_axes=(0, 0, None))(*args),
      jax.vmap(function, in_axes=(0, 0, None))(*args),
    )

  @parameterized.parameters(1, 3)
  def test_one_by_one_equals_vmap(self, count):
    tree = {
      "a": jnp.arange(2.0 * count).reshape(count, 2),
      "k": jax.random.split(jax.random.key(0), count),
    }
    args = tree, jnp.arange(1.0 * count), jnp.asarray(2.0)
    in_axes, seen = (0, 0, None), []

    def of_one(tree, x, factor):
      seen.append(x.shape)
      return lanes.unrolled(function, in_axes)(tree, x, factor)

    chex.assert_trees_all_equal(
      lanes.one_by_one(of_one, in_axes)(*args),
      jax.vmap(function, in_axes)(*args),
    )
    self.assertEqual(seen, [(1,)] * count)

  def test_the_seeds_of_a_rate_are_neighbours(self):
    lane = jnp.arange(6.0)
    found = lanes.by_rate({"a": lane, "b": jnp.stack([lane, lane], 1)}, 2)
    chex.assert_trees_all_equal(found["a"], lane.reshape(2, 3))
    chex.assert_shape(found["b"], (2, 3, 2))
    chex.assert_trees_all_equal(
      lanes.by_rate({"rate": lanes.per_lane([0.5, 2.0], 3)}, 2)["rate"][:, 0],
      jnp.array([0.5, 2.0]),
    )

  def test_one_seed_is_not_batched(self):
    args = {"a": jnp.ones((1, 2)), "k": jax.random.split(jax.random.key(0), 1)}

    def shape(tree, x, factor):
      del x, factor
      return jnp.asarray(tree["a"] @ tree["a"])

    mapped = lanes.vmapped(shape, in_axes=(0, 0, None))
    jaxpr = jax.make_jaxpr(mapped)(args, jnp.ones(1), 1.0)
    (product,) = (e for e in jaxpr.eqns if e.primitive.name == "dot_general")
    self.assertEqual(product.params["dimension_numbers"][1], ((), ()))
