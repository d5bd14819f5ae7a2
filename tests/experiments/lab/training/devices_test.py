"""Several devices against one: the same numbers, but for rounding."""

import functools

import chex
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from jax.sharding import Mesh

from experiments.lab.data import sequences as sequence_tasks
from experiments.lab.data.arrays import Pool, Sizes
from experiments.lab.data.batch import Batch
from experiments.lab.models.nets import CNN, MLP
from experiments.lab.models.norms import without_dropout
from experiments.lab.models.transformer import LanguageModel
from experiments.lab.training import classification, devices
from experiments.lab.training.batches import Drawn, Shuffled
from experiments.lab.training.engine import Engine
from experiments.lab.training.losses import cross_entropy
from experiments.lab.training.step import Update
from normjax.linen import make_norm, norm_names

# Not Adam, which makes rounding of tiny gradients visible.
OPTIMIZER = optax.sgd(0.1)


def two_processes():
  """Returns the mesh of two processes with four devices each."""
  return Mesh(devices.make_mesh(8, 8).devices.reshape(2, 4), devices._AXES)


def examples(count, seed):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 255, (count, 4, 4, 1), np.uint8)
  return Batch(images, rng.integers(0, 3, count).astype(np.int32))


def prepare(images):
  return images.astype(jnp.float32) / 255


def options(norm):
  return {"gn": {"num_groups": 2}, "gbn": {"ghost_size": 2}}.get(norm, {})


class MeshTest(parameterized.TestCase):
  @parameterized.parameters(
    # Asked for, batch size, devices of the mesh.
    (None, 64, 8),
    (None, 12, 6),
    (None, 3, 3),
    (None, 13, None),
    (4, 64, 4),
    (1, 64, None),
  )
  def test_has_equal_shares(self, count, batch_size, expected):
    mesh = devices.make_mesh(count, batch_size)
    self.assertEqual(mesh and mesh.size, expected)

  def test_refuses_what_cannot_be(self):
    with self.assertRaisesRegex(devices.DevicesError, "=12 .*=8; use a multi"):
      devices.make_mesh(8, 12)
    with self.assertRaisesRegex(devices.DevicesError, "9 is more than the 8"):
      devices.make_mesh(9, 18)


class ShareTest(absltest.TestCase):
  def test_a_process_looks_at_its_share_only(self):
    seen = []

    class Watched(np.ndarray):
      def __getitem__(self, index):
        seen.append(index[0].indices(len(self))[:2])
        return super().__getitem__(index)

    array = np.arange(12, dtype=np.float32).reshape(6, 2)
    shared = devices.share(array.view(Watched), two_processes())
    self.assertEqual({*seen}, {(0, 3), (3, 6)})
    chex.assert_trees_all_equal(np.asarray(shared), array)
    for shard in shared.addressable_shards:
      self.assertEqual(shard.data.shape, (3, 2))

  def test_where_there_are_no_equal_shares_all_get_all(self):
    array = np.arange(5)
    shared = devices.share(array, two_processes())
    chex.assert_trees_all_equal(np.asarray(shared), array)
    self.assertTrue(shared.is_fully_replicated)


@functools.cache  # Compiling is what takes time.
def classify(norm, mesh, *, model=MLP, hidden=(8,), scan=True):
  """Returns state, sums of training and of evaluation after two epochs."""
  train = devices.share(examples(28, seed=0), mesh)
  engine = Engine(
    model(
      norm=functools.partial(make_norm, norm, **options(norm)),
      hidden=hidden,
      dropout=0.1,
      num_classes=3,
    ),
    Update(cross_entropy(prepare), OPTIMIZER),
    Shuffled(train, 8),
    sample=np.zeros((1, 4, 4, 1), np.float32),
    eval_size=9,
    scan=scan,
    mesh=mesh,
  )
  validation = devices.replicate(examples(21, seed=1), mesh)
  state, records = engine.train(engine.init([0]), 6)
  metrics = engine.evaluate(state.variables, validation)
  return engine, state, (records.sums, metrics)


def assert_as_on_one_device(found, expected, *, rtol):
  """Compares states and numbers of eight devices with those of one."""
  (state, numbers), (expected_state, expected_numbers) = found, expected
  assert len(state.step.sharding.device_set) == 8
  chex.assert_trees_all_close(numbers, expected_numbers, rtol=rtol)
  chex.assert_trees_all_close(
    state.variables,
    expected_state.variables,
    atol=2e-5,
  )


class ClassifierTest(parameterized.TestCase):
  @parameterized.parameters(
    *({"norm": norm} for norm in norm_names() if norm != "in"),
    {"norm": "in", "model": CNN, "hidden": (4,)},
    {"norm": "bn", "scan": False},
  )
  def test_trains_as_on_one_device(self, norm, **settings):
    mesh = devices.make_mesh(None, 8)
    _, *expected = classify(norm, None, **settings)
    _, *found = classify(norm, mesh, **settings)
    assert_as_on_one_device(found, expected, rtol=2e-5)

  def test_trains_as_on_one_device_where_processes_share_the_data(self):
    _, *expected = classify("bn", None)
    _, *found = classify("bn", two_processes())
    assert_as_on_one_device(found, expected, rtol=2e-5)

  def test_each_device_computes_its_share_only(self):
    mesh = devices.make_mesh(None, 8)
    engine, state, _ = classify("bn", mesh)
    plan = engine._plan(state.key, 0)
    # The compiler is asked anew, for its text.
    lowered = engine._advance.lower(3, state, plan, 0, 3, engine.source.data)
    text = lowered.compile().as_text()
    self.assertIn("all-reduce", text)
    self.assertIn("u8[1,4,4,1]", text)  # One of eight images,
    self.assertNotIn("u8[8,4,4,1]", text)  # nowhere all of them.

  def test_reestimates_as_on_one_device(self):
    results = []
    for mesh in (None, two_processes()):
      engine, state, _ = classify("bn", mesh)
      source = Shuffled(engine.source.data, 8, ordered=True)
      results.append(engine.reestimate(state.variables, source))
    chex.assert_trees_all_close(*results, atol=2e-5)


class PoolTest(absltest.TestCase):
  def test_seeds_with_sets_of_their_own_train_as_on_one_device(self):
    results = []
    for mesh in (None, two_processes()):
      data = devices.replicate(examples(50, seed=0), mesh)
      pool = Pool("some", data, Sizes(28, 8, 14), 3, prepare)
      images = pool.split([0, 1], noise=0.2)
      engine = classification.classifier(
        MLP(functools.partial(make_norm, "bn"), hidden=(8,), num_classes=3),
        OPTIMIZER,
        images,
        batch_size=8,
        eval_size=9,
        mesh=mesh,
      )
      state, records = engine.train(engine.init([0, 1]), 4)
      again = classification.reestimated(engine, state, images.train)
      metrics = engine.evaluate(again, images.test)
      results.append((state, (records.sums, metrics)))
    expected, found = results
    assert_as_on_one_device(found, expected, rtol=2e-5)


def sequence(mesh):
  """Returns state and losses of a language model on padded sequences.

  With batch norm: its statistics are of what is not padded, on all devices.
  """
  task = sequence_tasks.load("copy", dataset="", data_dir=None, context=6)
  model = LanguageModel(
    functools.partial(make_norm, "bn"),
    vocabulary=task.classes,
    layers=1,
    width=8,
    heads=2,
    context=6,
    dropout=0.1,
  )
  engine = Engine(
    model,
    Update(cross_entropy(), OPTIMIZER),
    Drawn(task.draw, task.data, 8),
    sample=np.zeros((1, 6), np.int32),
    mesh=mesh,
  )
  state, records = engine.train(engine.init([0]), 4)
  some = devices.replicate(task.validation.first(21), mesh)
  still = without_dropout(model)
  losses = [
    engine.evaluate(state.variables, some, train=train, size=8, model=still)
    for train in (False, True)
  ]
  return state, (records.sums, losses)


class SequenceTest(absltest.TestCase):
  def test_trains_as_on_one_device(self):
    found = sequence(devices.make_mesh(None, 8))
    assert_as_on_one_device(found, sequence(None), rtol=5e-5)


if __name__ == "__main__":
  absltest.main()
