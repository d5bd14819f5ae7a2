"""The GAN: its networks, its losses, and its training."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.gan import arms, drawing, training
from experiments.gan.arms import ARMS
from experiments.gan.config import Config
from experiments.gan.yardstick import Yardstick
from experiments.lab.data import arrays
from experiments.lab.data.batch import Batch
from experiments.lab.errors import RefusedError


def compiled(loss):
  return jax.jit(loss, static_argnums=(0, 4))


@functools.cache
def networks(name, hidden=(8,)):
  """Returns networks of an arm with variables, for noise of 5 numbers."""
  gan = arms.model(ARMS[name], hidden, (8, 8, 1))
  init = jax.jit(functools.partial(gan.init, train=False))
  return gan, init(jax.random.key(0), jnp.zeros((6, 5)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def called(gan, method, variables, inputs):
  return gan.apply(
    variables, inputs, train=True, mutable=["batch_stats"], method=method
  )


class NetworksTest(parameterized.TestCase):
  @parameterized.parameters(*ARMS)
  def test_the_places_of_the_norms(self, name):
    gan = arms.model(ARMS[name], (8, 8), (8, 8, 1))
    init = functools.partial(gan.init, train=False)
    noise = jax.ShapeDtypeStruct((6, 5), jnp.float32)
    variables = jax.eval_shape(init, jax.random.key(0), noise)
    generate = functools.partial(gan.apply, train=False, method="generate")
    images = jax.eval_shape(generate, variables, noise)
    self.assertEqual(images.shape, (6, 8, 8, 1))
    found = {
      network: sum("BatchNorm" in layer for layer in params)
      for network, params in variables["params"].items()
    }
    expected = {
      "none": (0, 0),
      "generator": (2, 0),
      "both": (2, 1),
      "all": (3, 2),
      "last": (2, 2),
      "gn": (0, 0),
      "spectral": (2, 0),
    }[name]
    self.assertEqual((found["generator"], found["discriminator"]), expected)
    groups = [n for n in variables["params"]["generator"] if "Group" in n]
    self.assertLen(groups, 2 * (name == "gn"))

  def test_equal_seeds_have_equal_kernels(self):
    kernels = [
      {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(
          networks(name)[1]["params"]
        )
        if path[-1].key == "kernel"
      }
      for name in ("none", "last")
    ]
    self.assertLen(kernels[0], 4)
    chex.assert_trees_all_equal(*kernels)

  def test_sizes_that_cannot_be_halved_get_a_frame(self):
    gan = arms.model(ARMS["none"], (8, 8), (14, 14, 1))
    self.assertEqual(gan.generator.size, 16)
    images = np.random.default_rng(0).uniform(size=(2, 14, 14, 1))
    framed = arms.framed(images.astype(np.float32), 16)
    chex.assert_shape(framed, (2, 16, 16, 1))
    np.testing.assert_array_equal(framed[:, 0], -1)
    np.testing.assert_allclose(arms.unframed(framed, 14), images, atol=1e-6)

  def test_images_must_be_square(self):
    with self.assertRaisesRegex(RefusedError, "square, got 8x6"):
      arms.model(ARMS["none"], (8,), (8, 6, 1))

  def test_kernels_with_spectral_norm(self):
    """After many steps of power iteration, no kernel stretches by over 1."""
    gan, variables = networks("spectral")
    images = jnp.ones((6, 8, 8, 1))
    for _ in range(30):
      logits, changed = called(gan, "judge", variables, images)
      variables = {**variables, **changed}
    kernel = variables["params"]["discriminator"]["Dense_0"]["kernel"]
    scale = np.linalg.norm(kernel)  # A single output: the only singular value.
    stats = variables["batch_stats"]["discriminator"]
    found = [
      leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(stats)
      if "Dense_0" in str(path) and "sigma" in str(path)
    ]
    np.testing.assert_allclose(found[0], scale, rtol=1e-3)
    chex.assert_shape(logits, (6,))


class LossesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.batch = Batch(np.zeros((6, 8, 8, 1), np.uint8), np.zeros(6, np.int32))
    prepare = lambda inputs: jnp.asarray(inputs, jnp.float32)
    self.losses = training.adversarial(prepare, 8, 5)

  def test_against_numpy(self):
    gan, variables = networks("last")
    key = jax.random.key(3)
    noise = jax.random.normal(key, (6, 5))
    fake, real = (
      called(gan, "judge", variables, images)[0]
      for images in (
        called(gan, "generate", variables, noise)[0],
        jnp.full((6, 8, 8, 1), -1.0),  # Black.
      )
    )
    sigmoid = lambda logits: 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    expected = (
      -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean(),
      -np.log(sigmoid(fake)).mean(),
    )
    for loss, value in zip(self.losses, expected, strict=True):
      found, _, sums = compiled(loss)(gan, variables, self.batch, key, True)
      self.assertAlmostEqual(float(found), value, places=5)
      self.assertEqual(float(sums["count"]), 6)
      if "right" in sums:
        right = (np.sum(real > 0) + np.sum(fake < 0)) / 2
        self.assertEqual(float(sums["right"]), right)

  def test_real_and_generated_are_two_batches(self):
    """A norm on the logits then leaves no difference of their means."""
    gan, variables = networks("last")
    key, other = jax.random.split(jax.random.key(3))
    real = 5 + jax.random.normal(other, (6, 8, 8, 1))
    batch = self.batch._replace(inputs=real)
    loss = compiled(self.losses[0])
    _, changed, _ = loss(gan, variables, batch, key, True)
    noise = jax.random.normal(key, (6, 5))
    fake, _ = called(gan, "generate", variables, noise)
    means = []
    for images in (2 * real - 1, fake):
      logits, stats = called(gan, "judge", variables, images)
      self.assertAlmostEqual(float(logits.mean()), 0, places=5)
      # What a pass adds to the running mean, which starts at 0.
      norm = stats["batch_stats"]["discriminator"]["BatchNorm_0"]
      means.append(norm["mean"])
    found = changed["batch_stats"]["discriminator"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(found, 0.9 * means[0] + means[1], rtol=1e-4)


class TrainingTest(absltest.TestCase):
  def test_of_two_rates_and_seeds(self):
    pool = arrays.load_pool("digits")
    config = Config(
      hidden=(8,), noise=4, steps=8, checkpoints=4, samples=50, batch_size=16
    )
    rng = np.random.default_rng(0)
    shapes = {"Dense_0": (64, 128), "Dense_1": (128, 32), "Dense_2": (32, 10)}
    trained = {
      f"{name}/kernel": rng.normal(size=(1, *shape)).astype(np.float32)
      for name, shape in shapes.items()
    } | {
      f"{name}/bias": np.zeros((1, shape[1]), np.float32)
      for name, shape in shapes.items()
    }
    judges = dict.fromkeys((0, 1), Yardstick(trained, 0, 10))
    engine = training.build(ARMS["generator"], config, pool)
    with jax.numpy_dtype_promotion("standard"):  # Of optax.
      found = training.train(engine, config, pool, judges, [0.0, 0.1], [0, 1])
      again = training.train(engine, config, pool, judges, [0.1], [1])
      other = training.train(engine, config, pool, judges, [0.1], [1], True)
    chex.assert_shape(found["distances"], (2, 2, 4))
    chex.assert_shape(found["samples"], (2, 2, 9, 8, 8, 1))
    chex.assert_shape(found["validation"], (2, 2))
    chex.assert_tree_all_finite(found)
    # One lane after the other, in any company.
    for name, values in again.items():
      np.testing.assert_array_equal(found[name][1, 1], values[0, 0], name)
    self.assertGreater(np.abs(other["moved"] - again["moved"]).max(), 1e-3)
    # At a rate of zero only the running statistics move the samples.
    self.assertLess(found["moved"][0].max(), found["moved"][1].max())
    last = np.log(found["watched"][..., -1])
    np.testing.assert_allclose(found["validation"], last)

  def test_widths_without_groups_are_refused(self):
    pool = arrays.load_pool("digits")
    with self.assertRaisesRegex(RefusedError, "make --hidden a multiple of 8"):
      training.build(ARMS["gn"], Config(hidden=(12,)), pool)


class MosaicTest(absltest.TestCase):
  def test_rows_and_lines(self):
    images = np.arange(9, dtype=np.uint8)[:, None, None, None]
    whole = drawing.mosaic(np.broadcast_to(images, (9, 2, 2, 1)))
    chex.assert_shape(whole, (8, 8))
    np.testing.assert_array_equal(
      whole[::3, ::3], [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    )
    np.testing.assert_array_equal(whole[2], 255)


if __name__ == "__main__":
  absltest.main()
