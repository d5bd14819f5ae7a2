"""Changing the import from flax.linen to normjax.linen changes nothing else."""

import dataclasses
import functools
import inspect

import chex
import flax.linen
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax.linen
from tests.linen.cases import PEERED, PEERED_ONE_OF_EACH, call, named

STATEFUL = [case for case in PEERED if case.stateful]

KINDS = sorted({case.kind for case in PEERED})
ROUNDING = {"bfloat16": 2**-8, "float16": 2**-11, "float32": 2e-6,
            "float64": 1e-13}  # fmt: skip


def fields(module):
  """Returns names and defaults of a module's own fields, in order."""
  return [
    (field.name, field.default)
    for field in dataclasses.fields(module)
    if field.name not in ("parent", "name")
  ]


class InterfaceTest(parameterized.TestCase):
  @parameterized.parameters(KINDS)
  def test_fields_and_defaults_are_those_of_flax_then_ours(self, kind):
    ours = fields(getattr(normjax.linen, kind))
    theirs = fields(getattr(flax.linen, kind))
    self.assertEqual(ours[: len(theirs)], theirs)
    self.assertEqual(ours[len(theirs)], ("scale_offset", 0.0))

  @parameterized.parameters(KINDS)
  def test_call_takes_what_flax_takes(self, kind):
    ours, theirs = (
      [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(
          getattr(library, kind).__call__
        ).parameters.values()
      ]
      for library in (normjax.linen, flax.linen)
    )
    self.assertEqual(ours, theirs)


class RefusedTest(parameterized.TestCase):
  """Calls that Flax accepts, although they cannot be meant."""

  @parameterized.parameters(
    ("BatchNorm", {}, (1, 6), "one value per channel"),
    ("InstanceNorm", {}, (4, 6), "at least one spatial axis"),
    ("InstanceNorm", {}, (4, 1, 1, 6), "one element per group"),
    ("GroupNorm", {"num_groups": 6}, (4, 6), "one element per group"),
    ("LayerNorm", {"feature_axes": ()}, (4, 6), "feature_axes is empty"),
    ("LayerNorm", {"reduction_axes": ()}, (4, 6), "reduction_axes is empty"),
    ("BatchNorm", {"axis": ()}, (4, 6), "axis is empty"),
    ("LayerNorm", {"reduction_axes": (1, -1)}, (4, 6), "an axis twice"),
    ("LayerNorm", {"epsilon": 0}, (4, 6), "must be positive, got 0"),
    ("RMSNorm", {"epsilon": -1e-6}, (4, 6), "must be positive, got -1e-06"),
    ("LayerNorm", {"epsilon": 768}, (4, 6), "epsilon=768 is an integer"),
    ("BatchNorm", {"momentum": 1.5}, (4, 6), "between 0 and 1, got 1.5"),
    ("BatchNorm", {"use_running_average": 8}, (4, 6), "got 8"),
  )
  def test_here_but_not_in_flax(self, kind, options, shape, message):
    x = jnp.ones(shape)
    mode = {"use_running_average": False} if kind == "BatchNorm" else {}

    def train(library):
      module = getattr(library, kind)(**mode | options)
      variables = module.init(jax.random.key(0), x)
      return module.apply(variables, x, mutable=["batch_stats"])

    jax.eval_shape(lambda: train(flax.linen))
    with self.assertRaisesRegex((TypeError, ValueError), message):
      jax.eval_shape(lambda: train(normjax.linen))


class ParametersTest(parameterized.TestCase):
  @parameterized.named_parameters(named(PEERED))
  def test_init_gives_the_variables_of_flax(self, case):
    """Random initializers show that the keys are drawn in the same order."""
    options = {"scale_init": flax.linen.initializers.normal()}
    if case.kind != "RMSNorm":
      options["bias_init"] = flax.linen.initializers.uniform()
    ours, theirs = (
      module.init(jax.random.key(3), case.input())
      for module in (case.build(**options), case.build_peer(**options))
    )
    chex.assert_trees_all_equal(ours, theirs, strict=True)

  @parameterized.named_parameters(named(PEERED))
  def test_default_init_gives_the_variables_of_flax(self, case):
    ours = case.build().init(jax.random.key(3), case.input())
    theirs = case.build_peer().init(jax.random.key(3), case.input())
    chex.assert_trees_all_equal(ours, theirs, strict=True)

  @parameterized.named_parameters(named(PEERED))
  def test_checkpoint_of_flax_gives_the_same_evaluation(self, case):
    x = case.input(seed=2)
    variables = case.variables()
    saved = flax.serialization.to_bytes(variables)
    template = case.build(train=False).init(jax.random.key(7), x)
    loaded = flax.serialization.from_bytes(template, saved)
    chex.assert_trees_all_equal(loaded, variables)
    np.testing.assert_allclose(
      case.build(train=False).apply(loaded, x),
      case.build_peer(train=False).apply(variables, x),
      atol=5e-6,
    )


class OutputTest(parameterized.TestCase):
  @parameterized.named_parameters(named(PEERED))
  def test_training_and_its_gradients_agree_with_flax(self, case):
    variables, x = case.variables(), case.input()

    def gradients(module):
      @jax.jit
      @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
      def loss(params, x):
        y, updates = call(module, {**variables, "params": params}, x)
        return jnp.sum(jnp.sin(y)), (y, updates)

      return loss(variables.get("params", {}), x)

    ours, theirs = gradients(case.build()), gradients(case.build_peer())
    # Loose: groups of three that happen to lie close condition badly.
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)

  @parameterized.named_parameters(named(PEERED))
  def test_evaluation_agrees_with_flax(self, case):
    variables, x = case.variables(), case.input()
    np.testing.assert_allclose(
      case.build(train=False).apply(variables, x),
      case.build_peer(train=False).apply(variables, x),
      atol=5e-6,
    )

  @parameterized.named_parameters(named(STATEFUL))
  def test_running_statistics_of_five_steps_agree_with_flax(self, case):
    ours = theirs = case.variables()
    for step in range(5):
      x = case.input(seed=step)
      ours = {**ours, **call(case.build(), ours, x)[1]}
      theirs = {**theirs, **call(case.build_peer(), theirs, x)[1]}
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5)

  @parameterized.named_parameters(named(PEERED))
  def test_masked_statistics_agree_with_flax(self, case):
    variables, x = case.variables(), case.input()
    mask = case.mask()
    y, updates = call(case.build(), variables, x, mask=mask)
    expected, expected_updates = call(
      case.build_peer(), variables, x, mask=mask
    )
    np.testing.assert_allclose(
      jnp.where(mask, y, 0), jnp.where(mask, expected, 0), atol=2e-5
    )
    chex.assert_trees_all_close(updates, expected_updates, rtol=1e-5)

  @parameterized.named_parameters(named(PEERED))
  def test_zeros_and_ones_make_a_mask_as_in_flax(self, case):
    variables, x = case.variables(), case.input()
    mask = case.mask()
    chex.assert_trees_all_equal(
      call(case.build(), variables, x, mask=mask.astype(jnp.int32)),
      call(case.build(), variables, x, mask=mask),
    )


class MaskTest(parameterized.TestCase):
  """Where we promise more than Flax."""

  @parameterized.product(case=PEERED, train=(True, False))
  def test_masked_places_hold_nan_and_come_out_as_bias(self, case, train):
    variables, x = case.variables(), case.input()
    mask = case.mask()
    module = case.build(train=train)
    y, updates = call(module, variables, jnp.where(mask, x, jnp.nan), mask=mask)
    expected, expected_updates = call(module, variables, x, mask=mask)
    chex.assert_trees_all_equal(y, expected)
    chex.assert_trees_all_equal(updates, expected_updates)
    nothing, unmoved = call(module, variables, x, mask=False)
    np.testing.assert_array_equal(
      jnp.where(mask, 0, y), jnp.where(mask, 0, nothing)
    )
    bias = variables.get("params", {}).get("bias", jnp.zeros(()))
    np.testing.assert_array_equal(jnp.unique(nothing), jnp.unique(bias))
    for name, value in unmoved.get("batch_stats", {}).items():
      np.testing.assert_array_equal(value, variables["batch_stats"][name])


class DtypeTest(parameterized.TestCase):
  @parameterized.product(
    case=PEERED_ONE_OF_EACH,
    x=("bfloat16", "float16", "float32", "float64"),
    param_dtype=("bfloat16", "float32"),
    dtype=(None, "bfloat16", "float32"),
  )
  def test_result_dtype_is_that_of_flax(self, case, x, param_dtype, dtype):
    options = {"param_dtype": param_dtype, "dtype": dtype}
    with jax.enable_x64(x == "float64"), jax.numpy_dtype_promotion("standard"):

      def output(module):
        x_ = jax.ShapeDtypeStruct(case.shape, x)
        y, variables = jax.eval_shape(
          module.init_with_output, jax.random.key(0), x_
        )
        # The next test is about the statistics of float64.
        if x == "float64":
          variables.pop("batch_stats", None)
        return y, variables

      chex.assert_trees_all_equal_shapes_and_dtypes(
        output(case.build(**options)), output(case.build_peer(**options))
      )

  @parameterized.parameters("bfloat16", "float32", "float64")
  def test_statistics_have_the_dtype_they_are_computed_in(self, x):
    """From the start, where Flax's first step changes float32 to float64."""
    with jax.enable_x64(x == "float64"), jax.numpy_dtype_promotion("standard"):
      batch = jnp.arange(8, dtype=x).reshape(4, 2)

      def train(library, variables):
        module = library.BatchNorm(use_running_average=False)
        _, updates = module.apply(variables, batch, mutable=["batch_stats"])
        return {**variables, **updates}

      start = normjax.linen.BatchNorm(use_running_average=False)
      variables = start.init(jax.random.key(0), batch)
      chex.assert_trees_all_equal_shapes_and_dtypes(
        variables["batch_stats"], train(flax.linen, variables)["batch_stats"]
      )
      after, _ = jax.lax.scan(
        lambda carry, _: (train(normjax.linen, carry), None),
        variables,
        length=3,
      )
      # Flax's own checkpoints go on as they do there.
      stored = flax.linen.BatchNorm(use_running_average=False).init(
        jax.random.key(0), batch
      )
      chex.assert_trees_all_equal_shapes_and_dtypes(
        train(normjax.linen, stored), train(flax.linen, stored), after
      )

  @parameterized.product(
    case=PEERED_ONE_OF_EACH, dtype=("bfloat16", "float16", "float64")
  )
  def test_result_is_rounded_once(self, case, dtype):
    """The statistics are those of the input, whatever the result's dtype."""
    with (
      jax.enable_x64(dtype == "float64"),
      jax.numpy_dtype_promotion("standard"),
    ):
      x = 100 + 0.01 * case.input()
      x = x.astype("float64" if dtype == "float64" else "float32")
      wide = jnp.float64 if dtype == "float64" else jnp.float32
      variables = case.variables()
      y, _ = call(case.build(dtype=dtype), variables, x)
      expected, _ = call(case.build(dtype=wide), variables, x)
      self.assertEqual(y.dtype, dtype)
      np.testing.assert_array_equal(y, expected.astype(dtype))

  @parameterized.named_parameters(named(PEERED_ONE_OF_EACH))
  def test_half_precision_input_is_within_one_rounding(self, case):
    variables = case.variables()
    for dtype in ("bfloat16", "float16"):
      x = case.input(dtype=dtype)
      y, _ = call(case.build(dtype=dtype), variables, x)
      expected, _ = call(case.build(), variables, x.astype(jnp.float32))
      np.testing.assert_allclose(
        y.astype(jnp.float32), expected, rtol=ROUNDING[dtype], atol=1e-6
      )

  @parameterized.named_parameters(named(PEERED_ONE_OF_EACH))
  def test_integers_are_converted_as_in_flax(self, case):
    x = (10 * case.input()).astype(jnp.int32)
    variables = case.variables()
    with jax.numpy_dtype_promotion("standard"):
      y, _ = call(case.build(), variables, x)
      expected, _ = call(case.build_peer(), variables, x)
    chex.assert_trees_all_equal_dtypes(y, expected)
    np.testing.assert_allclose(y, expected, atol=2e-5)
