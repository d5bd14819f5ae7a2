"""State of modules: taken out, put back, stored, trained, bridged, sharded."""

import contextlib
import io
import pathlib
import tempfile

import chex
import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized
from flax import nnx
from flax.nnx import bridge
from jax.nn import initializers
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import normjax.linen
import normjax.nnx
from tests.linen import cases
from tests.linen.cases import ONE_OF_EACH, named
from tests.meshes import make_mesh
from tests.nnx.modules import build, call, fill, filled, gradients, pure

# The metadata of a sharding, which Flax has renamed.
SHARDING = next(
  name
  for name in ("out_sharding", "sharding_names")
  if name in nnx.with_partitioning(jnp.ones, ())(()).metadata
)
SGD = optax.sgd(0.05, 0.9)
STATEFUL = tuple(case for case in ONE_OF_EACH if case.stateful)
IMAGES = jnp.asarray(
  np.random.default_rng(0).normal(1, 2, (5, 16, 8)).astype("float32")
)


class Net(nnx.Module):
  """A small net with norms of a library."""

  def __init__(self, library, rngs):
    self.first = nnx.Linear(8, 12, rngs=rngs)
    self.batch = library.BatchNorm(12, momentum=0.8, rngs=rngs)
    self.second = nnx.Linear(12, 12, rngs=rngs)
    self.layer = library.LayerNorm(12, rngs=rngs)
    self.drop = nnx.Dropout(0.0, rngs=rngs)
    self.last = nnx.Linear(12, 4, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.batch(self.first(x)))
    return self.last(self.drop(self.layer(self.second(x))))


@nnx.jit
def step(model, optimizer, x):
  """Trains; returns the loss."""

  def loss(model):
    labels = jnp.arange(16) % 4
    return optax.softmax_cross_entropy_with_integer_labels(
      model(x), labels
    ).mean()

  value, grads = nnx.value_and_grad(loss)(model)
  optimizer.update(model, grads)
  return value


def train(model, steps=5):
  """Returns the losses of steps with momentum."""
  optimizer = nnx.Optimizer(model, SGD, wrt=nnx.Param)
  return [step(model, optimizer, x) for x in IMAGES[:steps]]


def modes(model):
  return [
    model.batch.use_running_average,
    model.drop.deterministic,
  ]


def nets():
  return Net(normjax.nnx, nnx.Rngs(0)), Net(flax.nnx, nnx.Rngs(0))


class StateTest(parameterized.TestCase):
  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_split_merge_update_and_clone(self, case):
    module, x = filled(case), case.input()
    expected = call(filled(case), x)
    graphdef, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
    self.assertEqual(pure(nnx.merge_state(params, stats)).keys(),
                     case.variables().keys())  # fmt: skip
    self.assertEqual(hash(graphdef), hash(nnx.graphdef(filled(case))))
    copies = nnx.merge(graphdef, params, stats), nnx.clone(module), build(case)
    nnx.update(copies[2], nnx.state(module))
    for copy in copies:
      np.testing.assert_array_equal(call(copy, x), expected)
    self.assertEqual(nnx.graphdef(build(case)), nnx.graphdef(filled(case)))

  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_is_displayed(self, case):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
      nnx.display(build(case), nnx.state(build(case)))
    self.assertIn(f"{case.kind}(", shown.getvalue())
    self.assertIn("Param", repr(build(case)))

  def test_state_is_that_of_flax(self):
    ours, theirs = nets()
    states = [
      nnx.to_pure_dict(nnx.state(net, (nnx.Param, nnx.BatchStat)))
      for net in (ours, theirs)
    ]
    chex.assert_trees_all_equal(*states, strict=True)
    nnx.update(ours, nnx.state(theirs))
    np.testing.assert_allclose(ours(IMAGES[0]), theirs(IMAGES[0]), atol=1e-5)


class ModeTest(parameterized.TestCase):
  @parameterized.parameters(0, 1)
  def test_train_and_eval(self, library):
    model = nets()[library]
    self.assertEqual(modes(model), [False, False])
    model.eval()
    self.assertEqual(modes(model), [True, True])
    model.train()
    self.assertEqual(modes(model), [False, False])
    model.set_attributes(use_running_average=True, deterministic=False)
    self.assertEqual(modes(model), [True, False])

  def test_evaluation_changes_nothing(self):
    for case in STATEFUL:
      module = filled(case)
      module.eval()
      call(module, case.input())
      chex.assert_trees_all_equal(pure(module), case.variables())

  def test_the_call_has_the_last_word(self):
    case = next(case for case in STATEFUL if case.kind == "BatchNorm")
    module, x = filled(case, train=False), case.input()
    evaluated = module(x)
    np.testing.assert_array_equal(filled(case)(x, True), evaluated)
    chex.assert_trees_all_equal(pure(module), case.variables())
    np.testing.assert_array_equal(module(x, False), filled(case)(x))
    self.assertTrue(module.use_running_average)
    self.assertGreater(jnp.abs(module(x) - evaluated).max(), 1e-3)

  def test_views_share_the_variables(self):
    change = nnx.view if hasattr(nnx, "view") else nnx.set_mode
    for model in nets():
      view = change(model, deterministic=True, use_running_average=True)
      self.assertEqual(modes(model), [False, False])
      self.assertEqual(modes(view), [True, True])
      model(IMAGES[0])
      self.assertIs(view.batch.mean, model.batch.mean)
      kept = change(view, deterministic=False)
      self.assertEqual(modes(kept), [True, False])
      again = change(view, deterministic=False, use_running_average=False)
      self.assertEqual(modes(again), [False, False])


class TrainingTest(parameterized.TestCase):
  def test_losses_and_states_are_those_of_flax(self):
    ours, theirs = nets()
    losses = train(ours), train(theirs)
    np.testing.assert_allclose(*losses, rtol=1e-4)
    self.assertLess(losses[0][-1], losses[0][0])
    for net in ours, theirs:
      net.eval()
    np.testing.assert_allclose(ours(IMAGES[0]), theirs(IMAGES[0]), atol=1e-3)

  def test_statistics_are_no_parameters(self):
    model = nets()[0]
    optimizer = nnx.Optimizer(model, optax.sgd(0.0), wrt=nnx.Param)
    grads = nnx.grad(lambda model: model(IMAGES[0]).sum())(model)
    self.assertEqual({*nnx.to_pure_dict(grads)["batch"]}, {"scale", "bias"})
    before = model.batch.mean.get_value()
    optimizer.update(model, grads)
    np.testing.assert_array_equal(model.batch.mean.get_value(), before)


class BridgeTest(parameterized.TestCase):
  @parameterized.named_parameters(named(ONE_OF_EACH))
  def test_to_linen(self, case):
    mode = {"use_running_average": False} if case.stateful else {}
    module = bridge.ToLinen(
      getattr(normjax.nnx, case.kind),
      args=(case.num_features,),
      kwargs={**mode, **case.options},
      metadata_fn=None,
    )
    variables, x = case.variables(), case.input()
    chex.assert_trees_all_equal_shapes_and_dtypes(
      jax.eval_shape(module.init, jax.random.key(0), x), variables
    )
    chex.assert_trees_all_close(
      cases.call(module, variables, x),
      cases.call(case.build(), variables, x),
      atol=2e-6,
    )

  @parameterized.named_parameters(named(STATEFUL))
  def test_to_nnx(self, case):
    module = bridge.ToNNX(case.build(), nnx.Rngs(0)).lazy_init(case.input())
    fill(module, case.variables())
    own = filled(case)
    np.testing.assert_allclose(
      module(case.input(), mutable=["batch_stats"]),
      call(own, case.input()),
      atol=2e-6,
    )
    chex.assert_trees_all_close(
      {name: pure(module)[name] for name in case.variables()},
      pure(own),
      rtol=1e-6,
    )


class CheckpointsTest(parameterized.TestCase):
  @parameterized.parameters((0, 1), (1, 0))
  def test_go_from_one_library_to_the_other(self, first, second):
    try:
      import orbax.checkpoint
    except ImportError:
      self.skipTest("needs orbax-checkpoint")
    saved = nets()[first]
    train(saved, 2)
    kinds = nnx.Param, nnx.BatchStat
    template = jax.tree.map(
      jnp.zeros_like, nnx.to_pure_dict(nnx.state(nets()[second], kinds))
    )
    with (
      tempfile.TemporaryDirectory() as folder,
      orbax.checkpoint.StandardCheckpointer() as checkpointer,
    ):
      path = pathlib.Path(folder) / "checkpoint"
      checkpointer.save(path, nnx.to_pure_dict(nnx.state(saved, kinds)))
      checkpointer.wait_until_finished()
      tree = checkpointer.restore(path, template)
    loaded = nets()[second]
    state = nnx.state(loaded, kinds)
    nnx.replace_by_pure_dict(state, tree)
    nnx.update(loaded, state)
    np.testing.assert_allclose(train(loaded), train(saved), rtol=1e-4)


class MeshTest(parameterized.TestCase):
  @parameterized.product(
    axes=(AxisType.Auto, AxisType.Explicit), given=("init", "metadata")
  )
  def test_trains_where_channels_are_sharded(self, axes, given):
    mesh = make_mesh((2, 4), ("data", "model"), (axes,) * 2)
    x = np.random.default_rng(0).normal(1, 2, (8, 16)).astype(np.float32)

    def make(**options):
      if options:
        options = (
          {"scale_init": nnx.with_partitioning(initializers.ones, ("model",))}
          if given == "init"
          else {"scale_metadata": {SHARDING: ("model",)}}
        )
      return normjax.nnx.BatchNorm(16, rngs=nnx.Rngs(0), **options)

    plain = make()
    expected = gradients(plain, jnp.asarray(x))
    with jax.set_mesh(mesh):
      module = make(sharded=True)
      self.assertEqual(module.scale.get_value().sharding.spec, P("model"))
      x = jax.device_put(x, NamedSharding(mesh, P("data", "model")))
      actual = gradients(module, x)
      stats = pure(module)["batch_stats"]
    # The loss, the output, and the gradient in the input.
    chex.assert_trees_all_close(
      jax.device_get((actual[0], actual[1][1], pure(actual[1][0]), stats)),
      jax.device_get(
        (expected[0], expected[1][1], pure(expected[1][0]),
         pure(plain)["batch_stats"])
      ),
      rtol=1e-5,
      atol=1e-5,
    )  # fmt: skip
