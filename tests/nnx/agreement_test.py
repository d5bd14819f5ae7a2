"""The numbers of NNX modules are those of Linen's, and of Flax."""

import functools
import math

import chex
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from flax import nnx

import normjax.linen
import normjax.nnx
from tests.linen import cases
from tests.linen.cases import CASES, named
from tests.nnx.modules import (
  PEERED,
  PEERED_ONE_OF_EACH,
  SOME,
  build,
  call,
  fill,
  filled,
  gradients,
  pure,
)


def trained(module, x, mask, like):
  """Returns output, gradients and new statistics, as Linen names them."""
  (loss, y), (d_module, dx) = gradients(module, x, mask)
  like_params = {k: v for k, v in like.items() if k == "params"}
  stats = pure(module, like).get("batch_stats", {})
  return loss, y, pure(d_module, like_params).get("params", {}), dx, stats


def masked_and_not(all_cases, some):
  """Returns parameters: all cases without a mask, some with one too."""
  return [
    (f"{case.name}{'_masked' * masked}", case, masked)
    for masked in (False, True)
    for case in (some if masked else all_cases)
  ]


@functools.partial(jax.jit, static_argnums=0)
def trained_linen(case, variables, x, mask):
  module = case.build()

  def loss(params, x):
    y, updates = cases.call(module, {**variables, "params": params}, x,
                            mask=mask)  # fmt: skip
    counted = jnp.sin(y) if mask is None else jnp.where(mask, jnp.sin(y), 0)
    return jnp.sum(counted), (y, updates.get("batch_stats", {}))

  (loss, (y, stats)), (d_params, dx) = jax.value_and_grad(
    loss, argnums=(0, 1), has_aux=True
  )(variables.get("params", {}), x)
  return loss, y, d_params, dx, stats


class LinenTest(parameterized.TestCase):
  @parameterized.named_parameters(named())
  def test_variables_have_the_same_names_and_shapes(self, case):
    chex.assert_trees_all_equal_shapes_and_dtypes(
      pure(build(case)), case.variables()
    )

  @parameterized.named_parameters(masked_and_not(CASES, SOME))
  def test_training(self, case, masked):
    variables, x = case.variables(), case.input()
    mask = case.mask() if masked else None
    chex.assert_trees_all_close(
      trained(filled(case), x, mask, variables),
      trained_linen(case, variables, x, mask),
      rtol=1e-6,
      atol=1e-6,
    )

  @parameterized.named_parameters(named())
  def test_evaluation(self, case):
    variables, x = case.variables(), case.input()
    module = filled(case, train=False)
    np.testing.assert_allclose(
      call(module, x),
      jax.jit(case.build(train=False).apply)(variables, x),
      atol=1e-6,
    )
    chex.assert_trees_all_equal(pure(module), variables)

  @parameterized.product(case=SOME, dtype=("bfloat16", "float16", "float64"))
  def test_dtypes(self, case, dtype):
    with jax.enable_x64(dtype == "float64"):
      variables, options = case.variables(), {}
      if dtype == "float64":
        variables = jax.tree.map(jnp.float64, variables)
        options = {"param_dtype": dtype}
      else:
        options = {"dtype": dtype}
      module = fill(build(case, **options), variables)
      x = case.input(dtype=dtype)
      y, updates = jax.jit(
        functools.partial(cases.call, case.build(**options))
      )(variables, x)
      actual = call(module, x)
      chex.assert_trees_all_equal_dtypes((actual, pure(module)), (y, variables))
      np.testing.assert_allclose(
        np.float64(actual), np.float64(y), rtol=1e-2, atol=1e-2
      )
      chex.assert_trees_all_close(
        pure(module), {**variables, **updates}, rtol=1e-6
      )

  @parameterized.parameters("DomainBatchNorm", "StepBatchNorm")
  def test_rows(self, kind):
    options = {"domains" if kind == "DomainBatchNorm" else "steps": 3}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)), "float32")
    module = getattr(normjax.nnx, kind)(6, **options, rngs=nnx.Rngs(0))
    linen = getattr(normjax.linen, kind)(**options)
    variables = linen.init(jax.random.key(0), x, 0, False)
    chex.assert_trees_all_equal(pure(module), variables, strict=True)
    for row, evaluates in ((2, False), (1, False), (2, False), (2, True)):
      y = module(x + row, jnp.int32(row), evaluates)
      expected, updates = linen.apply(
        variables, x + row, row, evaluates, mutable=["batch_stats"]
      )
      variables = {**variables, **updates}
      np.testing.assert_allclose(y, expected, atol=1e-6)
      chex.assert_trees_all_close(pure(module), variables, rtol=1e-6)

  def test_complex_values(self):
    parts = np.random.default_rng(0).normal(size=(2, 8, 6))
    x = jnp.asarray(parts[0] + 2j * parts[1], "complex64")
    module = normjax.nnx.ComplexBatchNorm(6, rngs=nnx.Rngs(0))
    linen = normjax.linen.ComplexBatchNorm(use_running_average=False)
    variables = linen.init(jax.random.key(0), x)
    chex.assert_trees_all_equal_shapes_and_dtypes(pure(module), variables)
    y, updates = cases.call(linen, variables, x)
    np.testing.assert_allclose(call(module, x), y, atol=1e-6)
    chex.assert_trees_all_close(
      pure(module), {**variables, **updates}, rtol=1e-6
    )

  def test_batch_norm_of_complex_values(self):
    parts = np.random.default_rng(0).normal(size=(2, 8, 6))
    x = jnp.asarray(parts[0] + 2j * parts[1], "complex64")
    module = normjax.nnx.BatchNorm(6, momentum=0.0, rngs=nnx.Rngs(0))
    with jax.numpy_dtype_promotion("standard"):
      call(module, x)
    np.testing.assert_allclose(
      module.mean.get_value(), np.mean(x, 0), rtol=1e-5
    )
    np.testing.assert_allclose(module.var.get_value(), np.var(x, 0), rtol=1e-5)

  @parameterized.parameters({"debias": True}, {"microbatches": 2})
  def test_more_statistics(self, **options):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 6)), "float32")
    module = normjax.nnx.BatchNorm(6, rngs=nnx.Rngs(0), **options)
    linen = normjax.linen.BatchNorm(use_running_average=False, **options)
    variables = linen.init(jax.random.key(0), x[0])
    for batch in x:
      expected, updates = cases.call(linen, variables, batch)
      variables = {**variables, **updates}
      np.testing.assert_allclose(call(module, batch), expected, atol=1e-6)
    stats = {
      name: getattr(module, name).get_value()
      for name in variables["batch_stats"]
    }
    chex.assert_trees_all_close(stats, variables["batch_stats"], rtol=1e-6)


class FlaxTest(parameterized.TestCase):
  @parameterized.named_parameters(masked_and_not(PEERED, PEERED_ONE_OF_EACH))
  def test_training(self, case, masked):
    variables, x = case.variables(), case.input()
    mask = case.mask() if masked else None
    ours, theirs = (
      trained(filled(case, library), x, mask, variables)
      for library in (normjax.nnx, flax.nnx)
    )
    if masked:
      ours, theirs = (
        (loss, jnp.where(mask, y, 0), *others)
        for loss, y, *others in (ours, theirs)
      )
    # As loose as for Linen.
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)

  @parameterized.named_parameters(named(PEERED))
  def test_evaluation(self, case):
    ours, theirs = (
      call(filled(case, library, train=False), case.input())
      for library in (normjax.nnx, flax.nnx)
    )
    np.testing.assert_allclose(ours, theirs, atol=5e-6)

  @parameterized.named_parameters(
    named([case for case in CASES if not isinstance(case.num_features, int)])
  )
  def test_a_size_in_place_of_a_shape(self, case):
    """As in Flax, `num_features` may be the product; parameters are flat."""
    size = math.prod(case.num_features)
    mode = {"use_running_average": False} if case.stateful else {}
    flat = fill(
      getattr(normjax.nnx, case.kind)(
        size, rngs=nnx.Rngs(0), **mode, **case.options
      ),
      case.variables(),
    )
    self.assertEqual(flat.scale.get_value().shape, (size,))
    shaped = filled(case)
    np.testing.assert_array_equal(
      call(flat, case.input()), call(shaped, case.input())
    )
    chex.assert_trees_all_equal(pure(flat, pure(shaped)), pure(shaped))

  @parameterized.named_parameters(
    named([case for case in PEERED if case.stateful])
  )
  def test_running_statistics_of_five_steps(self, case):
    ours, theirs = filled(case), filled(case, flax.nnx)
    for step in range(5):
      x = case.input(seed=step)
      call(ours, x)
      call(theirs, x)
    chex.assert_trees_all_close(pure(ours), pure(theirs), rtol=1e-5)

  @parameterized.product(
    case=PEERED_ONE_OF_EACH,
    param_dtype=("bfloat16", "float32"),
    dtype=(None, "bfloat16", "float32"),
  )
  def test_dtypes(self, case, param_dtype, dtype):
    """Of results, parameters and statistics."""
    options = {"param_dtype": param_dtype, "dtype": dtype}

    def output(library, x):
      def run():
        module = build(case, library, **options)
        return module(jnp.ones(case.shape, x)), nnx.state(module)

      y, state = jax.eval_shape(run)
      return y, jax.tree.map(lambda leaf: leaf.dtype, pure(state))

    with jax.numpy_dtype_promotion("standard"):
      for x in "bfloat16", "float32":
        ours, theirs = output(normjax.nnx, x), output(flax.nnx, x)
        self.assertEqual(ours, theirs)
