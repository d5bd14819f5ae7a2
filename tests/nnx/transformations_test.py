"""Every module under the transformations of NNX and of JAX."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from flax import nnx
from flax.errors import TraceContextError
from jax.nn import initializers
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import normjax.nnx
from tests.linen.cases import named
from tests.meshes import make_mesh
from tests.nnx.modules import SOME, build, call, filled, gradients, pure

STATEFUL = tuple(case for case in SOME if case.stateful)
LIKE_CARRY = nnx.StateAxes({nnx.BatchStat: nnx.Carry, ...: None})


def stack(case, count=3):
  """Returns a stack of modules with different parameters."""

  @nnx.split_rngs(splits=count)
  @nnx.vmap
  def make(rngs):
    return build(case, rngs=rngs, scale_init=initializers.uniform(2.0))

  return make(nnx.Rngs(0))


def layers(stacked, count=3):
  """Returns the modules of a stack."""
  graphdef, state = nnx.split(stacked)
  return [
    nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[i], state))  # noqa: B023
    for i in range(count)
  ]


def inputs(case, count=3):
  return jnp.stack([case.input(seed=seed) for seed in range(count)])


def stacked(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


class TransformationsTest(parameterized.TestCase):
  @parameterized.named_parameters(named(SOME))
  def test_jit_changes_nothing(self, case):
    eager, jitted = filled(case), filled(case)
    np.testing.assert_allclose(
      eager(case.input()), call(jitted, case.input()), atol=2e-6
    )
    chex.assert_trees_all_close(pure(eager), pure(jitted), rtol=1e-6)

  @parameterized.named_parameters(named(SOME))
  def test_forward_mode_agrees_with_reverse_mode(self, case):
    tangent, cotangent = case.input(seed=5), case.input(seed=6)
    module = filled(case)

    @jax.jit
    def run(x):
      return nnx.clone(module)(x)

    _, pushed = jax.jvp(run, (case.input(),), (tangent,))
    (pulled,) = jax.vjp(run, case.input())[1](cotangent)
    np.testing.assert_allclose(
      jnp.vdot(pushed, cotangent), jnp.vdot(tangent, pulled), rtol=1e-4
    )

  def test_grad_is_that_of_value_and_grad(self):
    case = STATEFUL[0]
    grads = nnx.grad(lambda module, x: jnp.sum(jnp.sin(module(x))))(
      filled(case), case.input()
    )
    _, (expected, _) = gradients(filled(case), case.input())
    chex.assert_trees_all_close(pure(grads), pure(expected), atol=1e-5)

  @parameterized.named_parameters(named(SOME))
  def test_vmap_over_modules_twice(self, case):
    # https://github.com/google/flax/issues/4760
    mapped, xs = stack(case), inputs(case)
    alone = layers(mapped)
    run = nnx.jit(nnx.vmap(lambda module, x: module(x)))
    for _ in range(2):
      y = run(mapped, xs)
      expected = [call(module, x) for module, x in zip(alone, xs, strict=True)]
      np.testing.assert_allclose(y, jnp.stack(expected), atol=1e-5)
      chex.assert_trees_all_close(
        pure(mapped), stacked(map(pure, alone)), atol=1e-6
      )

  def test_vmap_over_a_shared_module_needs_a_name(self):
    """A refused call leaves the module as it was, also in a second call."""
    case = STATEFUL[0]
    module, xs = filled(case), inputs(case)
    run = nnx.vmap(lambda module, x: module(x), in_axes=(None, 0))
    for _ in range(2):
      with self.assertRaisesRegex(ValueError, "out_axes"):
        run(module, xs)
      chex.assert_trees_all_equal(pure(module), case.variables())
    module.eval()
    expected = jnp.stack([call(module, x) for x in xs])
    np.testing.assert_allclose(run(module, xs), expected, atol=5e-6)

  @parameterized.named_parameters(named(SOME))
  def test_scan_over_layers_is_the_loop(self, case):
    scanned = stack(case)
    alone, expected = layers(scanned), case.input()
    y = nnx.jit(
      nnx.scan(
        lambda module, x: module(x),
        in_axes=(0, nnx.Carry),
        out_axes=nnx.Carry,
      )
    )(scanned, expected)
    for module in alone:
      expected = call(module, expected)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    chex.assert_trees_all_close(
      pure(scanned), stacked(map(pure, alone)), atol=1e-6
    )

  @parameterized.named_parameters(named(STATEFUL))
  def test_scan_over_time_carries_the_statistics(self, case):
    carried, whole, alone = filled(case), filled(case), filled(case)
    xs = inputs(case)
    y = nnx.scan(
      lambda module, x: module(x), in_axes=(LIKE_CARRY, 0), out_axes=0
    )(carried, xs)
    _, z = nnx.scan(
      lambda module, x: (module, module(x)),
      in_axes=(nnx.Carry, 0),
      out_axes=(nnx.Carry, 0),
    )(whole, xs)
    expected = jnp.stack([call(alone, x) for x in xs])
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(z, expected, atol=1e-5)
    chex.assert_trees_all_close(pure(carried), pure(alone), rtol=1e-5)
    chex.assert_trees_all_close(pure(whole), pure(alone), rtol=1e-5)

  def test_scan_over_steps(self):
    xs = jnp.asarray(
      np.random.default_rng(0).normal(size=(3, 8, 4)).astype("float32")
    )

    def make():
      return normjax.nnx.StepBatchNorm(4, steps=3, rngs=nnx.Rngs(0))

    carried, alone = make(), make()
    ys = nnx.scan(
      lambda module, x, step: module(x, step),
      in_axes=(LIKE_CARRY, 0, 0),
      out_axes=0,
    )(carried, xs, jnp.arange(3))
    expected = [alone(x, step) for step, x in enumerate(xs)]
    np.testing.assert_allclose(ys, jnp.stack(expected), atol=1e-6)
    chex.assert_trees_all_close(pure(carried), pure(alone), rtol=1e-6)

  @parameterized.named_parameters(named(SOME))
  def test_remat_changes_nothing(self, case):
    remat, plain = filled(case), filled(case)

    @nnx.jit
    def run(module, x):
      def loss(module, x):
        y = nnx.remat(lambda module, x: module(x))(module, x)
        return jnp.sum(jnp.sin(y)), y

      return nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(module, x)

    chex.assert_trees_all_close(
      run(remat, case.input()), gradients(plain, case.input()), atol=1e-5
    )
    chex.assert_trees_all_close(pure(remat), pure(plain), rtol=1e-6)

  def test_cond_may_leave_training_out(self):
    case = STATEFUL[0]

    @nnx.jit
    def run(there, module, x):
      return nnx.cond(
        there, lambda module, x: module(x), lambda module, x: x, module, x
      )

    module, x = filled(case), case.input()
    np.testing.assert_array_equal(run(jnp.bool_(False), module, x), x)
    chex.assert_trees_all_equal(pure(module), case.variables())
    expected = filled(case)
    np.testing.assert_allclose(
      run(jnp.bool_(True), module, x), call(expected, x), atol=1e-6
    )
    chex.assert_trees_all_close(pure(module), pure(expected), rtol=1e-6)

  def test_custom_vjp(self):
    """The gradient is doubled; the statistics are updated once."""

    @nnx.custom_vjp
    def doubled(module, x):
      return module(x)

    def forward(module, x):
      graphdef, state = nnx.split(module)
      return doubled(module, x), (graphdef, nnx.clone(state), x)

    def backward(residuals, g):
      graphdef, state, x = residuals
      (updates, _), g = g

      def run(params, x):
        return nnx.clone(nnx.merge(graphdef, rest, params))(x)

      params, rest = nnx.split_state(state, nnx.Param, ...)
      d_params, dx = jax.vjp(run, params, x)[1](2 * g)
      zeros = jax.tree.map(
        jnp.zeros_like, nnx.filter_state(updates, nnx.BatchStat)
      )
      return nnx.merge_state(d_params, zeros), dx

    doubled.defvjp(forward, backward)
    case = STATEFUL[0]
    module, plain = filled(case), filled(case)
    grads, dx = nnx.grad(
      lambda module, x: jnp.sum(jnp.sin(doubled(module, x))), argnums=(0, 1)
    )(module, case.input())
    _, (expected, expected_dx) = gradients(plain, case.input())
    chex.assert_trees_all_close(
      (pure(grads), dx),
      jax.tree.map(lambda leaf: 2 * leaf, (pure(expected), expected_dx)),
      atol=1e-4,
    )
    chex.assert_trees_all_close(pure(module), pure(plain), rtol=1e-5)

  @parameterized.named_parameters(named(SOME))
  def test_jax_vmap_over_evaluation(self, case):
    module, xs = filled(case, train=False), inputs(case, 2)
    np.testing.assert_allclose(
      jax.vmap(module)(xs),
      jnp.stack([call(module, x) for x in xs]),
      atol=5e-6,
    )


class EvalShapeTest(parameterized.TestCase):
  @parameterized.named_parameters(named(SOME))
  def test_construction_and_calls(self, case):
    # https://github.com/google/flax/issues/4734
    x = jax.ShapeDtypeStruct(case.shape, jnp.float32)
    module = nnx.eval_shape(lambda: build(case))
    chex.assert_trees_all_equal_shapes_and_dtypes(
      pure(module), case.variables()
    )
    trains, evaluates = filled(case), filled(case, train=False)
    found = nnx.eval_shape(lambda module, x: module(x), trains, x)
    for y in (
      found,
      *(
        eval_shape(lambda x: evaluates(x), x)
        for eval_shape in (nnx.eval_shape, jax.eval_shape)
      ),
    ):
      self.assertEqual((y.shape, y.dtype), (case.shape, jnp.float32))
    chex.assert_trees_all_equal(pure(evaluates), case.variables())

  @parameterized.named_parameters(named(STATEFUL))
  def test_training_in_a_closure_is_refused(self, case):
    module = filled(case)
    with self.assertRaises(TraceContextError) as caught:
      jax.eval_shape(lambda x: module(x), case.input())
    self.assertIn("model.eval()", "".join(caught.exception.__notes__))
    chex.assert_trees_all_equal(pure(module), case.variables())


def mesh():
  return make_mesh((8,), ("shards",), (AxisType.Auto,))


def sharded(case):
  """Returns how an input of the case is split over the mesh."""
  names = [None] * len(case.shape)
  names[case.sharded_axis] = "shards"
  return P(*names)


class ShardMapTest(parameterized.TestCase):
  @parameterized.named_parameters(named(SOME))
  def test_of_nnx(self, case):
    whole, parts = filled(case), filled(case, axis_name="shards")
    run = nnx.shard_map(
      lambda module, x: module(x),
      mesh=mesh(),
      in_specs=(P(), sharded(case)),
      out_specs=sharded(case),
    )
    y = nnx.jit(run)(parts, case.input())
    np.testing.assert_allclose(y, call(whole, case.input()), atol=5e-6)
    chex.assert_trees_all_close(pure(parts), pure(whole), rtol=1e-5)

  @parameterized.named_parameters(named(STATEFUL))
  def test_of_jax_with_unequal_masks(self, case):
    whole, parts = filled(case), filled(case, axis_name="shards")
    share = jnp.linspace(0.0, 0.9, 8)  # The first device counts nothing.
    share = jnp.expand_dims(
      share, [i for i in range(len(case.shape)) if i != case.sharded_axis]
    )
    mask = jax.random.uniform(jax.random.key(1), case.shape) < share
    graphdef, state = nnx.split(parts)

    @jax.jit
    @functools.partial(
      jax.shard_map,
      mesh=mesh(),
      in_specs=(P(), sharded(case), sharded(case)),
      out_specs=(sharded(case), P()),
    )
    def run(state, x, mask):
      module = nnx.merge(graphdef, state)
      return module(x, mask=mask), nnx.state(module)

    y, state = run(state, case.input(), mask)
    expected = call(whole, case.input(), mask)
    np.testing.assert_allclose(y, expected, atol=5e-6)
    chex.assert_trees_all_close(pure(state), pure(whole), rtol=1e-5)

  @parameterized.named_parameters(named(STATEFUL))
  def test_vmap_with_a_name_makes_the_whole(self, case):
    whole, parts = filled(case), filled(case, axis_name="examples")
    axis = case.sharded_axis
    y = nnx.vmap(
      lambda module, x: module(x),
      in_axes=(None, axis),
      out_axes=axis,
      axis_name="examples",
    )(parts, jnp.expand_dims(case.input(), axis + 1))
    expected = call(whole, case.input())
    np.testing.assert_allclose(jnp.squeeze(y, axis + 1), expected, atol=5e-6)
    chex.assert_trees_all_close(pure(parts), pure(whole), rtol=1e-5)

  def test_construction_needs_no_axis(self):
    module = build(STATEFUL[0], axis_name="unbound")
    with self.assertRaisesRegex(NameError, "unbound"):
      module(STATEFUL[0].input())
    module.eval()
    self.assertTrue(jnp.isfinite(module(STATEFUL[0].input())).all())
