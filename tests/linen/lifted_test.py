"""Models with all norms under the lifted transformations and bridges of Flax.

Also their checkpoints, in models with the norms of the other library.
"""

import functools
import pathlib
import tempfile

import chex
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
from absl.testing import parameterized
from flax import nnx
from flax.nnx import bridge

import normjax.linen

KEY = jax.random.key(0)
POLICIES = {
  "none": None,
  "everything": jax.checkpoint_policies.everything_saveable,
  "nothing": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def images(seed=0, shape=(4, 5, 6)):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Block(nn.Module):
  """A residual block with each of the norms of a library."""

  norms: object = normjax.linen
  train: bool = True

  @nn.compact
  def __call__(self, x):
    average = not self.train
    y = nn.Dense(6)(x)
    y = x + self.norms.BatchNorm(use_running_average=average, momentum=0.8)(y)
    y = x + self.norms.GroupNorm(num_groups=2)(y)
    y = x + self.norms.InstanceNorm()(y)
    y = x + self.norms.RMSNorm()(y)
    return self.norms.LayerNorm()(y)


class Step(nn.Module):
  """A block as the body of a scan."""

  @nn.compact
  def __call__(self, x, _):
    return Block(name="block")(x), None


class Maybe(nn.Module):
  """A block that a condition may leave out."""

  @nn.compact
  def __call__(self, x, there=True):
    block = Block(name="block")
    if self.is_initializing():
      return block(x)
    return nn.cond(
      there, lambda block, x: block(x), lambda block, x: x, block, x
    )


class Repeated(nn.Module):
  """A block that is repeated until a counter has run out."""

  @nn.compact
  def __call__(self, x, times=1):
    block = Block(name="block")
    if self.is_initializing():
      return block(x)
    _, y = nn.while_loop(
      lambda block, carry: carry[0] > 0,
      lambda block, carry: (carry[0] - 1, block(carry[1])),
      block,
      (times, x),
      carry_variables="batch_stats",
    )
    return y


@functools.cache
def variables():
  """Returns variables of a block, random ones."""
  generator = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: jnp.asarray(
      generator.uniform(0.5, 1.5, leaf.shape), "float32"
    ),
    jax.eval_shape(Block().init, KEY, images()),
  )


def apply(model, variables, *args):
  return model.apply(variables, *args, mutable=["batch_stats"])


@functools.cache
def program(model):
  """Returns a compiled function, see `gradients`."""

  def run(params, x, variables, *args):
    y, updates = apply(model, {**variables, "params": params}, x, *args)
    return jnp.sum(jnp.sin(y)), (y, updates)

  return jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))


def gradients(model, variables, x, *args):
  """Returns loss, output, updates, and gradients in parameters and input."""
  return program(model)(variables["params"], x, variables, *args)


@functools.cache
def expected():
  return gradients(Block(), variables(), images())


def inside(tree):
  """Returns variables of a module whose only part is a block."""
  return {name: {"block": part} for name, part in tree.items()}


def outside(tree):
  """Returns variables of the block that is the only part of a module."""
  return {name: part["block"] for name, part in tree.items()}


def repeated(x, variables):
  """Applies blocks in a row, which share their statistics."""
  updates = {}
  for given in variables:
    x, updates = apply(Block(), {**given, **updates}, x)
  return x, updates


class LiftedTest(parameterized.TestCase):
  def assert_close(self, actual, wanted):
    chex.assert_trees_all_equal_structs(actual, wanted)
    chex.assert_trees_all_close(actual, wanted, rtol=1e-5, atol=1e-5)

  def test_jit(self):
    model = nn.jit(Block)()
    self.assert_close(gradients(model, variables(), images()), expected())
    y, updates = apply(model, variables(), images())
    self.assert_close((y, updates), expected()[0][1])

  @parameterized.parameters(*POLICIES)
  def test_remat(self, policy):
    model = nn.remat(Block, policy=POLICIES[policy])()
    self.assert_close(gradients(model, variables(), images()), expected())

  def test_cond(self):
    arguments = inside(variables()), images()
    (loss, (y, updates)), (d_params, dx) = gradients(
      Maybe(), *arguments, jnp.bool_(True)
    )
    self.assert_close(
      ((loss, (y, outside(updates))), (d_params["block"], dx)), expected()
    )
    y, updates = apply(Maybe(), *arguments, jnp.bool_(False))
    np.testing.assert_array_equal(y, images())
    chex.assert_trees_all_equal(
      outside(updates)["batch_stats"], variables()["batch_stats"]
    )

  def test_while_loop_carries_the_statistics(self):
    run = jax.jit(functools.partial(apply, Repeated()))
    y, updates = run(inside(variables()), images(), 3)
    wanted = repeated(images(), [variables()] * 3)
    self.assert_close((y, outside(updates)), wanted)

  def test_scan_of_remat(self):
    # https://github.com/google/flax/issues/2052: statistics as the carry.
    model = nn.scan(
      nn.remat(Step, prevent_cse=False),
      variable_broadcast="params",
      variable_carry="batch_stats",
      split_rngs={"params": False},
      length=3,
    )()

    def loss(params, x):
      given = {**inside(variables()), "params": {"block": params}}
      (y, _), updates = apply(model, given, x, None)
      return jnp.sum(jnp.sin(y)), (y, outside(updates))

    def unrolled(params, x):
      y, updates = repeated(x, [{**variables(), "params": params}] * 3)
      return jnp.sum(jnp.sin(y)), (y, updates)

    actual, wanted = (
      jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(
        variables()["params"], images()
      )
      for f in (loss, unrolled)
    )
    chex.assert_trees_all_close(actual, wanted, rtol=1e-4, atol=1e-4)

  def test_vmap_of_vmap(self):
    """Parameters by row, statistics by row and column."""
    inner = nn.vmap(
      Block,
      variable_axes={"params": None, "batch_stats": 0},
      split_rngs={"params": False},
    )
    model = nn.vmap(
      inner,
      variable_axes={"params": 0, "batch_stats": 1},
      split_rngs={"params": True},
    )()
    x = images(shape=(2, 3, 4, 5, 6))
    params = jax.tree.map(
      lambda leaf: jnp.stack([leaf, leaf + 0.1]), variables()["params"]
    )
    stats = jax.tree.map(
      lambda leaf: jnp.arange(6.0).reshape(3, 2, 1) + leaf[None, None],
      variables()["batch_stats"],
    )
    y, updates = jax.jit(functools.partial(apply, model))(
      {"params": params, "batch_stats": stats}, x
    )
    block = jax.jit(functools.partial(apply, Block()))
    for i in range(2):
      for j in range(3):
        own = {
          "params": jax.tree.map(lambda leaf: leaf[i], params),  # noqa: B023
          "batch_stats": jax.tree.map(lambda leaf: leaf[j, i], stats),  # noqa: B023
        }
        new = jax.tree.map(lambda leaf: leaf[j, i], updates)  # noqa: B023
        self.assert_close((y[i, j], new), block(own, x[i, j]))

  def test_map_variables(self):
    doubled = functools.partial(jax.tree.map, lambda leaf: 2 * leaf)
    model = nn.map_variables(Block, "params", doubled)()
    halves = jax.tree.map(lambda leaf: leaf / 2, variables()["params"])
    given = {**variables(), "params": halves}
    self.assert_close(apply(model, given, images()), expected()[0][1])


class Wrapped(nnx.Module):
  """A block of Linen as an NNX module that updates its statistics."""

  def __init__(self, rngs):
    self.block = bridge.ToNNX(Block(), rngs).lazy_init(images())

  def __call__(self, x):
    return self.block(x, mutable=["batch_stats"])


def linen_variables(module):
  """Returns variables as Linen has them, of an NNX module."""
  return {
    name: nnx.to_pure_dict(nnx.state(module, kind))
    for name, kind in (("params", nnx.Param), ("batch_stats", nnx.BatchStat))
  }


class BridgeTest(parameterized.TestCase):
  def test_to_nnx(self):
    module = Wrapped(nnx.Rngs(0))
    before = outside(linen_variables(module))
    chex.assert_trees_all_equal_shapes_and_dtypes(before, variables())

    @nnx.jit
    def run(module, x):
      def loss(module):
        y = module(x)
        return jnp.sum(jnp.sin(y)), y

      return nnx.value_and_grad(loss, has_aux=True)(module)

    (loss, y), grads = run(module, images())
    after = outside(linen_variables(module))
    (wanted_loss, (wanted, updates)), (d_params, _) = gradients(
      Block(), before, images()
    )
    chex.assert_trees_all_close(
      (loss, y, after["batch_stats"], nnx.to_pure_dict(grads)["block"]),
      (wanted_loss, wanted, updates["batch_stats"], d_params),
      rtol=1e-5,
      atol=1e-5,
    )
    chex.assert_trees_all_equal(after["params"], before["params"])

  def test_and_back_to_linen(self):
    module = bridge.ToLinen(Wrapped, metadata_fn=None)
    template = jax.eval_shape(module.init, KEY, images())
    given = inside(variables())
    chex.assert_trees_all_equal_shapes_and_dtypes(template, given)
    y, updates = jax.jit(functools.partial(apply, module))(given, images())
    chex.assert_trees_all_close(
      (y, outside(updates)), expected()[0][1], rtol=1e-5, atol=1e-5
    )


OURS, THEIRS = Block(normjax.linen), Block(nn)


@functools.cache
def evaluate(model):
  return jax.jit(model.clone(train=False).apply)


def train(model, variables):
  """Returns variables after a step of gradient descent."""
  (_, (_, updates)), (d_params, _) = gradients(model, variables, images(2))
  params = jax.tree.map(
    lambda p, g: p - 0.01 * g, variables["params"], d_params
  )
  return {"params": params, **updates}


def through_msgpack(tree, template):
  return flax.serialization.from_bytes(
    template, flax.serialization.to_bytes(tree)
  )


def through_orbax(tree, template):
  with (
    tempfile.TemporaryDirectory() as folder,
    orbax.checkpoint.StandardCheckpointer() as checkpointer,
  ):
    path = pathlib.Path(folder) / "checkpoint"
    checkpointer.save(path, tree)
    checkpointer.wait_until_finished()
    return checkpointer.restore(path, template)


class CheckpointsTest(parameterized.TestCase):
  @parameterized.product(
    saved=("flax", "normjax"), through=(through_msgpack, through_orbax)
  )
  def test_training_goes_on_with_the_other_library(self, saved, through):
    first, second = (THEIRS, OURS) if saved == "flax" else (OURS, THEIRS)
    trained = train(first, variables())
    loaded = through(trained, second.init(KEY, images()))
    chex.assert_trees_all_equal(loaded, trained, strict=True)
    chex.assert_trees_all_close(
      train(second, loaded), train(first, trained), rtol=1e-4, atol=1e-5
    )
    evaluations = [
      evaluate(model)(loaded, images(3)) for model in (first, second)
    ]
    np.testing.assert_allclose(*evaluations, rtol=1e-5, atol=1e-5)
