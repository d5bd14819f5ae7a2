"""Folded models against the models themselves, in all forms and refusals."""

import functools
import pickle
from typing import Any

import chex
import flax.core
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.ad_checkpoint import checkpoint_name

from normjax.linen import BatchNorm, GroupNorm, fold

KEY = jax.random.key(0)
KINDS = {"ours": BatchNorm, "flax": nn.BatchNorm}


def images(*shape, seed=0):
  values = np.random.default_rng(seed).normal(0.5, 1.0, shape)
  return jnp.asarray(values.astype("float32"))


X = images(2, 7, 6, 4)


def randomized(model, *args, seed=1, **options):
  """Returns variables with random parameters and statistics."""
  random = np.random.default_rng(seed)
  variables = jax.eval_shape(
    functools.partial(model.init, **options), KEY, *args
  )

  def draw(path, leaf):
    low = 0.3 if path[-1] == jax.tree_util.DictKey("var") else -1.0
    values = random.uniform(low, 1.5, leaf.shape)
    return jnp.asarray(values.astype("float32")).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, variables)


class Pair(nn.Module):
  """A layer and a norm in evaluation."""

  layer: Any
  norm: Any = BatchNorm(True)

  @nn.compact
  def __call__(self, x):
    return nn.relu(self.norm(self.layer(x)))


def assert_folds(model, x, *, count=1, **options):
  """Asserts that nothing is left of the norms, and that outputs are equal."""
  variables = randomized(model, x)
  expected = jax.jit(model.apply)(variables, x)
  folded, new = fold(model, variables, x, **options)
  assert len(folded.norms) == count, folded.norms
  assert "batch_stats" not in new, new
  y = jax.jit(folded.apply)(new, x)
  assert y.dtype == expected.dtype
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  return folded, new


LAYERS = {
  "dense": (nn.Dense(6), images(5, 4)),
  "dense_image": (nn.Dense(6), X),
  "dense_vector": (nn.Dense(6), images(4)),
  "conv_1d": (nn.Conv(6, (3,)), images(2, 9, 4)),
  "conv_causal": (nn.Conv(6, (3,), padding="CAUSAL"), images(2, 9, 4)),
  "conv_2d": (nn.Conv(6, (3, 3)), X),
  "conv_3d": (nn.Conv(6, (3, 2, 1)), images(2, 4, 5, 3, 4)),
  "conv_two_batch_axes": (nn.Conv(6, (3,)), X),
  "conv_circular": (nn.Conv(6, (3, 3), padding="CIRCULAR"), X),
  "grouped": (nn.Conv(6, (3, 3), feature_group_count=2), X),
  "depthwise": (nn.Conv(4, (3, 3), feature_group_count=4), X),
  "depthwise_multiplied": (nn.Conv(8, (3, 3), feature_group_count=4), X),
  "strided": (nn.Conv(6, (3, 3), strides=2, padding="VALID"), X),
  "dilated": (
    nn.Conv(6, (3, 3), padding=2, kernel_dilation=2, input_dilation=2), X,
  ),
  "masked_kernel": (
    nn.Conv(6, (3, 3), mask=np.tri(4, 6) * np.ones((3, 3, 1, 1))), X,
  ),
  "transposed": (nn.ConvTranspose(6, (3, 3), strides=(2, 2)), X),
  "transposed_1d": (nn.ConvTranspose(6, (3,)), images(2, 9, 4)),
  "transposed_circular": (
    nn.ConvTranspose(6, (3, 3), strides=(2, 2), padding="CIRCULAR"), X,
  ),
  "transposed_kernel": (
    nn.ConvTranspose(6, (3, 3), strides=(2, 2), transpose_kernel=True), X,
  ),
}  # fmt: skip


class LayersTest(parameterized.TestCase):
  @parameterized.product(layer=tuple(LAYERS), use_bias=(True, False))
  def test_equals_the_model(self, layer, use_bias):
    layer, x = LAYERS[layer]
    assert_folds(Pair(layer.clone(use_bias=use_bias)), x)

  @parameterized.product(
    kind=tuple(KINDS), use_scale=(True, False), use_bias=(True, False)
  )
  def test_norms(self, kind, use_scale, use_bias):
    norm = KINDS[kind](
      True, use_scale=use_scale, use_bias=use_bias, epsilon=0.2
    )
    assert_folds(Pair(nn.Dense(6, use_bias=False), norm), X)

  @parameterized.parameters(
    {"scale_offset": 1.0},
    {"axis": 3},
    {"axis": (-1,)},
    {"debias": True},
    {"microbatches": 2},
  )
  def test_options_of_norms(self, **options):
    assert_folds(Pair(nn.Conv(6, (3, 3)), BatchNorm(True, **options)), X)

  @parameterized.parameters("bfloat16", "float16")
  def test_half_precision(self, dtype):
    """Rounded once more than before, by the layer, and in its dtype."""
    for given, wanted in ((dtype, dtype), ("float32", "float32")):
      layer = nn.Dense(6, dtype=dtype)
      model = Pair(layer, BatchNorm(True, dtype=given))
      variables = randomized(model, X)
      expected = model.apply(variables, X)
      folded, new = fold(model, variables, X)
      y = folded.apply(new, X)
      self.assertEqual((y.dtype, expected.dtype), (wanted, wanted))
      np.testing.assert_allclose(
        np.float32(y), np.float32(expected), atol=20 * jnp.finfo(dtype).eps
      )

  def test_parameters_keep_their_dtype(self):
    norm = BatchNorm(True, dtype=jnp.bfloat16)
    layer = nn.Dense(
      6, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, use_bias=False
    )
    model = Pair(layer, norm)
    _, new = fold(model, randomized(model, X), X)
    self.assertEqual(
      jax.tree.map(lambda leaf: leaf.dtype, new["params"]["layer"]),
      {"kernel": jnp.bfloat16, "bias": jnp.bfloat16},
    )

  def test_boxes_stay(self):
    init = nn.with_partitioning(nn.initializers.lecun_normal(), ("i", "o"))
    model = Pair(nn.Dense(6, kernel_init=init))
    variables = model.init(KEY, X)
    folded, new = fold(model, flax.core.freeze(variables), X)
    self.assertEqual(new["params"]["layer"]["kernel"].names, ("i", "o"))
    np.testing.assert_allclose(
      folded.apply(new, X), model.apply(variables, X), atol=1e-5
    )


class Residual(nn.Module):
  """Convolutions with norms, given their mode in three ways; a residual."""

  kind: Any = BatchNorm

  def setup(self):
    self.conv1 = nn.Conv(4, (3, 3), use_bias=False)
    self.conv2 = nn.Conv(4, (1, 1))
    self.norm1, self.norm2 = self.kind(), self.kind()
    self.drop = nn.Dropout(0.5)

  def __call__(self, x, train=False):
    y = self.conv1(x)
    # All of these return their input in evaluation.
    y = self.drop(y, deterministic=not train).astype(jnp.float32)
    y = nn.relu(self.norm1(y, use_running_average=not train))
    return nn.relu(x + self.norm2(self.conv2(y), not train))


class ResNet(nn.Module):
  kind: Any = BatchNorm
  block: Any = Residual

  @nn.compact
  def __call__(self, x, train=False):
    for _ in range(2):
      x = self.block(self.kind)(x, train)
    x = GroupNorm(2)(nn.Dense(4)(x))
    x = self.kind(use_running_average=not train)(nn.Dense(8)(x.mean((1, 2))))
    return nn.Dense(3)(nn.relu(x))


LIFTED = {
  "jit": nn.jit(ResNet)(),
  "remat": ResNet(block=nn.remat(Residual, static_argnums=(2,))),
}


class ModelsTest(parameterized.TestCase):
  @parameterized.parameters(*KINDS)
  def test_residual_net(self, kind):
    folded, new = assert_folds(ResNet(KINDS[kind]), X, count=5)
    self.assertEqual(
      {name: [*new["params"][name]] for name in new["params"]},
      {
        "Residual_0": ["conv1", "conv2"],
        "Residual_1": ["conv1", "conv2"],
        "Dense_0": ["bias", "kernel"],
        "GroupNorm_0": ["bias", "scale"],
        "Dense_1": ["bias", "kernel"],
        "Dense_2": ["bias", "kernel"],
      },
    )
    self.assertEqual(
      [norm.new_bias for norm in folded.norms], [True, False] * 2 + [False]
    )

  def test_the_norms_are_gone(self):
    """What is left is the program of the model without norms."""
    model = Pair(nn.Conv(6, (3, 3)))
    folded, new = fold(model, randomized(model, X), X)

    class Plain(nn.Module):
      @nn.compact
      def __call__(self, x):
        return nn.relu(nn.Conv(6, (3, 3), name="layer")(x))

    self.assertEqual(
      str(jax.make_jaxpr(folded.apply)(new, X)),
      str(jax.make_jaxpr(Plain().apply)(new, X)),
    )

  @parameterized.parameters(*LIFTED)
  def test_blocks_that_flax_lifts(self, lift):
    for _ in range(2):  # What the first call compiled is in caches.
      assert_folds(LIFTED[lift], X, count=5)

  def test_shared_layers_of_a_scan_over_time(self):
    class Cell(nn.Module):
      @nn.compact
      def __call__(self, h, x):
        h = nn.relu(BatchNorm(True)(nn.Dense(4)(h + x)))
        return h, h

    cell = nn.scan(
      Cell,
      variable_broadcast=["params", "batch_stats"],
      split_rngs={"params": False},
    )()
    h, x = jnp.zeros((3, 4)), images(5, 3, 4)
    variables = randomized(Cell(), h, x[0])
    folded, new = fold(cell, variables, h, x)
    self.assertLen(folded.norms, 1)
    chex.assert_trees_all_close(
      folded.apply(new, h, x), cell.apply(variables, h, x), atol=1e-5
    )

  def test_shared_layers_of_a_vmap(self):
    mapped = nn.vmap(
      Pair,
      variable_axes={"params": None, "batch_stats": None},
      split_rngs={"params": False},
    )(nn.Dense(6))
    variables = randomized(Pair(nn.Dense(6)), X[0])
    folded, new = fold(mapped, variables, X)
    self.assertLen(folded.norms, 1)
    np.testing.assert_allclose(
      folded.apply(new, X), mapped.apply(variables, X), rtol=1e-5, atol=1e-5
    )

  def test_methods_and_mutable_collections(self):
    class Sown(nn.Module):
      def setup(self):
        self.pair = Pair(nn.Dense(4))

      def encode(self, x, *, power):
        y = self.pair(x) ** power
        self.sow("intermediates", "y", y)
        return y

    options = {"method": "encode", "power": 2, "mutable": ["intermediates"]}
    model, plain = Sown(), Sown()
    variables = randomized(plain, X, method="encode", power=2)
    variables.pop("intermediates", None)
    folded, new = fold(model, variables, X, **options)
    chex.assert_trees_all_close(
      folded.apply(new, X, **options),
      plain.apply(variables, X, **options),
      atol=1e-4,
    )

  def test_shapes_are_enough_of_an_example(self):
    """And the variables may be traced: folding is a part of a program."""
    model = ResNet()
    variables = randomized(model, X)
    example = jax.ShapeDtypeStruct((1, 9, 9, 4), jnp.float32)
    folded, new = fold(model, variables, example)

    @jax.jit
    def program(variables, x):
      folded, new = fold(model, variables, example, train=False)
      return folded.apply(new, x)

    expected = model.apply(variables, X)
    for y in (folded.apply(new, X), program(variables, X)):
      np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

  def test_export_and_pickle(self):
    model = ResNet()
    variables = randomized(model, X)
    folded, new = fold(model, variables, X)
    exported = jax.export.export(jax.jit(folded.apply))(new, X)
    np.testing.assert_allclose(
      exported.call(new, X), model.apply(variables, X), rtol=1e-5, atol=1e-5
    )
    again = pickle.loads(pickle.dumps(folded))
    self.assertEqual(again, folded)
    np.testing.assert_array_equal(again.apply(new, X), folded.apply(new, X))
    self.assertEqual(hash(folded), hash(fold(model, variables, X)[0]))

  def test_a_large_mean_in_the_bias(self):
    """It is subtracted from the bias, before anything is rounded."""
    model = Pair(nn.Dense(6))
    variables = randomized(model, X)
    for branch, name in (("params", "layer"), ("batch_stats", "norm")):
      leaf = "bias" if branch == "params" else "mean"
      variables[branch][name][leaf] += 1e6
    folded, new = fold(model, variables, X)
    wide = jax.tree.map(np.float64, variables)
    layer, norm = wide["params"]["layer"], wide["params"]["norm"]
    stats = wide["batch_stats"]["norm"]
    y = np.float64(X) @ layer["kernel"] + layer["bias"] - stats["mean"]
    y = y / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(
      folded.apply(new, X), np.maximum(y, 0), rtol=1e-5, atol=1e-5
    )

  def test_a_model_without_batch_norm_stays(self):
    model = nn.Sequential([nn.Dense(3), nn.LayerNorm()])
    variables = model.init(KEY, X)
    folded, new = fold(model, variables, X)
    chex.assert_trees_all_equal(new, variables)
    chex.assert_trees_all_equal(folded.apply(new, X), model.apply(variables, X))


class WhichTest(parameterized.TestCase):
  @parameterized.parameters(
    ("Residual_0", 2),
    (["Residual_0/norm1", "BatchNorm_0"], 2),
    (BatchNorm, 5),
    (lambda path: path[-1] == "norm2", 2),
  )
  def test_folds_what_is_chosen(self, which, count):
    model = ResNet()
    variables = randomized(model, X)
    folded, new = fold(model, variables, X, which=which)
    self.assertLen(folded.norms, count)
    left = flax.traverse_util.flatten_dict(new.get("batch_stats", {}))
    self.assertLen(left, 2 * (5 - count))
    np.testing.assert_allclose(
      folded.apply(new, X), model.apply(variables, X), rtol=1e-5, atol=1e-5
    )

  def test_must_choose(self):
    variables = randomized(ResNet(), X)
    with self.assertRaisesRegex(
      ValueError, "'head' chooses no.*of ResNet, which has BatchNorm_0, Resid"
    ):
      fold(ResNet(), variables, X, which=["BatchNorm_0", "head"])
    with self.assertRaisesRegex(TypeError, "pattern of their path"):
      fold(ResNet(), variables, X, which=3)


def model_of(function):
  """Returns a model that calls `function(x, layer, norm)`."""

  class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
      return function(
        x, nn.Dense(4, name="layer"), BatchNorm(True, name="norm")
      )

  return Model()


class Sub(nn.Dense):
  """A layer that changes the kernel before it uses it."""

  def param(self, name, *args, **options):
    return 2 * super().param(name, *args, **options)


class SubNorm(BatchNorm):
  @nn.compact
  def __call__(self, x):
    return 2 * super().__call__(x)


class Tied(nn.Module):
  """A kernel that is used again, transposed, by the decoder."""

  @nn.compact
  def __call__(self, x):
    layer = nn.Dense(4, name="layer")
    y = nn.relu(BatchNorm(True, name="norm")(layer(x)))
    return y @ layer.variables["params"]["kernel"].T


class TiedGain(nn.Module):
  @nn.compact
  def __call__(self, x):
    norm = BatchNorm(True, name="norm")
    y = norm(nn.Dense(4, name="layer")(x))
    return y + jnp.sum(norm.variables["params"]["scale"])


class Stacked(nn.Module):
  @nn.compact
  def __call__(self, x):
    own = {"params": 0, "batch_stats": 0}

    class Body(nn.Module):
      @nn.compact
      def __call__(self, x, _):
        x = BatchNorm(True, name="norm")(nn.Dense(4, name="layer")(x))
        return x, None

    scanned = nn.scan(
      Body, variable_axes=own, split_rngs={"params": True}, length=2
    )
    return scanned(name="body")(x, None)[0]


class Conditional(nn.Module):
  @nn.compact
  def __call__(self, x):
    layer, norm = nn.Dense(4, name="layer"), BatchNorm(True, name="norm")
    run = lambda module, x: norm(layer(x))
    return nn.cond(x.sum() > 0, run, lambda module, x: run(module, -x), self, x)


class Outside(nn.Module):
  """A norm in a compiled block whose layer is outside."""

  @nn.compact
  def __call__(self, x):
    return nn.jit(BatchNorm)(True, name="norm")(nn.Dense(4, name="layer")(x))


REFUSALS = {
  "norm_first": (
    lambda x, layer, norm: layer(norm(x)),
    "norm: its input is not the output of an nn.Dense.* an input of the model",
  ),
  "no_layer": (
    lambda x, layer, norm: norm(layer(x).mean(axis=1)),
    "norm: its input is not.* the result of `div`",
  ),
  "activation": (
    lambda x, layer, norm: norm(nn.relu(layer(x))),
    "norm: its input is not.* the result of `relu`",
  ),
  "reshaped": (
    lambda x, layer, norm: norm(layer(x).reshape(-1, 4)),
    "the result of `reshape`",
  ),
  "converted": (
    lambda x, layer, norm: norm(layer(x).astype("float16").astype("float32")),
    "the result of `convert_element_type`",
  ),
  "named": (
    lambda x, layer, norm: norm(checkpoint_name(layer(x), "layer")),
    "the result of `name`",
  ),
  "residual_of_what_is_not_normalized": (
    lambda x, layer, norm: norm(y := layer(x)) + y,
    "norm: the output of layer before it is also used elsewhere",
  ),
  "output_is_returned": (
    lambda x, layer, norm: (norm(y := layer(x)), y),
    "the output of layer before it is also used elsewhere",
  ),
  "two_norms": (
    lambda x, layer, norm: norm(y := layer(x)) + nn.BatchNorm(True)(y),
    "norm: the output of layer.*BatchNorm_0: the output of layer.*elsewhere",
  ),
  "norm_after_norm": (
    lambda x, layer, norm: nn.BatchNorm(True)(norm(layer(x))),
    "BatchNorm_0: its input is not the output of an nn.Dense",
  ),
  "layer_twice": (
    lambda x, layer, norm: norm(layer(layer(x))),
    "norm: layer is called 2 times",
  ),
  "norm_twice": (
    lambda x, layer, norm: norm(layer(norm(nn.Dense(4)(x)))),
    "norm: norm is called 2 times",
  ),
  "both_twice": (
    lambda x, layer, norm: norm(layer(x)) + norm(layer(2 * x)),
    "norm: norm is called 2 times",
  ),
  "mask": (
    lambda x, layer, norm: norm(layer(x), mask=jnp.ones((2, 1, 1, 1), bool)),
    "norm: it has a mask",
  ),
  "dense_of_several_axes": (
    lambda x, layer, norm: norm(nn.DenseGeneral(4, axis=(1, 2, 3))(x)),
    "the result of `add`",
  ),
}  # fmt: skip


MODELS = {
  "axis": (
    Pair(nn.Conv(6, (3, 3)), BatchNorm(True, axis=1)),
    "norm: it normalizes axis=1 of an array with 4 axes, but the features of"
    " layer are the last",
  ),
  "two_axes": (
    Pair(nn.Conv(6, (3, 3)), nn.BatchNorm(True, axis=(1, -1))),
    r"norm: it normalizes axis=\(1, -1\)",
  ),
  "weight_norm": (
    Pair(nn.WeightNorm(nn.Dense(4))),
    "norm: its parameters, or those of layer/layer_instance, are also used"
    " elsewhere, or are computed",
  ),
  "layer_of_another_class": (
    Pair(Sub(4)),
    "norm: the class of layer before it is Sub, which may do something else",
  ),
  "norm_of_another_class": (
    Pair(nn.Dense(4), SubNorm(True)),
    "norm: .*called 2 times|norm: its class is SubNorm",
  ),
  "dot_general": (
    Pair(nn.Dense(4, dot_general=jax.lax.dot_general)),
    "norm: layer before it has dot_general, which may do anything",
  ),
  "promote_dtype": (
    Pair(nn.Conv(4, (1, 1), promote_dtype=lambda *given, dtype: given)),
    "norm: layer before it has promote_dtype",
  ),
  "conv_general_dilated": (
    Pair(nn.Conv(4, (1, 1), conv_general_dilated=jax.lax.conv_general_dilated)),
    "norm: layer before it has conv_general_dilated",
  ),
  "tied_kernel": (
    Tied(),
    "norm: its parameters, or those of layer, are also used elsewhere",
  ),
  "tied_gain": (TiedGain(), "norm: its parameters.*are also used elsewhere"),
  "stacked": (
    Stacked(),
    r"body/norm: \w+ of body/\w+ has shape \(4.*\) inside of the model, but"
    r" \(2, 4.*nn.scan",
  ),
  "conditional": (Conditional(), "norm: norm is called 2 times"),
  "outside_of_a_compiled_part": (
    Outside(),
    "norm: its class is .*BatchNorm, which|an input of the model, or of a part",
  ),
}  # fmt: skip


class RefusalsTest(parameterized.TestCase):
  def test_of_what_is_compiled_once_for_several_places(self):
    """Flax shows only the first block of those that look the same."""
    model = ResNet(block=nn.jit(Residual, static_argnums=(2,)))
    self.assert_refused(
      model, "_0/norm1 is called 2 times.*_1/norm1: .* or nn.jit has compiled"
    )

  @parameterized.parameters(*REFUSALS)
  def test_of_what_a_model_does(self, name):
    function, message = REFUSALS[name]
    self.assert_refused(model_of(function), message)

  @parameterized.parameters(*MODELS)
  def test_of_what_a_module_is(self, name):
    self.assert_refused(*MODELS[name])

  def assert_refused(self, model, message):
    variables = randomized(model, X)
    with self.assertRaisesRegex(
      ValueError, rf"(?s)of {type(model).__name__} can not be folded.*{message}"
    ):
      fold(model, variables, X)
    folded, new = fold(model, variables, X, partial=True)
    self.assertRegex("\n".join(map(": ".join, folded.kept)), f"(?s){message}")
    chex.assert_trees_all_close(
      folded.apply(new, X), model.apply(variables, X), rtol=1e-5, atol=1e-5
    )

  def test_training(self):
    variables = randomized(ResNet(), X)
    with self.assertRaisesRegex(
      ValueError,
      r"5 of 5 batch norms of ResNet can not be folded:\n"
      r"  Residual_0/norm1: it uses the statistics of the batch; call.*"
      r"train=False\.\n  Residual_0/norm2: it uses",
    ):
      fold(
        ResNet(), variables, X, train=True, mutable=["batch_stats"],
        rngs={"dropout": KEY},
      )  # fmt: skip

  def test_a_norm_that_is_not_called(self):
    class Two(nn.Module):
      @nn.compact
      def __call__(self, x, second=True):
        x = BatchNorm(True)(nn.Dense(4)(x))
        return BatchNorm(True)(nn.Dense(4)(x)) if second else x

    variables = randomized(Two(), X)
    with self.assertRaisesRegex(
      ValueError, "1 of 2.*\n  BatchNorm_1: the model does not call it"
    ):
      fold(Two(), variables, X, second=False)

  def test_a_message_names_each(self):
    class Two(nn.Module):
      @nn.compact
      def __call__(self, x):
        x = BatchNorm(True)(nn.relu(nn.Dense(4)(x)))
        return BatchNorm(True)(jnp.tanh(nn.Dense(4)(x)))

    with self.assertRaisesRegex(
      ValueError,
      r"2 of 2 .*:\n  BatchNorm_0: .*`relu`\.\n  BatchNorm_1: .*`tanh`\.\n"
      "Pass partial=True.*`which`",
    ):
      fold(Two(), randomized(Two(), X), X)


class OtherCallsTest(parameterized.TestCase):
  """A folded model that is called otherwise than its example."""

  @parameterized.parameters(
    ({"train": True}, "a batch norm trains"),
    (
      {"train": True, "mutable": ["batch_stats"]},
      "norm: it uses the statistics of the batch",
    ),
    ({"mask": np.ones(4, bool)}, "norm: it has a mask"),
  )
  def test_in_training_and_with_a_mask(self, options, message):
    class Model(nn.Module):
      @nn.compact
      def __call__(self, x, train=False, mask=None):
        x = nn.Dense(4, name="layer")(x)
        return BatchNorm(name="norm")(x, not train, mask=mask)

    folded, new = fold(Model(), randomized(Model(), X), X)
    with self.assertRaisesRegex(ValueError, f"In this call, {message}"):
      folded.apply(new, X, **options)
    folded.apply(new, X, train=False)

  @parameterized.parameters(
    ("activation", "its input is not the output of", "folded into layer, but"),
    ("skipped", "the model does not call it", "did not come after the layer"),
    ("norm", "its input is not the output of", "folded into layer, but"),
    ("residual", "the output of layer before it is also used", None),
    ("kernel", "or those of layer, are also used elsewhere", None),
    ("twice", "layer is called 2 times", None),
  )
  def test_another_way_through_the_model(self, way, message, at_run_time):
    plain = ["plain"]

    class Ways(nn.Module):
      @nn.compact
      def __call__(self, x, way=None):
        layer, norm = nn.Dense(4, name="layer"), BatchNorm(True, name="norm")
        if (way or plain[0]) == "activation":
          return norm(nn.relu(layer(x)))
        if (way or plain[0]) == "skipped":
          return layer(x)
        if (way or plain[0]) == "norm":
          return norm(x)
        y = layer(x)
        z = norm(y)
        if way == "residual":
          return z + y
        if way == "kernel":
          return z, layer.variables["params"]["kernel"]
        return z + layer(x) if way == "twice" else z

    folded, new = fold(Ways(), randomized(Ways(), X), X)
    with self.assertRaisesRegex(ValueError, f"{message}.*as in the example"):
      jax.jit(functools.partial(folded.apply, way=way))(new, X)
    folded.apply(new, X, way="plain")
    if at_run_time:  # What a model does for another reason is noticed too.
      plain[0] = way
      with self.assertRaisesRegex(ValueError, f"{at_run_time}.*in the example"):
        folded.apply(new, X)

  def test_with_the_variables_of_the_model(self):
    model = ResNet()
    variables = randomized(model, X)
    folded, _ = fold(model, variables, X, which="Residual_0")
    with self.assertRaisesRegex(
      ValueError,
      "statistics of Residual_0/norm1, Residual_0/norm2, folded.*fold returned",
    ):
      folded.apply(variables, X)

  def test_the_model_itself_is_unchanged(self):
    """Also where Flax compiles it, with a cache for all calls."""
    model = LIFTED["jit"]
    variables = randomized(model, X)
    expected = model.apply(variables, X)
    folded, new = fold(model, variables, X)
    for _ in range(2):
      folded.apply(new, X)
      chex.assert_trees_all_equal(model.apply(variables, X), expected)
