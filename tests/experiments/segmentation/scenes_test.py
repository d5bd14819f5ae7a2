"""The scenes: masks are exact, seeds determine them, crops are parts."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Batch
from experiments.segmentation import digits, scenes
from experiments.segmentation.scenes import Look


def small_images(size=6):
  """Returns images of constant brightness: bright ones are to be found."""
  labels = np.tile(np.arange(4), 5)
  bright = np.where(labels < digits.WANTED, 200 + labels, 100 + labels)
  pixels = np.ones((len(labels), size, size, 1)) * bright[:, None, None, None]
  batch = Batch(pixels.astype(np.uint8), labels)
  return Images(
    "small", batch, batch, 4, lambda x: x.astype(jnp.float32) / 255, batch
  )


class ShapesTest(absltest.TestCase):
  def test_the_mask_is_exact(self):
    """Without noise, texture and light, brightness tells what is a shape."""
    with (
      mock.patch.object(scenes, "NOISE", 0.0),
      mock.patch.object(scenes, "TEXTURE", 0.0),
    ):
      task = scenes.shapes(Look(lighting=0.0))
      found = task.draw(jax.random.key(0), None, 8)
    bright = np.asarray(found.inputs[..., 0])
    classes = np.asarray(found.targets)
    np.testing.assert_array_equal(bright[classes == 0], 0)
    low, high = scenes.CONTRAST
    self.assertBetween(bright[classes > 0].min(), low, high)
    self.assertBetween(bright[classes > 0].max(), low, high)
    # A shape has one brightness, so where two overlap it says which is on top.
    for image, mask in zip(bright, classes, strict=True):
      for value in np.unique(image):
        self.assertLen(np.unique(mask[image == value]), 1)
    self.assertEqual([*np.unique(classes)], [0, 1, 2])
    self.assertBetween((classes == 0).mean(), 0.6, 0.9)

  def test_a_disk_and_a_bar_beside_a_loop(self):
    side = 16
    place = jnp.arange(0.5, side)
    y, x = jnp.meshgrid(place, place, indexing="ij")
    for kind, name in ((0.9, "disk"), (0.1, "bar")):
      # Middle at x = 8, y = 4; the turn of 0 puts the bar along x.
      numbers = jnp.array([0.5, 0.25, 0.0, 0.0, kind, 0.0, 0, 0, 0, 0])
      inside, number, _ = scenes._shape(numbers, x, y)
      radius = scenes.RADIUS[0]
      for row in range(side):
        for column in range(side):
          across, along = row + 0.5 - 4, column + 0.5 - 8
          expected = (
            abs(across) < scenes.BAR / 2 and abs(along) < 2 * radius
            if name == "bar"
            else across**2 + along**2 < radius**2
          )
          self.assertEqual(inside[row, column], expected, (name, row, column))
      self.assertEqual(number, {"disk": 1, "bar": 2}[name])

  def test_the_light_is_of_the_whole_scene(self):
    key = jax.random.key(3)
    plain, lit = (
      scenes.lit(key, jnp.eye(4), Look(lighting=lighting)).ravel()
      for lighting in (0.0, 1.0)
    )
    gain, offset = np.polyfit(plain, lit, 1)
    np.testing.assert_allclose(gain * plain + offset, lit, atol=1e-4)
    self.assertBetween(gain, 0.5, 2.0)
    self.assertGreater(abs(gain - 1) + abs(offset), 0.1)


class SetsTest(absltest.TestCase):
  def test_a_seed_determines_them(self):
    task = scenes.shapes(Look(side=16))

    def drawn(seed):
      scenes.sets.cache_clear()
      found = scenes.sets(task, seed, crop=8, train=5, test=3)
      return [np.asarray(batch.inputs) for batch in found]

    first, again, other = drawn(0), drawn(0), drawn(1)
    self.assertEqual([len(array) for array in first], [5, 3, 3])
    for a, b, c in zip(first, again, other, strict=True):
      np.testing.assert_array_equal(a, b)
      self.assertGreater(np.abs(a - c).max(), 0)
    self.assertGreater(np.abs(first[1] - first[2]).max(), 0)

  def test_crops_are_parts_of_scenes(self):
    image = jnp.arange(2 * 36.0).reshape(2, 6, 6, 1)
    keys = jax.random.split(jax.random.key(0), 2)
    found = scenes._crops(keys, image, image[..., 0].astype(jnp.int32), 3)
    self.assertEqual(found.inputs.shape, (2, 3, 3, 1))
    for number in range(2):
      y, x = divmod(int(found.inputs[number, 0, 0, 0]) - 36 * number, 6)
      part = image[number, y : y + 3, x : x + 3, 0]
      np.testing.assert_array_equal(found.inputs[number, ..., 0], part)
      np.testing.assert_array_equal(found.targets[number], part)


class DigitsTest(parameterized.TestCase):
  def test_classes_are_where_the_wanted_digits_are(self):
    with mock.patch.object(scenes, "NOISE", 0.0):
      task = digits.digits(small_images(), Look(side=24, lighting=0.0))
      found = task.draw(jax.random.key(1), task.train, 4)
    bright = np.round(255 * np.asarray(found.inputs[..., 0])).astype(int)
    classes = np.asarray(found.targets)
    self.assertEqual([*np.unique(classes)], [0, 1, 2])
    self.assertEqual(len(task.classes), 3)
    # The brightness is that of the image, so where digits do not overlap with
    # others, it tells the class. Clutter may be brighter than a 0 on it.
    self.assertEqual({*np.unique(bright[classes == 1])} - {200, 201}, set())
    self.assertEqual({*np.unique(bright[classes == 2])} - {201}, set())
    # Halves of wanted digits are background, as are those of others.
    self.assertContainsSubset(
      {0, 102, 103, 200, 201}, {*np.unique(bright[classes == 0])}
    )

  @parameterized.parameters(4, 7)
  def test_a_half(self, size):
    keep = digits._half(jnp.array(0.3), size)
    middle = np.rot90(keep, 2)  # The other side of the line.
    self.assertFalse((np.asarray(keep) & middle).any())
    self.assertLessEqual(size * size - 2 * int(keep.sum()), 1)


if __name__ == "__main__":
  absltest.main()
