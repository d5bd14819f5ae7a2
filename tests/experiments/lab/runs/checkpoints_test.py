"""Tests of what a killed run leaves and what the next one finds."""

import pathlib
import tempfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

from experiments.lab.errors import RefusedError
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

  def saved(self, *steps):
    """Returns checkpoints with a state for each step."""
    saved = Checkpoints(self.folder)
    for step in steps:
      saved.save(step, state(step), [{"epoch": step, "loss": [1 / 3, None]}])
    return saved

  def test_gives_back_the_newest_bit_for_bit(self):
    self.saved(1, 2, 10)
    newest = Checkpoints(self.folder).newest()
    self.assertEqual(newest.step, 10)
    self.assertEqual(newest.records, [{"epoch": 10, "loss": [1 / 3, None]}])
    tree = newest.tree(jax.eval_shape(lambda: state(0)))
    chex.assert_trees_all_equal(bits(tree), bits(state(10)))
    chex.assert_trees_all_equal_shapes_and_dtypes(
      jax.tree.map(jnp.asarray, tree), state(10)
    )

  def test_there_may_be_none(self):
    self.assertIsNone(Checkpoints(self.folder).newest())
    self.assertFalse(self.folder.exists())

  def test_keeps_two(self):
    self.saved(*range(8, 12))
    names = {path.name for path in self.folder.iterdir()}
    self.assertEqual(names, {"10.npz", "11.npz"})

  def test_takes_the_one_before_a_damaged_one(self):
    saved = self.saved(1, 2)
    path = self.folder / "2.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with self.assertLogs(logger="absl", level="WARNING") as logs:
      self.assertEqual(saved.newest().step, 1)
    self.assertRegex(logs.output[0], "2.npz is damaged.*It is passed over")

  def test_begins_anew_if_all_are_damaged(self):
    saved = self.saved(8, 9)
    for path in self.folder.iterdir():
      path.write_text("garbage")
    self.assertIsNone(saved.newest())
    self.saved(3)
    self.assertEqual(saved.newest().step, 3)
    self.assertEqual([path.name for path in self.folder.iterdir()], ["3.npz"])

  def test_does_not_fit_another_model(self):
    newest = self.saved(1).newest()
    for change in (
      {"params": {"w": jnp.ones((3, 4)), "b": jnp.ones(5)}},
      {"done": jnp.ones(2)},
      {"more": jnp.ones(2)},
    ):
      other = {**state(0), **change}
      with self.assertRaisesRegex(RefusedError, "1.npz does not fit this mod"):
        newest.tree(jax.eval_shape(lambda other=other: other))

  def test_half_precision(self):
    tree = {"w": jnp.arange(4, dtype=jnp.bfloat16)}
    saved = Checkpoints(self.folder)
    saved.save(1, tree, [])
    restored = saved.newest().tree(jax.eval_shape(lambda: tree))
    chex.assert_trees_all_equal(jax.tree.map(jnp.asarray, restored), tree)
