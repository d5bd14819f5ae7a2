"""Constructors refuse what other libraries pass, and stay those of Flax."""

import copy
import functools
import inspect
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax.linen
from normjax.linen import (
  BatchNorm,
  GhostBatchNorm,
  GroupNorm,
  InstanceNorm,
  IterNorm,
  LayerNorm,
  RMSNorm,
)

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)).astype("float32"))
KINDS = (
  ("BatchNorm",),
  ("GroupNorm",),
  ("InstanceNorm",),
  ("LayerNorm",),
  ("RMSNorm",),
)


WITHOUT_PEER = (
  ("BatchRenorm",),
  ("ComplexBatchNorm",),
  ("DecorrelatedBatchNorm",),
  ("DomainBatchNorm",),
  ("GhostBatchNorm",),
  ("IterNorm",),
  ("StepBatchNorm",),
)


class WrongArgumentsTest(parameterized.TestCase):
  @parameterized.parameters(*KINDS, *WITHOUT_PEER)
  def test_unknown_field(self, kind):
    make = getattr(normjax.linen, kind)
    message = f"{kind} has no argument 'eps'; here it is called 'epsilon'"
    with self.assertRaisesRegex(TypeError, message):
      make(eps=1e-5)
    with self.assertRaisesRegex(TypeError, message):
      functools.partial(make, eps=1e-5)()

  @parameterized.parameters(
    (BatchNorm, "affine", "use_scale"),
    (BatchNorm, "track_running_stats", "always keeps"),
    (BatchNorm, "num_features", "Sizes are taken from x"),
    (LayerNorm, "elementwise_affine", "use_scale"),
    (LayerNorm, "normalized_shape", "Sizes are taken from x"),
  )
  def test_habits_of_pytorch(self, make, word, message):
    with self.assertRaisesRegex(TypeError, f"{word!r}.*{message}"):
      make(**{word: True})

  @parameterized.product(
    make=(
      BatchNorm,
      GhostBatchNorm,
      InstanceNorm,
      IterNorm,
      LayerNorm,
      RMSNorm,
    ),
    size=(8, np.int64(8), (4, 6), [6]),
    options=({}, {"epsilon": 1e-5}),
  )
  def test_a_size_comes_first(self, make, size, options):
    first = next(iter(inspect.signature(make).parameters))
    message = f"first argument of {make.__name__}, which is '{first}'. Sizes"
    with self.assertRaisesRegex(TypeError, message):
      make(size, **options)

  @parameterized.parameters(*KINDS, *WITHOUT_PEER)
  def test_x_comes_first(self, kind):
    with self.assertRaisesRegex(TypeError, rf"array.*call it: {kind}\(\)\(x\)"):
      getattr(normjax.linen, kind)(X)

  def test_a_size_by_name(self):
    for module, error, message in (
      (BatchNorm(use_running_average=8), TypeError, "got 8"),
      (LayerNorm(epsilon=768), ValueError, "epsilon=768 is an integer"),
      (GroupNorm(3, 6), ValueError, "taken from x"),
    ):
      with self.assertRaisesRegex(error, message):
        module.init(KEY, X)

  def test_momentum(self):
    module = BatchNorm(use_running_average=False, momentum=1.5)
    with self.assertRaisesRegex(ValueError, "between 0 and 1, got 1.5"):
      module.init(KEY, X)

  @parameterized.parameters("floatt32", jnp.int32, 1e-5)
  def test_dtype(self, dtype):
    with self.assertRaisesRegex(
      TypeError, "dtype must be .*floating.*bfloat16"
    ):
      LayerNorm(dtype=dtype).init(KEY, X)


class RightArgumentsTest(parameterized.TestCase):
  @parameterized.parameters(bool, np.bool_, np.array, jnp.array)
  def test_a_mode_comes_first(self, convert):
    y, _ = BatchNorm(convert(True)).init_with_output(KEY, X)
    np.testing.assert_allclose(y, X / np.sqrt(1 + 1e-5), rtol=1e-6)
    self.assertIsNone(BatchNorm(None).use_running_average)

  def test_other_first_fields(self):
    self.assertEqual(GroupNorm(8).num_groups, 8)
    self.assertIsNone(GroupNorm(None, 3).num_groups)
    self.assertEqual(LayerNorm(1e-5).epsilon, 1e-5)

  @parameterized.parameters(*KINDS)
  def test_signature_is_that_of_the_fields(self, kind):
    ours = getattr(normjax.linen, kind)
    theirs = inspect.signature(getattr(nn, kind)).parameters
    parameters = inspect.signature(ours).parameters
    self.assertLessEqual(set(theirs), set(parameters))
    self.assertEqual(ours.__init__.__name__, "__init__")
    self.assertEqual(
      inspect.signature(ours.__init__).parameters.keys() - {"self"},
      parameters.keys(),
    )

  def test_copies(self):
    norm = LayerNorm(epsilon=0.5, name="norm")
    self.assertEqual(norm.clone(), norm)
    stored = pickle.loads(pickle.dumps(norm))
    for other in (norm.copy(), copy.deepcopy(norm), stored):
      self.assertEqual(other.epsilon, 0.5)
    self.assertEqual(norm.clone(epsilon=0.25).epsilon, 0.25)

  def test_subclasses_and_lifted_classes(self):
    class Centered(LayerNorm):
      factor: float = 2.0

      @nn.compact
      def __call__(self, x, *, mask=None):
        return self.factor * super().__call__(x, mask=mask)

    expected, _ = LayerNorm().init_with_output(KEY, X)
    y, _ = Centered(factor=3.0).init_with_output(KEY, X)
    np.testing.assert_allclose(y, 3 * expected, rtol=1e-6)
    mapped = nn.vmap(
      LayerNorm, variable_axes={"params": None}, split_rngs={"params": False}
    )
    y, _ = mapped(epsilon=1e-6).init_with_output(KEY, X)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
