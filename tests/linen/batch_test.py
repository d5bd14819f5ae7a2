"""What only batch norm has: running statistics, and ways to get them wrong."""

import functools
import traceback

import chex
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from normjax.linen import BatchNorm
from tests.linen.cases import call

KEY = jax.random.key(0)
X = jnp.asarray(
  np.random.default_rng(0).normal(3.0, 2.0, (6, 4, 3)).astype("float32")
)
TRAIN = functools.partial(BatchNorm, use_running_average=False)
EVAL = functools.partial(BatchNorm, use_running_average=True)


class InitTest(parameterized.TestCase):
  def test_statistics_start_at_zero_and_one(self):
    stats = TRAIN().init(KEY, X)["batch_stats"]
    chex.assert_trees_all_equal(
      stats, {"mean": jnp.zeros(3), "var": jnp.ones(3)}, strict=True
    )

  def test_output_is_standardized_as_in_flax(self):
    y, _ = TRAIN().init_with_output(KEY, X)
    expected, _ = nn.BatchNorm(use_running_average=False).init_with_output(
      KEY, X
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)

  @parameterized.parameters((1, 3), (1, 1, 3))
  def test_one_value_per_channel_is_enough(self, *shape):
    variables = TRAIN(axis_name="batch").init(KEY, jnp.ones(shape))
    chex.assert_trees_all_equal(variables, TRAIN().init(KEY, X))

  def test_one_value_per_channel_does_not_train(self):
    variables = TRAIN().init(KEY, X)
    with self.assertRaisesRegex(ValueError, "one value per channel.*larger"):
      call(TRAIN(), variables, X[:1, 0])
    self.assertEqual(EVAL().apply(variables, X[:1, 0]).shape, (1, 3))


class ModeTest(parameterized.TestCase):
  def test_mode_is_given_once(self):
    variables = TRAIN().init(KEY, X)
    y, _ = call(BatchNorm(), variables, X, False)
    np.testing.assert_array_equal(y, call(TRAIN(), variables, X)[0])
    for module, args in ((BatchNorm(), ()), (TRAIN(), (False,))):
      with self.assertRaisesRegex(ValueError, "use_running_average"):
        call(module, variables, X, *args)

  @parameterized.parameters((0, 1 + 0.1 * 5), (1, 1 + 0.1 * 8))
  def test_running_statistics_of_a_hand_computed_batch(self, ddof, var):
    """Values 2, 5, 8: mean 5, variance 6 of the batch and 9 of the sample."""
    x = jnp.array([[2.0], [5.0], [8.0]])
    module = TRAIN(momentum=0.9, running_var_ddof=ddof)
    y, updates = call(module, module.init(KEY, x), x)
    stats = updates["batch_stats"]
    np.testing.assert_allclose(stats["mean"], [0.5], rtol=1e-6)
    np.testing.assert_allclose(stats["var"], [var], rtol=1e-6)
    np.testing.assert_allclose(y[2], [np.sqrt(1.5)], rtol=1e-5)

  def test_training_without_mutable_shows_the_call_to_make(self):
    variables = TRAIN().init(KEY, X)
    for apply in (TRAIN().apply, jax.jit(TRAIN().apply)):
      with self.assertRaises(flax.errors.ModifyScopeVariableError) as caught:
        apply(variables, X)
      shown = "".join(traceback.format_exception(caught.exception))
      self.assertIn("mutable=['batch_stats']", shown)

  def test_evaluation_needs_no_mutable_and_updates_nothing(self):
    variables = TRAIN().init(KEY, X)
    y, updates = call(EVAL(axis_name="unbound"), variables, X)
    np.testing.assert_allclose(y, X / np.sqrt(1 + 1e-5), rtol=1e-6)
    chex.assert_trees_all_equal(updates["batch_stats"],
                                variables["batch_stats"])  # fmt: skip

  def test_evaluation_of_statistics_cast_to_half_precision(self):
    """As after casting all variables for inference, which Flax allows."""
    stats = {"mean": jnp.full(3, 3.0), "var": jnp.full(3, 4.0)}
    params = TRAIN().init(KEY, X)["params"]
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), stats)
    chex.assert_trees_all_equal(
      EVAL().apply({"params": params, "batch_stats": half}, X),
      EVAL().apply({"params": params, "batch_stats": stats}, X),
    )

  def test_complex_input_has_a_complex_mean(self):
    x = jnp.asarray(np.asarray(X) + 2j * np.roll(X, 1, 0))
    with jax.numpy_dtype_promotion("standard"):
      variables = TRAIN(momentum=0.0).init(KEY, x)
      y, updates = call(TRAIN(momentum=0.0), variables, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(
      updates["batch_stats"], variables["batch_stats"]
    )
    expected = np.mean(x, (0, 1))
    np.testing.assert_allclose(
      updates["batch_stats"]["mean"], expected, rtol=1e-5
    )
    np.testing.assert_allclose(
      np.mean(np.abs(y) ** 2, (0, 1)), np.ones(3), rtol=1e-4
    )


class NamedAxesTest(parameterized.TestCase):
  def test_two_nested_vmaps_average_over_both(self):
    """With the inner name alone, statistics would differ along the outer."""
    variables = TRAIN().init(KEY, X)

    def run(x):
      return call(TRAIN(axis_name=("outer", "inner")), variables, x[None])

    mapped = jax.vmap(
      jax.vmap(run, axis_name="inner", out_axes=(0, None)),
      axis_name="outer",
      out_axes=(0, None),
    )
    y, updates = mapped(X)
    expected, expected_updates = call(TRAIN(), variables, X)
    np.testing.assert_allclose(y[:, :, 0], expected, atol=1e-6)
    chex.assert_trees_all_close(updates, expected_updates, rtol=1e-6)


class FlagTest(parameterized.TestCase):
  @parameterized.parameters(jnp.bool_, np.bool_, np.array)
  def test_may_be_an_array(self, convert):
    x = jnp.arange(12.0).reshape(4, 3)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, use_running_average=True)
    for flag in (False, True):
      actual, expected = (
        norm.apply(
          variables, x, use_running_average=value, mutable=["batch_stats"]
        )
        for value in (convert(flag), flag)
      )
      chex.assert_trees_all_equal(actual, expected)

  def test_a_traced_one_is_refused_by_name(self):
    x = jnp.ones((4, 3))
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, use_running_average=True)
    with self.assertRaisesRegex(TypeError, "use_running_average must be known"):
      jax.jit(lambda flag: norm.apply(variables, x, use_running_average=flag))(
        True
      )


class ExplicitMeshTest(parameterized.TestCase):
  def test_trains_where_channels_are_sharded(self):
    # https://github.com/AI-Hypercomputer/maxtext/issues/4992
    mesh = jax.make_mesh((2, 4), ("data", "model"), (AxisType.Explicit,) * 2)
    x = np.random.default_rng(0).normal(1, 2, (8, 16)).astype(np.float32)
    norm = BatchNorm(use_running_average=False)

    @jax.jit
    def step(variables, x):
      def loss(params):
        y, updates = norm.apply(
          {**variables, "params": params}, x, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.sin(y)), updates

      return jax.grad(loss, has_aux=True)(variables["params"])

    expected = step(norm.init(jax.random.key(0), x), x)
    with jax.set_mesh(mesh):
      x = jax.device_put(x, NamedSharding(mesh, P("data", "model")))
      actual = step(norm.init(jax.random.key(0), x), x)
    chex.assert_trees_all_close(
      jax.device_get(actual), expected, rtol=1e-5, atol=1e-5
    )
