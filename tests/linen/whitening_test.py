"""Modules that whiten: their parameters, statistics and modes."""

import functools
import traceback

import chex
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from normjax.linen import (
  BatchNorm,
  ComplexBatchNorm,
  DecorrelatedBatchNorm,
  IterNorm,
)
from tests.linen.cases import call

KEY = jax.random.key(0)


def normal(shape, mean=0.0, seed=0):
  random = np.random.default_rng(seed)
  return jnp.asarray((mean + random.normal(size=shape)).astype("float32"))


X = normal((6, 4, 8), 3.0)
Z = jax.lax.complex(X, normal((6, 4, 8), seed=1) + 0.5 * X)
# Module, function, input and the shape of `cov`.
MODULES = {
  "dbn": (
    functools.partial(DecorrelatedBatchNorm, num_groups=2),
    functools.partial(normjax.decorrelated_batch_norm, num_groups=2),
    X, (2, 4, 4),
  ),
  "iternorm": (
    functools.partial(IterNorm, num_groups=None, group_size=4),
    functools.partial(
      normjax.decorrelated_batch_norm, num_groups=2, iterations=5
    ),
    X, (2, 4, 4),
  ),
  "complex": (ComplexBatchNorm, normjax.complex_batch_norm, Z, (8, 2, 2)),
}  # fmt: skip


class WhiteningTest(parameterized.TestCase):
  @parameterized.parameters(*MODULES)
  def test_is_the_function_of_its_variables(self, name):
    module, function, x, cov_shape = MODULES[name]
    options = {"momentum": 0.7, "epsilon": 1e-3}
    norm = module(use_running_average=False, **options)
    variables = norm.init(KEY, x)
    random = iter(range(100))
    variables["params"] = jax.tree.map(
      lambda leaf: leaf + normal(leaf.shape, seed=next(random)).astype(
        leaf.dtype
      ),
      variables["params"],
    )  # fmt: skip
    params = variables["params"]
    stats = normjax.WhiteningStats(**variables["batch_stats"])
    self.assertEqual((stats.mean.shape, stats.cov.shape), ((8,), cov_shape))
    mask = normal(x.shape, seed=5) < 0.5
    y, updates = call(norm, variables, x, mask=mask)
    expected, new = function(
      x, params["scale"], params["bias"], stats, use_running_average=False,
      mask=mask, **options,
    )  # fmt: skip
    chex.assert_trees_all_close(y, expected, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(
      normjax.WhiteningStats(**updates["batch_stats"]), new, rtol=1e-6
    )
    variables |= updates
    y = module(use_running_average=True, **options).apply(variables, x)
    expected, _ = function(
      x, params["scale"], params["bias"], new, use_running_average=True,
      **options,
    )  # fmt: skip
    chex.assert_trees_all_close(y, expected, rtol=1e-5, atol=1e-5)

  @parameterized.parameters(*MODULES)
  def test_new_variables_change_nothing_in_evaluation(self, name):
    module, _, x, _ = MODULES[name]
    options = {"iterations": 20} if name == "iternorm" else {}
    norm = module(use_running_average=True, **options)
    y, _ = norm.init_with_output(KEY, x)
    np.testing.assert_allclose(y, x, rtol=1e-4)

  @parameterized.parameters(*MODULES)
  def test_one_example_is_enough_to_initialize(self, name):
    module, _, x, _ = MODULES[name]
    variables = module().init(KEY, x[:1, 0], use_running_average=False)
    expected = module(axis_name="batch").init(KEY, x, use_running_average=False)
    chex.assert_trees_all_equal(variables, expected)
    with self.assertRaisesRegex(ValueError, "one value per channel"):
      call(module(), variables, x[:1, 0], False)

  @parameterized.parameters(*MODULES)
  def test_training_without_mutable_shows_the_call_to_make(self, name):
    module, _, x, _ = MODULES[name]
    norm = module(use_running_average=False)
    with self.assertRaises(flax.errors.ModifyScopeVariableError) as caught:
      norm.apply(norm.init(KEY, x), x)
    shown = "".join(traceback.format_exception(caught.exception))
    self.assertIn("mutable=['batch_stats']", shown)

  def test_dtypes(self):
    norm = DecorrelatedBatchNorm(False, dtype=jnp.bfloat16, scale_offset=1.0)
    y, variables = norm.init_with_output(KEY, X.astype(jnp.bfloat16))
    self.assertEqual(y.dtype, jnp.bfloat16)
    np.testing.assert_array_equal(variables["params"]["scale"], 0)
    self.assertEqual(
      {leaf.dtype for leaf in jax.tree.leaves(variables)}, {np.dtype("float32")}
    )
    with jax.enable_x64(True):
      norm = DecorrelatedBatchNorm(False, param_dtype=jnp.float64)
      variables = norm.init(KEY, jnp.asarray(X, jnp.float64))
    self.assertEqual(variables["batch_stats"]["cov"].dtype, np.float64)

  def test_evaluation_of_statistics_cast_to_half_precision(self):
    variables = DecorrelatedBatchNorm(True).init(KEY, X)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16),
                        variables["batch_stats"])  # fmt: skip
    norm = DecorrelatedBatchNorm(True)
    y = norm.apply({**variables, "batch_stats": half}, X)
    np.testing.assert_array_equal(y, norm.apply(variables, X))


class ComplexTest(parameterized.TestCase):
  def test_starts_with_the_size_of_batch_norm(self):
    y, variables = ComplexBatchNorm(False).init_with_output(KEY, Z)
    self.assertEqual(variables["params"]["scale"].dtype, np.float32)
    self.assertEqual(variables["params"]["bias"].dtype, np.complex64)
    other, _ = BatchNorm(
      False, use_bias=False, use_scale=False
    ).init_with_output(KEY, Z)
    for result in (y, other):
      np.testing.assert_allclose(
        np.mean(np.abs(result) ** 2, (0, 1)), np.ones(8), rtol=1e-4
      )

  def test_without_parameters(self):
    norm = ComplexBatchNorm(False, use_scale=False, use_bias=False)
    y, variables = norm.init_with_output(KEY, Z)
    self.assertNotIn("params", variables)
    np.testing.assert_allclose(np.var(y.real, (0, 1)), np.ones(8), rtol=1e-4)

  def test_real_x_is_refused(self):
    with self.assertRaisesRegex(TypeError, "needs a complex x, got float32"):
      ComplexBatchNorm(False).init(KEY, X)
