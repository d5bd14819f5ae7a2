"""Which names correspond, and the errors where they do not."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import linen as nn

from normjax.linen import (
  BatchNorm,
  LayerNorm,
  variables_from_torch,
  variables_to_torch,
)

X = jnp.ones((2, 4))


class Block(nn.Module):
  def setup(self):
    self.fc = nn.Dense(4)
    self.bn = BatchNorm()

  def __call__(self, x, train=False):
    return self.bn(self.fc(x), use_running_average=not train)


class Net(nn.Module):
  """A list of modules, a list of lists, and a parameter of its own."""

  def setup(self):
    self.layer1 = [Block(), nn.remat(Block, static_argnums=2)()]
    self.heads = [[nn.Dense(3)]]
    self.token = self.param("cls_token", nn.initializers.zeros, (1, 4))

  def __call__(self, x, train=False):
    x = x + self.token
    for layer in self.layer1:
      x = layer(x, train)
    return self.heads[0][0](x)


def block(prefix):
  return {
    f"{prefix}.fc.weight": (4, 4),
    f"{prefix}.fc.bias": (4,),
    f"{prefix}.bn.weight": (4,),
    f"{prefix}.bn.bias": (4,),
    f"{prefix}.bn.running_mean": (4,),
    f"{prefix}.bn.running_var": (4,),
    f"{prefix}.bn.num_batches_tracked": (),
  }


SHAPES = {
  "cls_token": (1, 4),
  **block("layer1.0"),
  **block("layer1.1"),
  "heads.0.0.weight": (3, 4),
  "heads.0.0.bias": (3,),
}


def state_dict(shapes=SHAPES):
  numbers = np.random.default_rng(0)
  return {
    key: numbers.uniform(0.5, 2, shape).astype(np.float32)
    for key, shape in shapes.items()
  }


def renamed(old, new):
  return {
    new + key.removeprefix(old) if key.startswith(old) else key: value
    for key, value in state_dict().items()
  }


class NamesTest(parameterized.TestCase):
  def test_of_lists_have_dots(self):
    variables = variables_from_torch(state_dict(), Net(), X)
    np.testing.assert_array_equal(
      variables["params"]["layer1_1"]["fc"]["kernel"],
      state_dict()["layer1.1.fc.weight"].T,
    )
    back = variables_to_torch(variables, Net(), X)
    self.assertEqual({k: v.shape for k, v in back.items()}, SHAPES)

  @parameterized.parameters(
    ("heads.0.0", "fc", {"fc": "heads_0_0"}),
    ("layer1.1", "second", {"second": "layer1_1"}),
    ("layer1.1", "layer1_1", {"layer1_1": "layer1_1"}),
    ("", "module.", {"module": ""}),
    ("layer1.0.bn", "a.b.3", {"a.b.3": "layer1_0/bn", "layer1.0": "layer1_0"}),
  )
  def test_are_given_for_all_below(self, old, new, names):
    given = renamed(old, new)
    variables = variables_from_torch(given, Net(), X, names=names)
    jax.tree.map(
      np.testing.assert_array_equal,
      variables,
      variables_from_torch(state_dict(), Net(), X),
    )
    back = variables_to_torch(variables, Net(), X, names=names)
    self.assertSameElements(back, given)

  def test_shapes_and_flags_are_enough(self):
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    jax.tree.map(
      np.testing.assert_array_equal,
      variables_from_torch(state_dict(), Net(), shape, train=False),
      variables_from_torch(state_dict(), Net(), X, train=True),
    )

  def test_old_state_dicts_have_no_counters(self):
    given = {k: v for k, v in state_dict().items() if "num_batches" not in k}
    variables = variables_from_torch(given, Net(), X)
    counts = variables_to_torch(variables, Net(), X, num_batches_tracked=7)
    counter = counts["layer1.0.bn.num_batches_tracked"]
    np.testing.assert_array_equal(counter, np.array(7), strict=True)


class UntrackedTest(absltest.TestCase):
  def test_statistics_stay_as_they_start(self):
    norm, given = BatchNorm(), {"weight": np.ones(4), "bias": np.ones(4)}
    options = {"use_running_average": False, "untracked": [""]}
    variables = variables_from_torch(given, norm, X, **options)
    stats = variables["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(4))
    np.testing.assert_array_equal(stats["var"], np.ones(4))
    back = variables_to_torch(variables, norm, X, **options)
    self.assertSameElements(back, given)


class ErrorsTest(parameterized.TestCase):
  def test_name_every_key(self):
    given = state_dict()
    for key in ("layer1.0.bn.running_var", "layer1.1.fc.bias"):
      del given[key]
    given |= {"head.weight": np.ones(3), "fc.num_batches_tracked": np.ones(())}
    given["cls_token"] = np.ones(4)
    given["heads.0.0.weight"] = np.ones((4, 3))
    with self.assertRaises(ValueError) as raised:
      variables_from_torch(given, Net(), X)
    self.assertEqual(
      str(raised.exception),
      "The state dict and the model differ.\n"
      "  missing: layer1.0.bn.running_var (for"
      " batch_stats/layer1_0/bn/var), layer1.1.fc.bias (for"
      " params/layer1_1/fc/bias)\n"
      "  left over: head.weight, fc.num_batches_tracked\n"
      "  wrong shape: cls_token is (4,), expected (1, 4), heads.0.0.weight is"
      " (4, 3), expected (3, 4)",
    )

  def test_name_every_variable(self):
    variables = Net().init(jax.random.key(0), X)
    params = variables["params"]
    del params["cls_token"]
    params["layer1_0"]["fc"]["bias"] = jnp.ones(3)
    params["head"] = {"bias": jnp.ones(3)}
    with self.assertRaises(ValueError) as raised:
      variables_to_torch(variables, Net(), X)
    self.assertEqual(
      str(raised.exception),
      "The variables and the model differ.\n"
      "  missing: params/cls_token\n"
      "  left over: params/head/bias\n"
      "  wrong shape: params/layer1_0/fc/bias is (3,), expected (4,)",
    )

  @parameterized.parameters(
    ({"names": {"fc": "layer1_2"}}, r"names .*'layer1_2'.* layer1_0/bn"),
    ({"names": {"a": "layer1_0", "b": "layer1_0"}}, "different modules"),
    ({"names": {"layer1.1": "layer1_0"}}, r"same key.*layer1.1.bn.running"),
    ({"untracked": ["layer1.0"]}, r"layer1.0.bn, layer1.1.bn, got layer1.0"),
    ({"untracked": ["layer1_0.bn"]}, "got layer1_0.bn"),
    ({"feature_maps": {"fc": (4,)}}, "layer1.0.fc, .*got fc"),
    ({"feature_maps": {"layer1.0": (4,)}}, "got layer1.0"),
    (
      {"feature_maps": {"layer1.0.fc": (2, 3)}},
      r"layer1.0.fc has 4 features .*map \(2, 3\) has 6",
    ),
    ({"feature_maps": {"layer1.0.bn": (3, 2)}}, r"bn has 4 .*\(3, 2\) has 6"),
  )
  def test_of_options(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      variables_from_torch(state_dict(), Net(), X, **options)
    variables = Net().init(jax.random.key(0), X)
    with self.assertRaisesRegex(ValueError, message):
      variables_to_torch(variables, Net(), X, **options)

  def test_statistics_that_were_left_out_are_missing(self):
    """As in dict(model.named_parameters())."""
    given = {k: v for k, v in state_dict().items() if ".running" not in k}
    with self.assertRaisesRegex(ValueError, r"missing: .*0.bn.running_mean"):
      variables_from_torch(given, Net(), X)

  def test_statistics_of_an_untracked_norm_are_left_over(self):
    with self.assertRaisesRegex(
      ValueError, "left over: layer1.0.bn.running_mean, .*tracked$"
    ):
      variables_from_torch(state_dict(), Net(), X, untracked=["layer1.0.bn"])

  def test_an_unknown_layer_keeps_its_names(self):
    layer = nn.DenseGeneral(4)
    with self.assertRaisesRegex(
      ValueError, r"missing: kernel \(for params/kernel\)\n.*over: weight"
    ):
      variables_from_torch(
        {"weight": np.ones((4, 4)), "bias": np.ones(4)}, layer, X
      )

  def test_a_bias_too_many_is_left_over(self):
    given = {"weight": np.ones(4), "bias": np.ones(4)}
    with self.assertRaisesRegex(ValueError, "left over: bias"):
      variables_from_torch(given, LayerNorm(use_bias=False), X)


if __name__ == "__main__":
  absltest.main()
