"""Tests of where batches come from."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments.lab.data.batch import Batch, Members
from experiments.lab.errors import RefusedError
from experiments.lab.training.batches import Drawn, Shuffled


def indices(source, key, epoch):
  """Returns the examples of every batch of an epoch."""
  plan = source.plan(key, jnp.asarray(epoch))
  return np.stack(
    [source.batch(plan, step, source.data) for step in range(source.period)]
  )


class ShuffledTest(absltest.TestCase):
  def test_an_epoch_is_a_fresh_order_of_different_examples(self):
    source = Shuffled(jnp.arange(44), 8)
    self.assertEqual(source.period, 5)  # Four examples are left out.
    orders = [
      indices(source, key, epoch).ravel()
      for key in jax.random.split(jax.random.key(0))
      for epoch in (0, 1)
    ]
    for order in orders:
      self.assertLen({*order.tolist()}, 40)
      self.assertContainsSubset(order.tolist(), range(44))
    self.assertLen({tuple(order) for order in orders}, 4)

  def test_in_order(self):
    source = Shuffled(jnp.arange(10), 3, ordered=True)
    for epoch in (0, 1):
      found = indices(source, jax.random.key(0), epoch)
      np.testing.assert_array_equal(found, np.arange(9).reshape(3, 3))

  def test_refuses_a_batch_larger_than_the_data(self):
    with self.assertRaisesRegex(RefusedError, "45 is more than the 44 train"):
      Shuffled(jnp.arange(44), 45)


class MembersTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.chosen = jnp.asarray([rng.permutation(44)[:20] for _ in range(3)])
    pool = Batch(jnp.arange(44) * 2, jnp.arange(44))
    self.data = Members(pool, self.chosen, self.chosen + 100)

  def batches(self, source, lane):
    own = jax.tree.map(lambda array: array[lane], source.own)
    plan = source.plan(jax.random.key(lane), jnp.asarray(0), own)
    batches = [
      source.batch(plan, step, source.data) for step in range(source.period)
    ]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *batches)

  def test_an_epoch_of_a_lane_is_its_own_examples(self):
    source = Shuffled(self.data, 5)
    self.assertEqual(source.period, 4)
    for lane in range(3):
      found = self.batches(source, lane)
      np.testing.assert_array_equal(
        np.sort(found.inputs), 2 * np.sort(self.chosen[lane])
      )
      np.testing.assert_array_equal(found.targets, found.inputs // 2 + 100)
      self.assertFalse(np.array_equal(found.inputs, 2 * self.chosen[lane]))

  def test_in_order(self):
    found = self.batches(Shuffled(self.data, 6, ordered=True), 1)
    np.testing.assert_array_equal(found.inputs, 2 * self.chosen[1, :18])

  def test_refuses_a_batch_larger_than_those_of_a_lane(self):
    with self.assertRaisesRegex(RefusedError, "21 is more than the 20 train"):
      Shuffled(self.data, 21)


class DrawnTest(absltest.TestCase):
  def test_the_number_of_the_step_decides(self):
    def draw(key, data, size):
      return data[jax.random.randint(key, (size,), 0, len(data))]

    source = Drawn(draw, jnp.arange(100), 5)
    plan = source.plan(jax.random.key(0), jnp.asarray(0))
    first, second, again = (
      np.asarray(source.batch(plan, jnp.asarray(step), source.data))
      for step in (0, 1, 0)
    )
    np.testing.assert_array_equal(first, again)
    self.assertFalse(np.array_equal(first, second))


if __name__ == "__main__":
  absltest.main()
