"""A whole model, of which only the import line changes."""

import pathlib
import tempfile

import chex
import flax.linen
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
from absl.testing import parameterized

import normjax.linen

KEY = jax.random.key(0)
IMAGES = jnp.asarray(
  np.random.default_rng(0).normal(size=(3, 16, 8, 8, 2)).astype("float32")
)


class Net(flax.linen.Module):
  """A ConvNet and an MLP with all five norms of a library."""

  norms: object

  @flax.linen.compact
  def __call__(self, x, train):
    nn = self.norms
    x = flax.linen.Conv(8, (3, 3), use_bias=False)(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.8)(x)
    x = flax.linen.relu(x)
    x = nn.GroupNorm(num_groups=4)(x)
    x = flax.linen.Conv(8, (3, 3), strides=(2, 2))(x)
    x = nn.InstanceNorm()(x)
    x = flax.linen.relu(x).reshape(x.shape[0], -1)
    x = nn.RMSNorm()(flax.linen.Dense(16)(x))
    x = nn.BatchNorm(use_bias=False)(x, use_running_average=not train)
    x = nn.LayerNorm()(flax.linen.relu(x))
    return flax.linen.Dense(4)(x)


OURS, THEIRS = Net(normjax.linen), Net(flax.linen)


def init(model):
  return jax.jit(model.init, static_argnums=2)(KEY, IMAGES[0], True)


def evaluate(model, variables):
  return jax.jit(model.apply, static_argnums=2)(variables, IMAGES[0], False)


def train(model, variables):
  """Returns losses and variables after steps of gradient descent."""

  @jax.jit
  def step(variables, images):
    def loss(params):
      logits, updates = model.apply(
        {**variables, "params": params}, images, True, mutable=["batch_stats"]
      )
      labels = jnp.arange(16) % 4
      return -jnp.mean(
        jax.nn.log_softmax(logits)[jnp.arange(16), labels]
      ), updates

    (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(
      variables["params"]
    )
    params = jax.tree.map(
      lambda p, g: p - 0.05 * g, variables["params"], gradients
    )
    return value, {"params": params, **updates}

  losses = []
  for images in IMAGES:
    value, variables = step(variables, images)
    losses.append(value)
  return losses, variables


class ModelTest(parameterized.TestCase):
  def test_init_train_and_evaluate_as_in_flax(self):
    variables = init(OURS)
    chex.assert_trees_all_equal(variables, init(THEIRS), strict=True)
    ours, theirs = train(OURS, variables), train(THEIRS, variables)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
      evaluate(OURS, ours[1]),
      evaluate(THEIRS, theirs[1]),
      atol=1e-3,
    )

  def test_checkpoints_of_flax_load_and_evaluate_the_same(self):
    shapes = jax.eval_shape(lambda: init(THEIRS))
    generator = np.random.default_rng(1)
    variables = jax.tree.map(
      lambda leaf: jnp.asarray(
        generator.uniform(0.5, 1, leaf.shape), "float32"
      ),
      shapes,
    )
    expected = evaluate(THEIRS, variables)
    template = jax.tree.map(jnp.zeros_like, variables)
    restored = [
      flax.serialization.from_bytes(
        template, flax.serialization.to_bytes(variables)
      )
    ]
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "checkpoint"
      with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, variables)
        checkpointer.wait_until_finished()
        restored.append(checkpointer.restore(path, template))
    for loaded in restored:
      chex.assert_trees_all_equal(loaded, variables)
      np.testing.assert_allclose(evaluate(OURS, loaded), expected, atol=1e-5)
