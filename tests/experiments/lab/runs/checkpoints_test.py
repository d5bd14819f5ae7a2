"""Tests of what a killed run leaves and what the next one finds."""

import pathlib
import tempfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

from experiments.lab.runs.checkpoints import Checkpoints


def state(seed):
  """A tree with all that a training state holds, other for every seed."""
  key = jax.random.key(seed)
  params = {"w": jax.random.normal(key, (3, 5)), "b": jnp.full(5, jnp.nan)}
  return {
    "params": params,
    "opt_state": optax.adam(1e-3).init(params),
    "key": jax.random.split(key, 3),
    "done": jnp.array([True, False]),
    "step": jnp.asarray(seed, jnp.int32),
    "batch_stats": {},
  }


def bits(tree):
  return jax.tree.map(
    lambda x: np.asarray(
      jax.random.key_data(x)
      if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
      else x
    ),
    tree,
  )


class CheckpointsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = (
      pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "saved"
    )

  def test_gives_back_the_newest_bit_for_bit(self):
    records = [{"epoch": 1, "loss": [0.1, None]}, {"epoch": 2, "loss": [1 / 3]}]
    with Checkpoints(self.folder) as saved:
      saved.save(1, state(1), records[:1])
      saved.save(2, state(2), records)
    with Checkpoints(self.folder) as saved:
      self.assertEqual(saved.records(), records)
      step, tree = saved.restore(jax.eval_shape(lambda: state(0)))
    self.assertEqual(step, 2)
    chex.assert_trees_all_equal(bits(tree), bits(state(2)))
    chex.assert_trees_all_equal_shapes_and_dtypes(tree, state(2))

  def test_there_may_be_none(self):
    with Checkpoints(self.folder) as saved:
      self.assertEmpty(saved.records())
      self.assertIsNone(saved.restore(jax.eval_shape(lambda: state(0))))
    self.assertFalse(self.folder.exists())

  def test_goes_on_after_the_restored_one(self):
    with Checkpoints(self.folder) as saved:
      saved.save(1, state(1), [])
    with Checkpoints(self.folder) as saved:
      saved.restore(jax.eval_shape(lambda: state(0)))
      saved.save(2, state(2), [])
    with Checkpoints(self.folder) as saved:
      self.assertEqual(saved.restore(jax.eval_shape(lambda: state(0)))[0], 2)

  def test_keeps_two(self):
    with Checkpoints(self.folder) as saved:
      for step in range(1, 5):
        saved.save(step, state(step), [])
    self.assertEqual({path.name for path in self.folder.iterdir()}, {"3", "4"})

  def test_what_is_being_saved_may_be_donated(self):
    change = jax.jit(
      lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0
    )
    tree = {"w": jnp.ones((256, 256))}
    with Checkpoints(self.folder) as saved:
      saved.save(1, tree, [])
      jax.block_until_ready(change(tree))
      template = {"w": jax.ShapeDtypeStruct((256, 256), jnp.float32)}
    with Checkpoints(self.folder) as saved:
      _, restored = saved.restore(template)
    np.testing.assert_array_equal(restored["w"], 1)
