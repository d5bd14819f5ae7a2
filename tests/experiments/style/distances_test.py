"""The distances of pictures to styles and contents, and the pictures."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab.data.batch import Batch
from experiments.style import losses, tasks, texture

grams = jax.jit(texture.grams)
style_distance = jax.jit(texture.style_distance)


def pictures(count=2, side=20, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(size=(count, side, side, 3)).astype(np.float32)


class FeaturesTest(parameterized.TestCase):
  @parameterized.parameters(0, 1, 2)
  def test_loops_in_numpy(self, scale):
    x = pictures(1, 24)
    found = np.asarray(texture.features(jnp.asarray(x))[scale])
    size, filters = 2**scale, texture.filters()
    side = 24 // size
    self.assertEqual(found.shape, (1, side - 4, side - 4, 32))
    small = np.zeros((side, side, 3))
    for i in range(side):
      for j in range(side):
        block = x[0, i * size : (i + 1) * size, j * size : (j + 1) * size]
        small[i, j] = block.mean((0, 1)) - 0.5
    for i, j in ((0, 0), (1, 0), (side - 5, side - 5)):
      patch = small[i : i + 5, j : j + 5]
      for number in (0, 31):
        wanted = max(0.0, (patch * filters[..., number]).sum())
        self.assertAlmostEqual(found[0, i, j, number], wanted, places=5)

  def test_gram_matrices_in_loops(self):
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 5))
    wanted = np.zeros((2, 5, 5))
    for n, i, j in np.ndindex(2, 3, 4):
      wanted[n] += np.outer(x[n, i, j], x[n, i, j]) / 12
    found = texture.gram(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


class DistancesTest(absltest.TestCase):
  def test_the_style(self):
    x = jnp.asarray(pictures())
    own = grams(x)
    np.testing.assert_allclose(style_distance(x, own), 0, atol=1e-6)
    gray = jnp.full_like(x, 0.5)
    np.testing.assert_allclose(style_distance(gray, own), 1, rtol=1e-5)
    # Features that are twice as large: their products are four times as large.
    stronger = tasks.faded(x, 2.0)
    np.testing.assert_allclose(style_distance(stronger, own), 9, rtol=1e-4)

  def test_the_style_does_not_say_where(self):
    """A texture shifted by its period has the same distance."""
    stripes = np.tile(pictures(1, 4), (1, 8, 8, 1))
    x, shifted = stripes[:, :20, :20], stripes[:, 4:24, 4:24]
    found = style_distance(jnp.asarray(shifted), grams(jnp.asarray(x)))
    np.testing.assert_allclose(found, 0, atol=1e-6)

  def test_the_content(self):
    x = jnp.asarray(pictures(4))
    variance = float(jax.jit(texture.content_variance)(x))

    @jax.jit
    def distance(y):
      return texture.content_distance(y, x, variance)

    np.testing.assert_allclose(distance(x), 0, atol=1e-6)
    np.testing.assert_allclose(distance(texture.gray(x)), 0, atol=1e-5)
    blank = distance(jnp.full_like(x, 0.7))
    self.assertAlmostEqual(float(blank.mean()), 1, places=5)
    self.assertGreater(float(distance(x[::-1]).min()), 0.5)

  def test_the_loss_is_of_the_style_of_each_picture(self):
    task = tasks.load(20)
    styles = np.array([2, 0], np.int32)
    crops = tasks.crops(task.test, 20)[30:32]
    measured = jax.jit(lambda x, b: losses.distances(x, b, task, 0.5))
    painted = jnp.asarray(task.styles[styles, :20, :20])
    found = measured(painted, Batch(crops, styles))
    np.testing.assert_allclose(
      found["loss"], found["style"] + 0.5 * found["content"], rtol=1e-5
    )
    self.assertLess(float(found["style"][0]), 0.1)  # Of the dots: everywhere.


class TasksTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.task = tasks.load(32)

  def test_the_sets_share_no_pixel(self):
    task = self.task
    widths = [p.shape[1] for p in (task.test, task.train, task.validation)]
    self.assertEqual(widths, [80, 160, 80])
    whole = np.concatenate([task.test, task.train, task.validation], axis=1)
    self.assertEqual(whole.shape, (213, 320, 3))
    for columns in (79, 239):  # Neighbours in the photograph.
      jump = np.abs(whole[:, columns + 1] - whole[:, columns]).mean()
      self.assertLess(jump, 0.1)

  def test_held_out_crops(self):
    batch = tasks.held_out(self.task.test, 32, style=2)
    self.assertEqual(batch.inputs.shape, (48, 32, 32, 3))
    np.testing.assert_array_equal(batch.targets, np.full(48, 2))
    np.testing.assert_array_equal(batch.inputs[5], self.task.test[16:48, 16:48])

  def test_batches_are_crops_of_the_training_part(self):
    source = tasks.source(self.task, (0, 2), 16)
    with jax.numpy_rank_promotion("raise"):
      batch, again, other = (
        source.batch(jax.random.key(seed), jnp.asarray(step), source.data)
        for seed, step in ((0, 0), (0, 0), (0, 1))
      )
    np.testing.assert_array_equal(batch.inputs, again.inputs)
    self.assertGreater(np.abs(batch.inputs - other.inputs).max(), 0)
    self.assertEqual({*np.asarray(batch.targets).tolist()}, {0, 2})
    windows = np.lib.stride_tricks.sliding_window_view(
      self.task.train, (32, 32), axis=(0, 1)
    )
    rows = windows[:, :, :, 0].transpose(0, 1, 3, 2)  # Their first rows.
    ways = {"as it is": 0, "mirrored": 0}
    for crop in np.asarray(batch.inputs):
      for name, row in (("as it is", crop[0]), ("mirrored", crop[0, ::-1])):
        ways[name] += (rows == row).all((2, 3)).any()
    self.assertEqual(sum(ways.values()), 16)
    self.assertGreater(min(ways.values()), 2)

  def test_styles_are_pictures(self):
    styles = self.task.styles
    self.assertEqual(styles.shape, (3, 128, 128, 3))
    self.assertGreaterEqual(styles.min(), 0)
    self.assertLessEqual(styles.max(), 1)
    self.assertGreater(styles.std((1, 2)).min(), 0.05)


if __name__ == "__main__":
  absltest.main()
