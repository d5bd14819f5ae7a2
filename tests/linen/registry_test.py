"""Short names of norms."""

import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from flax import linen as nn

from normjax.linen import (
  BatchNorm,
  BatchRenorm,
  DecorrelatedBatchNorm,
  GhostBatchNorm,
  GroupNorm,
  Identity,
  InstanceNorm,
  IterNorm,
  LayerNorm,
  RMSNorm,
  make_norm,
  norm_names,
  register_norm,
  registry,
)

KEY = jax.random.key(0)
X = jnp.asarray(
  np.random.default_rng(0).normal(size=(4, 5, 8)).astype("float32")
)
MODULES = {
  "none": Identity,
  "ln": LayerNorm,
  "rms": RMSNorm,
  "bn": BatchNorm,
  "gn": GroupNorm,
  "in": InstanceNorm,
  "brn": BatchRenorm,
  "gbn": GhostBatchNorm,
  "dbn": DecorrelatedBatchNorm,
  "iternorm": IterNorm,
}


class MakeNormTest(parameterized.TestCase):
  def test_names_are_in_order(self):
    self.assertEqual(norm_names(), tuple(MODULES))

  @parameterized.product(name=list(MODULES), train=(True, False))
  def test_every_norm_is_called_with_x_and_mask(self, name, train):
    options = {"gn": {"num_groups": 4}, "gbn": {"ghost_size": 2}}
    module = make_norm(
      name, train=train, dtype=jnp.float32, **options.get(name, {})
    )
    self.assertIsInstance(module, MODULES[name])
    variables = module.init(KEY, X)
    mask = jnp.ones((4, 5, 1), bool)
    y, updates = module.apply(variables, X, mask=mask, mutable=["batch_stats"])
    self.assertEqual(y.shape, X.shape)
    moved = updates.get("batch_stats", {}) != {} and bool(
      jnp.any(updates["batch_stats"]["mean"] != 0)
    )
    stateful = ("bn", "brn", "gbn", "dbn", "iternorm")
    self.assertEqual(moved, name in stateful and train)

  def test_none_returns_its_input(self):
    none = make_norm("none", train=True)
    self.assertEqual(none.init(KEY, X), {})
    np.testing.assert_array_equal(none.apply({}, X, mask=False), X)
    half = make_norm("none", train=True, dtype=jnp.bfloat16)
    self.assertEqual(half.apply({}, X).dtype, jnp.bfloat16)

  def test_a_class_is_no_name(self):
    with self.assertRaisesRegex(TypeError, "name of a norm, such as 'ln', got"):
      make_norm(LayerNorm, train=True)

  def test_unknown_name_lists_the_names_and_the_closest(self):
    with self.assertRaisesRegex(
      ValueError, "'rns'; the norms are none, ln, rms, .*mean 'rms'"
    ):
      make_norm("rns", train=True)
    with self.assertRaisesRegex(ValueError, "no norm 'zzzz'"):
      make_norm("zzzz", train=True)

  @parameterized.parameters(
    ("ln", "num_groups", "epsilon"),
    ("bn", "use_running_average", "momentum"),
    ("none", "epsilon", "dtype"),
  )
  def test_unknown_option_lists_the_options(self, name, option, valid):
    with self.assertRaisesRegex(
      TypeError,
      f"'{name}' has no argument '{option}'; its arguments are.*{valid}",
    ):
      make_norm(name, train=True, **{option: 1})


@mock.patch.dict(registry._REGISTRY.factories)
class RegisterNormTest(parameterized.TestCase):
  def test_a_new_norm_is_made_by_its_name(self):
    class Half(nn.Module):
      train: bool

      def __call__(self, x, *, mask=None):
        return x / 2

    register_norm("half", Half)
    self.assertEqual(norm_names()[-1], "half")
    module = make_norm("half", train=True)
    self.assertTrue(module.train)
    np.testing.assert_array_equal(module.apply({}, X), X / 2)

  def test_a_name_is_replaced_on_demand_only(self):
    def factory(*, train):
      return Identity()

    with self.assertRaisesRegex(ValueError, "'ln' already.*overwrite=True"):
      register_norm("ln", factory)
    self.assertIsInstance(make_norm("ln", train=True), LayerNorm)
    register_norm("ln", factory, overwrite=True)
    self.assertIsInstance(make_norm("ln", train=True), Identity)
    self.assertEqual(norm_names(), tuple(MODULES))

  @parameterized.parameters("", "a,b", "a b", " a")
  def test_names_that_a_flag_would_split_are_refused(self, name):
    with self.assertRaisesRegex(ValueError, "comma or blank"):
      register_norm(name, Identity)


class ImportTest(parameterized.TestCase):
  def test_the_functions_do_not_import_flax(self):
    program = (
      "import sys, normjax\n"
      "assert 'jax' in sys.modules\n"
      "assert 'flax' not in sys.modules, 'flax was imported'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
