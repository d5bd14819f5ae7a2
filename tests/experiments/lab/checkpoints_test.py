"""Tests of what a killed run leaves and what the next one finds."""

import contextlib
import os
import pathlib
import tempfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

from experiments.lab import checkpoints
from experiments.lab.checkpoints import Checkpoints, WorkdirError


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


class WorkdirTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.enter_context(contextlib.chdir(self.root))

  def check(self, workdir, resume):
    checkpoints.check_workdir(workdir, study="mnist", resume=resume)

  def test_a_new_one_has_a_name_of_its_own(self):
    folders = [checkpoints.new_workdir("mnist") for _ in range(3)]
    self.assertLen(set(folders), 3)
    for folder in folders:
      self.assertTrue(folder.is_dir())
      self.assertEqual(folder.parent, pathlib.Path("runs/mnist"))

  @parameterized.product(resume=[True, False], exists=[True, False])
  def test_accepts_an_empty_one(self, resume, exists):
    if exists:
      (self.root / "w").mkdir()
      (self.root / "w" / ".config.json.123.tmp").touch()
    self.check("w", resume)
    self.assertEqual((self.root / "w").exists(), exists)

  def test_does_not_overwrite(self):
    (self.root / "w").mkdir()
    (self.root / "w" / "config.json").write_text("{}")
    with self.assertRaisesRegex(WorkdirError, "config.json. Add --resume"):
      self.check("w", resume=False)
    self.check("w", resume=True)

  def test_does_not_resume_what_is_no_run(self):
    (self.root / "w").mkdir()
    (self.root / "w" / "thesis.tex").touch()
    with self.assertRaisesRegex(WorkdirError, "thesis.tex, but no config.json"):
      self.check("w", resume=True)

  def test_does_not_take_a_file(self):
    (self.root / "w").touch()
    with self.assertRaisesRegex(WorkdirError, "not a folder"):
      self.check("w", resume=False)

  def test_names_the_newest_unfinished_run(self):
    with self.assertRaisesRegex(WorkdirError, "No unfinished run"):
      self.check(None, resume=True)
    runs = {
      "newest": ["config.json"],
      "older": ["config.json"],
      "newer_but_finished": ["config.json", "summary.json"],
    }
    for name, files in runs.items():
      folder = self.root / "runs" / "mnist" / name
      folder.mkdir(parents=True)
      for file in files:
        (folder / file).touch()
    os.utime(self.root / "runs" / "mnist" / "older" / "config.json", (0, 0))
    with self.assertRaisesRegex(
      WorkdirError, "needs --workdir.*--workdir=runs/mnist/newest$"
    ):
      self.check(None, resume=True)

  def test_tells_how_configurations_differ(self):
    recorded = {"norm": ["ln"], "epochs": 3, "gone": 1}
    checkpoints.check_same_config(recorded, {**recorded, "norm": ("ln",)})
    with self.assertRaises(WorkdirError) as caught:
      checkpoints.check_same_config(
        recorded, {"norm": ("ln", "bn"), "epochs": 3, "new": 2.5}
      )
    message = str(caught.exception)
    self.assertIn("--norm: ['ln'] in the run, ['ln', 'bn'] now", message)
    self.assertIn("--gone: 1 in the run, None now", message)
    self.assertIn("--new: None in the run, 2.5 now", message)
    self.assertNotIn("epochs", message)
