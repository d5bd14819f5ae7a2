"""Short names of norms, and descriptions that all front ends make."""

import functools
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from flax import nnx
from flax.typing import Dtype, Initializer
from jax.nn import initializers

import normjax.linen
import normjax.nnx
from normjax import descriptions
from normjax.descriptions import Parameter, Statistic, description
from normjax.descriptions import registry as described
from normjax.functional.arguments import AxisName
from normjax.nnx import make_norm, norm_names, register_norm, registry
from tests.nnx.modules import fill, pure

X = jnp.asarray(
  np.random.default_rng(0).normal(size=(4, 5, 8)).astype("float32")
)
MODULES = {
  "none": normjax.nnx.Identity,
  "ln": normjax.nnx.LayerNorm,
  "rms": normjax.nnx.RMSNorm,
  "bn": normjax.nnx.BatchNorm,
  "gn": normjax.nnx.GroupNorm,
  "in": normjax.nnx.InstanceNorm,
  "brn": normjax.nnx.BatchRenorm,
  "gbn": normjax.nnx.GhostBatchNorm,
  "dbn": normjax.nnx.DecorrelatedBatchNorm,
  "iternorm": normjax.nnx.IterNorm,
}
OPTIONS = {
  "gn": {"num_groups": 4}, "gbn": {"ghost_size": 2}, "dbn": {"num_groups": 2}
}  # fmt: skip


def make(name, **options):
  return make_norm(name, 8, rngs=nnx.Rngs(0), **OPTIONS.get(name, {}),
                   **options)  # fmt: skip


def message(function, *args, **kwargs):
  """Returns the message of the error that a call raises."""
  try:
    function(*args, **kwargs)
  except (TypeError, ValueError) as error:
    return type(error), str(error).replace("normjax.nnx", "normjax.linen")
  raise AssertionError("no error")


@description
class DeviationNorm(descriptions.Norm):
  """Divides by the mean absolute deviation, to a power that is learned."""

  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  use_scale: bool = True
  use_bias: bool = True
  scale_init: Initializer = initializers.ones
  bias_init: Initializer = initializers.zeros
  scale_offset: float = 0.0
  axis_name: AxisName | None = None
  power_init: Initializer = initializers.ones
  feature_axes = -1

  def parameters(self, features):
    power = Parameter(self.power_init, (), self.param_dtype)
    return {**super().parameters(features), "power": power}

  def normalize(self, x, parameters, *, mask, axis_name):
    where = True if mask is None else mask
    x = x - x.mean(-1, keepdims=True, where=where)
    deviation = jnp.abs(x).mean(-1, keepdims=True, where=where)
    y = x / deviation ** parameters["power"]
    shape = (1,) * (x.ndim - 1) + (-1,)
    gain = parameters["scale"].reshape(shape)
    return y * gain + parameters["bias"].reshape(shape)


@description
class MaximumNorm(descriptions.RunningNorm):
  """Divides by a running maximum."""

  use_running_average: bool | None = None
  axis: int = -1
  decay: float = 0.5
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  use_scale = False
  use_bias = False
  axis_name: AxisName | None = None

  def statistics(self, features, dtype):
    return {"peak": Statistic(jnp.ones, features, dtype)}

  def normalize_running(
    self, x, parameters, statistics, *, use_running_average, mask, axis_name
  ):
    peak = statistics["peak"]
    if not use_running_average:
      new = jnp.abs(x).max(tuple(range(x.ndim - 1)))
      peak = self.decay * peak + (1 - self.decay) * new
    y = x / peak.reshape((1,) * (x.ndim - 1) + (-1,))
    return y, {"peak": peak}


class MakeNormTest(parameterized.TestCase):
  def test_names_are_those_of_linen(self):
    self.assertEqual(norm_names(), tuple(MODULES))
    self.assertEqual(norm_names(), normjax.linen.norm_names())

  @parameterized.product(name=list(MODULES), train=(True, False))
  def test_every_norm_is_called_with_x_and_mask(self, name, train):
    module = make(name, dtype=jnp.float32)
    self.assertIsInstance(module, MODULES[name])
    if not train:
      # Norms without a mode warn or complain in some versions of Flax.
      nnx.Dict(norm=module, drop=nnx.Dropout(0.5), mode=make("bn")).eval()
    y = module(X, mask=jnp.ones((4, 5, 1), bool))
    self.assertEqual((y.shape, y.dtype), (X.shape, jnp.float32))
    stateful = name in ("bn", "brn", "gbn", "dbn", "iternorm")
    self.assertEqual(hasattr(module, "mean"), stateful)
    if stateful:
      moved = bool(jnp.any(module.mean.get_value() != 0))
      self.assertEqual(moved, train)

  def test_none_returns_its_input(self):
    np.testing.assert_array_equal(make("none")(X, mask=False), X)
    half = make("none", dtype=jnp.bfloat16)
    self.assertEqual(half(X).dtype, jnp.bfloat16)
    self.assertEqual(pure(half), {})

  @parameterized.parameters(
    (
      LookupError,
      "rns",
      "'rns'; the norms are none, .*mean 'rms'.*normjax.nnx",
    ),
    (LookupError, "zzzz", "no norm 'zzzz'"),
    (TypeError, MODULES["ln"], "name of a norm, such as 'ln', got"),
  )
  def test_wrong_names(self, error, name, expected):
    error = ValueError if error is LookupError else error
    with self.assertRaisesRegex(error, expected):
      make_norm(name, 8, rngs=nnx.Rngs(0))
    self.assertEqual(
      message(make_norm, name, 8, rngs=nnx.Rngs(0)),
      message(normjax.linen.make_norm, name, train=True),
    )

  @parameterized.parameters(
    ("ln", "num_groups", "epsilon"),
    ("bn", "use_running_average", "momentum"),
    ("none", "epsilon", "dtype"),
    ("ln", "eps", "epsilon"),
  )
  def test_unknown_option_lists_the_options(self, name, option, valid):
    with self.assertRaisesRegex(
      TypeError, f"'{name}' has no argument '{option}'; .*{valid}"
    ):
      make_norm(name, 8, rngs=nnx.Rngs(0), **{option: 1})

  def test_messages_about_options_are_those_of_linen(self):
    self.assertEqual(
      message(make_norm, "ln", 8, rngs=nnx.Rngs(0), eps=1e-5),
      message(normjax.linen.make_norm, "ln", train=True, eps=1e-5),
    )


@mock.patch.dict(registry._REGISTRY.factories)
class RegisterNormTest(parameterized.TestCase):
  def test_a_new_norm_is_made_by_its_name_in_this_front_end(self):
    class Half(nnx.Module):
      def __init__(self, num_features, *, factor=0.5, rngs):
        self.factor = factor

      def __call__(self, x, *, mask=None):
        return self.factor * x

    register_norm("half", Half)
    self.assertEqual(norm_names()[-1], "half")
    self.assertNotIn("half", normjax.linen.norm_names())
    np.testing.assert_array_equal(make("half", factor=0.25)(X), X / 4)

  def test_a_name_is_replaced_on_demand_only(self):
    factory = normjax.nnx.Identity
    with self.assertRaisesRegex(ValueError, "'ln' already.*overwrite=True"):
      register_norm("ln", factory)
    self.assertIsInstance(make("ln"), MODULES["ln"])
    register_norm("ln", factory, overwrite=True)
    self.assertIsInstance(make("ln"), factory)
    self.assertEqual(norm_names(), tuple(MODULES))

  @parameterized.parameters("", "a,b", "a b", " a", "ln")
  def test_messages_about_names_are_those_of_linen(self, name):
    self.assertEqual(
      message(register_norm, name, normjax.nnx.Identity),
      message(normjax.linen.register_norm, name, normjax.linen.Identity),
    )
    self.assertEqual(
      message(register_norm, name, normjax.nnx.Identity),
      message(descriptions.register_norm, name, DeviationNorm),
    )


@mock.patch.dict(described._DESCRIPTIONS)
class DescriptionsTest(parameterized.TestCase):
  def test_a_norm_with_a_parameter_of_its_own(self):
    descriptions.register_norm("mad", DeviationNorm)
    for names in normjax.linen.norm_names(), norm_names():
      self.assertIn("mad", names)
    linen = normjax.linen.make_norm("mad", train=True)
    variables = jax.tree.map(
      lambda leaf: leaf + 0.5, linen.init(jax.random.key(0), X)
    )
    module = make("mad")
    self.assertEqual(module.power.get_value().shape, ())
    fill(module, variables)
    mask = jnp.asarray(np.random.default_rng(1).random(X.shape) < 0.7)
    for options in {}, {"mask": mask}:
      np.testing.assert_allclose(
        module(X, **options), linen.apply(variables, X, **options), rtol=1e-6
      )
    wide = np.float64(X)
    centered = wide - wide.mean(-1, keepdims=True)
    deviation = np.abs(centered).mean(-1, keepdims=True)
    np.testing.assert_allclose(
      module(X), 1.5 * centered / deviation**1.5 + 0.5, rtol=1e-5, atol=1e-6
    )

  def test_a_running_norm(self):
    descriptions.register_norm("peak", MaximumNorm)
    module = make("peak", decay=0.75)
    linen = functools.partial(normjax.linen.make_norm, "peak", decay=0.75)
    variables = linen(train=True).init(jax.random.key(0), X)
    chex.assert_trees_all_equal(pure(module), variables, strict=True)
    for factor in 2, 3:
      y, variables = linen(train=True).apply(
        variables, factor * X, mutable=["batch_stats"]
      )
      np.testing.assert_allclose(module(factor * X), y, rtol=1e-6)
      chex.assert_trees_all_close(pure(module), variables, rtol=1e-6)
    module.eval()
    np.testing.assert_allclose(
      module(X), linen(train=False).apply(variables, X), rtol=1e-6
    )
    with self.assertRaisesRegex(TypeError, "'peak' has no argument 'momentum'"):
      make("peak", momentum=0.5)

  def test_a_name_is_replaced_on_demand_only(self):
    with self.assertRaisesRegex(ValueError, "'ln' already.*overwrite=True"):
      descriptions.register_norm("ln", DeviationNorm)
    descriptions.register_norm("ln", DeviationNorm, overwrite=True)
    self.assertIs(type(make("ln"))._description, DeviationNorm)
    self.assertIsInstance(
      normjax.linen.make_norm("ln", train=True), DeviationNorm
    )

  def test_only_descriptions_are_registered(self):
    modules = normjax.linen.LayerNorm, normjax.nnx.LayerNorm
    for wrong in (*modules, MODULES["none"], object, lambda: None, 3):
      with self.assertRaisesRegex(TypeError, "subclass of normjax.descript"):
        descriptions.register_norm("wrong", wrong)
