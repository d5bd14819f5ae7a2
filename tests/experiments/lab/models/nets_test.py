"""Tests of the models: where the norm goes, and what shapes they take."""

import functools
from typing import ClassVar
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from flax import linen as nn

from experiments.lab.models import nets
from experiments.lab.models.nets import CNN, MLP, MODELS, ConvNet
from normjax.linen import make_norm


def model(name, norm="ln", **options):
  return MODELS[name](norm=functools.partial(make_norm, norm), **options)


class Spy(nn.Module):
  """Adds 100 and remembers how it was made."""

  made: ClassVar = []

  train: bool
  dtype: jnp.dtype

  def __call__(self, x):
    Spy.made.append((self.train, self.dtype, x))
    return x + 100


class ModelsTest(parameterized.TestCase):
  @parameterized.product(
    name=[*MODELS], size=[(28, 28, 1), (8, 8, 1), (32, 32, 3)]
  )
  def test_logits_of_images_of_any_size(self, name, size):
    net = model(name, num_classes=7)
    x = jax.ShapeDtypeStruct((5, *size), jnp.float32)
    logits, variables = jax.eval_shape(
      lambda x: net.init_with_output(jax.random.key(0), x, train=False), x
    )
    self.assertEqual(logits.shape, (5, 7))
    layers = {"mlp": 3, "cnn": 7, "convnet": 9}[name]
    self.assertLen(variables["params"], layers)

  @parameterized.parameters(*MODELS)
  def test_half_precision_computes_and_float32_stores(self, name):
    net = model(name, dtype=jnp.bfloat16)
    logits, variables = jax.eval_shape(
      lambda x: net.init_with_output(jax.random.key(0), x, train=False),
      jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32),
    )
    self.assertEqual(logits.dtype, jnp.bfloat16)
    for leaf in jax.tree.leaves(variables):
      self.assertEqual(leaf.dtype, jnp.float32)

  @parameterized.product(
    make=[MLP, CNN, ConvNet], train=[True, False], position=["before", "after"]
  )
  def test_the_norm_is_where_it_should_be(self, make, train, position):
    Spy.made.clear()
    net = make(norm=Spy, norm_position=position, hidden=(4, 4))
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    variables = net.init(jax.random.key(0), x, train=False)
    Spy.made.clear()
    net.apply(variables, x, train=train, rngs={"dropout": jax.random.key(2)})
    self.assertLen(Spy.made, 2)
    for made_train, dtype, _ in Spy.made:
      self.assertEqual(made_train, train)
      self.assertEqual(dtype, jnp.float32)
    # After a ReLU nothing is negative.
    _, _, seen = Spy.made[0]
    self.assertEqual(bool((seen >= 0).all()), position == "after")

  def test_refuses_another_position(self):
    with self.assertRaisesRegex(ValueError, "'before', 'after'.*'beside'"):
      model("mlp", norm_position="beside").init(
        jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False
      )

  @parameterized.parameters("cnn", "convnet")
  def test_refuses_more_convolutions_than_the_image_can_be_halved(self, name):
    with self.assertRaisesRegex(ValueError, "needs at least 16 pixels"):
      model(name, hidden=(4,) * 5).init(
        jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False
      )

  def test_convnet_is_that_of_the_tutorials(self):
    net = model("convnet", "bn", hidden=(3, 5, 4))
    x = jax.random.normal(jax.random.key(1), (2, 9, 11, 1))
    variables = net.init(jax.random.key(0), x, train=False)
    params = variables["params"]

    def normalized(h, name):
      axes = tuple(range(h.ndim - 1))
      h = (h - h.mean(axes)) / jnp.sqrt(h.var(axes) + 1e-5)
      return nn.relu(h * params[name]["scale"] + params[name]["bias"])

    self.enter_context(jax.numpy_rank_promotion("allow"))

    h = x
    for stage in range(2):
      h = nn.Conv(net.hidden[stage], (3, 3)).apply(
        {"params": params[f"Conv_{stage}"]}, h
      )
      h = normalized(h, f"BatchNorm_{stage}")
      h = nn.max_pool(h, (2, 2), strides=(2, 2))
    self.assertEqual(h.shape, (2, 2, 2, 5))
    dense = lambda name, h: h @ params[name]["kernel"] + params[name]["bias"]
    h = normalized(dense("Dense_0", h.reshape(2, -1)), "BatchNorm_2")
    expected = dense("Dense_1", h)

    found, _ = net.clone(dropout=0.0).apply(
      variables, x, train=True, mutable=["batch_stats"]
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)

  def test_convolutions_are_not_in_a_loop_on_cpus(self):
    found = {name: nets.scannable(model(name)) for name in MODELS}
    self.assertEqual(found, {"mlp": True, "cnn": False, "convnet": False})
    with mock.patch("jax.default_backend", return_value="gpu"):
      self.assertTrue(nets.scannable(model("cnn")))

  @parameterized.parameters(*MODELS)
  def test_dropout_is_for_training(self, name):
    net = model(name, dropout=0.5, hidden=(16,))
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    variables = net.init(jax.random.key(0), x, train=False)
    run = lambda key, train: net.apply(
      variables, x, train=train, rngs={"dropout": jax.random.key(key)}
    )
    chex.assert_trees_all_equal(run(0, False), run(1, False))
    self.assertGreater(np.abs(run(0, True) - run(1, True)).max(), 1e-3)
