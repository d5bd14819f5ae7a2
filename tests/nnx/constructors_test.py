"""Constructors and attributes are those of `flax.nnx`, and then ours."""

import copy
import inspect
import pickle

import chex
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from flax import nnx
from jax.nn import initializers

import normjax.linen
import normjax.nnx
from tests.linen.cases import named
from tests.nnx.modules import PEERED, build, pure

KINDS = sorted({case.kind for case in PEERED})
MORE = (
  "BatchRenorm",
  "ComplexBatchNorm",
  "DecorrelatedBatchNorm",
  "DomainBatchNorm",
  "GhostBatchNorm",
  "IterNorm",
  "StepBatchNorm",
)
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)).astype("float32"))
RANDOM = {
  "scale_init": initializers.normal(),
  "bias_init": initializers.uniform(),
}


def arguments(library, kind):
  """Returns names, kinds and defaults of a constructor's arguments."""
  found = inspect.signature(getattr(library, kind).__init__).parameters
  return {
    name: (parameter.kind, parameter.default)
    for name, parameter in found.items()
    if name != "self"
  }


def make(kind, *args, **options):
  if kind in ("DomainBatchNorm", "StepBatchNorm"):
    options["domains" if kind == "DomainBatchNorm" else "steps"] = 2
  args = args or (6,)
  return getattr(normjax.nnx, kind)(*args, rngs=nnx.Rngs(0), **options)


def random(kind):
  """Returns random initializers of what the norm has."""
  return {
    name: init
    for name, init in RANDOM.items()
    if not (kind == "RMSNorm" and name == "bias_init")
  }


class InterfaceTest(parameterized.TestCase):
  @parameterized.parameters(KINDS)
  def test_arguments_are_those_of_flax_then_ours(self, kind):
    """Initializers differ by identity: Flax's are new functions."""
    ours, theirs = arguments(normjax.nnx, kind), arguments(flax.nnx, kind)
    self.assertLessEqual(set(theirs), set(ours))
    for name, (place, default) in theirs.items():
      self.assertEqual(ours[name][0], place, name)
      if name.endswith("_init"):
        default, own = (
          init(jax.random.key(0), (3,), jnp.float32)
          for init in (default, ours[name][1])
        )
        np.testing.assert_array_equal(own, default)
      elif name.endswith("_metadata"):
        self.assertEqual(dict(ours[name][1]), dict(default))
      else:
        self.assertEqual(ours[name][1], default, name)
    positional = [
      [name for name, (place, _) in found.items()
       if place is inspect.Parameter.POSITIONAL_OR_KEYWORD]
      for found in (ours, theirs)
    ]  # fmt: skip
    self.assertEqual(*positional)
    for name in set(ours) - set(theirs):
      self.assertIsNot(ours[name][1], inspect.Parameter.empty)

  @parameterized.parameters(KINDS)
  def test_call_takes_what_flax_takes(self, kind):
    ours, theirs = (
      [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(
          getattr(library, kind).__call__
        ).parameters.values()
      ]
      for library in (normjax.nnx, flax.nnx)
    )
    self.assertEqual(ours, theirs)

  @parameterized.named_parameters(named(PEERED))
  def test_attributes_are_those_of_flax(self, case):
    ours = build(case, use_fast_variance=False)
    theirs = build(case, flax.nnx)
    names = {name for name in vars(theirs) if not name.startswith("_")}
    # Flax's GroupNorm has a constant of that name; here it is `channel_axis`.
    names.discard("feature_axis")
    for name in names:
      mine, other = getattr(ours, name), getattr(theirs, name)
      # Of several axes, `num_features` is a shape, where Flax has its size.
      # Flax's GroupNorm computes one of two options from the other.
      if name in ("num_features", "num_groups", "group_size"):
        if mine is not None and not isinstance(mine, tuple):
          self.assertEqual(mine, other, name)
      elif isinstance(other, nnx.Variable):
        self.assertIs(type(mine), type(other), name)
      else:
        self.assertEqual(mine, other, name)

  def test_docstrings_explain_all_arguments(self):
    for kind in (*KINDS, *MORE):
      text = getattr(normjax.nnx, kind).__doc__
      for name in "num_features", "rngs", "promote_dtype", "Args:", "Example:":
        self.assertIn(name, text)
      self.assertNotIn("Attributes:", text)

  def test_tools_of_flax_list_the_norms(self):
    """They call all public methods of a module's class with arrays."""
    norms = nnx.List([make("BatchNorm"), make("LayerNorm"), make("IterNorm")])

    class Model(nnx.Module):
      def __init__(self):
        self.norms = norms

      def __call__(self, x):
        for norm in self.norms:
          x = norm(x)
        return x

    table = nnx.tabulate(
      Model(), X, console_kwargs={"width": 200, "force_terminal": False}
    )
    for index, kind in enumerate(("BatchNorm", "LayerNorm", "IterNorm")):
      self.assertRegex(table, rf"norms/{index} +│ {kind} .*float32\[4,6\]")
    self.assertEqual(Model()(X).shape, X.shape)


class DocumentationTest(parameterized.TestCase):
  @parameterized.parameters(*KINDS, *MORE)
  def test_says_first_what_the_norm_is(self, kind):
    for front_end in normjax.nnx, normjax.linen:
      first = getattr(front_end, kind).__doc__.partition("\n")[0]
      self.assertRegex(first, "(?i)norm.*[.]$")

  @parameterized.parameters("LayerNorm", "GroupNorm", "BatchNorm")
  def test_names_no_argument_that_is_refused(self, kind):
    text = getattr(normjax.nnx, kind).__doc__
    self.assertNotIn("force_float32_reductions", text)
    self.assertIn("use_fast_variance", text)
    self.assertIn("num_features:", text)


class ParametersTest(parameterized.TestCase):
  @parameterized.named_parameters(named(PEERED))
  def test_random_parameters_are_those_of_flax(self, case):
    options = random(case.kind)
    ours, theirs = (
      pure(build(case, library, rngs=nnx.Rngs(3), **options))
      for library in (normjax.nnx, flax.nnx)
    )
    size = {
      name: tree
      for name, tree in case.variables().items()
      if case.kind != "BatchNorm" or name != "batch_stats"
    }
    if isinstance(case.num_features, int):
      chex.assert_trees_all_equal(ours, theirs, strict=True)
    else:  # Here they have the shape of the axes.
      chex.assert_trees_all_equal_shapes(ours, size)
      chex.assert_trees_all_equal(
        jax.tree.map(jnp.ravel, ours), jax.tree.map(jnp.ravel, theirs)
      )

  def test_the_next_layer_gets_the_same_keys(self):
    """Without a bias too, and after several norms."""
    keys = []
    for library in normjax.nnx, flax.nnx:
      rngs = nnx.Rngs(0, params=1)
      for kind in KINDS:
        options = {"num_groups": 2} if kind == "GroupNorm" else {}
        getattr(library, kind)(6, rngs=rngs, **options)
        getattr(library, kind)(6, use_scale=False, rngs=rngs, **options)
      keys.append(jax.random.key_data(rngs.params()))
    np.testing.assert_array_equal(*keys)

  def test_metadata(self):
    norm = make(
      "LayerNorm", scale_metadata={"decay": False}, bias_metadata={"unit": "m"}
    )
    self.assertIs(norm.scale.decay, False)
    self.assertEqual(norm.bias.unit, "m")
    plain = make("LayerNorm", use_bias=False, bias_metadata={"unit": "m"})
    self.assertIsNone(plain.bias)

  @parameterized.parameters(False, True)
  def test_an_offset_starts_scale_at_zero(self, boxed):
    options = {}
    if boxed:
      options["scale_init"] = nnx.with_metadata(initializers.ones, unit="m")
    norm = make("RMSNorm", scale_offset=1.0, **options)
    self.assertEqual(getattr(norm.scale, "unit", None), "m" if boxed else None)
    np.testing.assert_array_equal(norm.scale.get_value(), 0)
    np.testing.assert_allclose(norm(X), make("RMSNorm")(X), rtol=1e-6)
    own = make("RMSNorm", scale_offset=1.0, scale_init=initializers.ones)
    np.testing.assert_array_equal(own.scale.get_value(), 0)

  @parameterized.parameters(
    (jnp.bfloat16, None, "float32"),
    (jnp.float32, jnp.bfloat16, "float32"),
    (jnp.float64, None, "float64"),
    (jnp.float32, jnp.float64, "float64"),
  )
  def test_dtype_of_statistics(self, param_dtype, dtype, expected):
    with jax.enable_x64(expected == "float64"):
      norm = make("BatchNorm", param_dtype=param_dtype, dtype=dtype)
      self.assertEqual(norm.mean.get_value().dtype, expected)
      self.assertEqual(norm.scale.get_value().dtype, param_dtype)


class PromoteDtypeTest(parameterized.TestCase):
  @parameterized.parameters(*KINDS)
  def test_gets_what_flax_gives(self, kind):
    """The result is that of Flax too: here, statistics of a rounded input."""
    seen = {}

    def record(library):
      def promote(values, *, dtype=None, **unused):
        seen[library.__name__] = [
          None if value is None else (value.shape, value.dtype)
          for value in values
        ]
        return tuple(
          None if value is None else value.astype(jnp.bfloat16).astype(dtype)
          for value in values
        )

      return promote

    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 6)), "float32")
    options = {"num_groups": 2} if kind == "GroupNorm" else {}
    if kind != "RMSNorm":
      options["use_bias"] = False
    for train in (True, False) if kind == "BatchNorm" else (True,):
      results = [
        getattr(library, kind)(
          6, promote_dtype=record(library), dtype=jnp.float32,
          use_fast_variance=False, scale_init=initializers.uniform(2.0),
          rngs=nnx.Rngs(0), **options,
          **({"use_running_average": not train} if kind == "BatchNorm" else {}),
        )(x)
        for library in (normjax.nnx, flax.nnx)
      ]  # fmt: skip
      np.testing.assert_allclose(*results, atol=2e-5)
    self.assertEqual(seen["normjax.nnx"], seen["flax.nnx"])


class WrongArgumentsTest(parameterized.TestCase):
  @parameterized.parameters(*KINDS, *MORE)
  def test_unknown_argument(self, kind):
    message = f"{kind} has no argument 'eps'; here it is called 'epsilon'"
    with self.assertRaisesRegex(TypeError, message):
      make(kind, eps=1e-5)

  @parameterized.parameters(
    ("BatchNorm", "affine", "use_scale"),
    ("BatchNorm", "track_running_stats", "always keeps"),
    ("BatchNorm", "num_channels", "'num_features'"),
    ("LayerNorm", "elementwise_affine", "use_scale"),
    ("LayerNorm", "normalized_shape", "'num_features'"),
    ("LayerNorm", "force_float32_reductions", "its arguments are num_feat"),
    ("RMSNorm", "bias", "no bias"),
  )
  def test_habits_of_other_libraries(self, kind, word, message):
    with self.assertRaisesRegex(TypeError, f"{word!r}.*{message}"):
      make(kind, **{word: True})

  @parameterized.parameters(*KINDS, *MORE)
  def test_missing_and_too_many(self, kind):
    module = getattr(normjax.nnx, kind)
    with self.assertRaisesRegex(TypeError, f"{kind}: .*'num_features'"):
      module(rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(TypeError, f"{kind}: missing.* argument"):
      module(6)
    with self.assertRaisesRegex(TypeError, f"{kind}: too many positional"):
      make(kind, 6, 1, 2, 3)

  @parameterized.parameters((0,), (-6,), (6.0,), ("6",), ((),), (None,), (X,))
  def test_num_features(self, num_features):
    with self.assertRaisesRegex(TypeError, "num_features must be the number"):
      make("LayerNorm", num_features)

  @parameterized.parameters(*KINDS, *MORE)
  def test_features_of_another_number(self, kind):
    options = {"num_groups": 2} if kind == "GroupNorm" else {}
    norm = make(kind, **options)
    row = (0,) if kind in ("DomainBatchNorm", "StepBatchNorm") else ()
    with self.assertRaisesRegex(
      ValueError, rf"{kind} was made for num_features=6, but x of shape"
      r" \(4, 3, 5\) has features \(5,\)",
    ):  # fmt: skip
      norm(jnp.ones((4, 3, 5)), *row)

  def test_features_in_another_order(self):
    norm = make("LayerNorm", (2, 3), feature_axes=(1, 2))
    with self.assertRaisesRegex(
      ValueError, r"num_features=\(2, 3\), but .* \(3"
    ):
      norm(jnp.ones((4, 3, 2)))

  @parameterized.parameters((0,), (None,), ("params",))
  def test_rngs(self, rngs):
    with self.assertRaisesRegex(TypeError, "LayerNorm needs rngs, such as"):
      normjax.nnx.LayerNorm(6, rngs=rngs)

  @parameterized.parameters("floatt32", jnp.int32, 1e-5)
  def test_dtype(self, dtype):
    with self.assertRaisesRegex(TypeError, "dtype"):
      make("LayerNorm", dtype=dtype)(X)

  def test_mode(self):
    with self.assertRaisesRegex(ValueError, "does not know.*model.train"):
      make("BatchNorm", use_running_average=None)(X)
    with self.assertRaisesRegex(TypeError, "use_running_average.* got 8"):
      make("BatchNorm", use_running_average=8)(X)
    with self.assertRaisesRegex(TypeError, "use_running_average must be known"):
      nnx.jit(lambda norm, flag: norm(X, flag))(make("BatchNorm"), True)


class RightArgumentsTest(parameterized.TestCase):
  def test_groups_are_given_by_position(self):
    norm = normjax.nnx.GroupNorm(6, 3, rngs=nnx.Rngs(0))
    theirs = flax.nnx.GroupNorm(6, 3, rngs=nnx.Rngs(0))
    self.assertEqual(norm.num_groups, theirs.num_groups)
    x = jnp.ones((2, 4, 6))
    np.testing.assert_allclose(norm(x), theirs(x), atol=1e-6)
    norm = normjax.nnx.GroupNorm(6, None, 3, rngs=nnx.Rngs(0))
    self.assertEqual(norm.group_size, 3)

  @parameterized.parameters(6, np.int64(6), (6,), [6])
  def test_num_features(self, num_features):
    np.testing.assert_array_equal(
      make("LayerNorm", num_features)(X), make("LayerNorm")(X)
    )

  def test_copies(self):
    norm = make("BatchNorm")
    norm(X)
    stored = pickle.loads(pickle.dumps(norm))
    for other in nnx.clone(norm), copy.deepcopy(norm), stored:
      chex.assert_trees_all_equal(pure(other), pure(norm))
      other(X)
      self.assertTrue((other.mean.get_value() != norm.mean.get_value()).any())

  def test_subclasses(self):
    class Centered(normjax.nnx.LayerNorm):
      def __init__(self, num_features, *, factor=2.0, rngs):
        super().__init__(num_features, use_bias=False, rngs=rngs)
        self.factor = factor

      def __call__(self, x, *, mask=None):
        return self.factor * super().__call__(x, mask=mask)

    np.testing.assert_allclose(
      Centered(6, rngs=nnx.Rngs(0))(X), 2 * make("LayerNorm")(X), rtol=1e-6
    )
