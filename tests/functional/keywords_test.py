"""Words of other libraries, in messages about unknown arguments."""

import inspect

import jax
import numpy as np
from absl.testing import parameterized

import normjax
import normjax.linen
import normjax.nnx
from normjax.functional import keywords
from normjax.functional.keywords import check_keywords
from tests.functional.arguments_test import FUNCTIONS

X = np.ones((4, 6), np.float32)
ACCEPTED = {
  function.__name__: tuple(inspect.signature(function).parameters)
  for function in (
    *FUNCTIONS,
    normjax.linen.BatchNorm, normjax.linen.GroupNorm,
    normjax.linen.InstanceNorm, normjax.linen.LayerNorm, normjax.linen.RMSNorm,
  )
} | {
  f"nnx.{module.__name__}": tuple(inspect.signature(module.__init__).parameters)
  for module in (normjax.nnx.BatchNorm, normjax.nnx.LayerNorm)
}  # fmt: skip


class KeywordsTest(parameterized.TestCase):
  @parameterized.parameters(*FUNCTIONS)
  def test_every_function_says_what_it_is_called_here(self, function):
    message = f"{function.__name__} has no argument 'where'; .* called 'mask'"
    for call in (function, jax.jit(function)):
      with self.assertRaisesRegex(TypeError, message):
        call(X, where=X > 0)

  @parameterized.parameters(
    ("batch_norm", "eps", "'epsilon'"),
    ("batch_norm", "weight", "'scale'"),
    ("batch_norm", "beta", "'bias'"),
    ("batch_norm", "running_mean",
     "'stats' (the running statistics, as training returns them)"),
    ("batch_norm", "reduction_axes",
     "'axis' (the axis of the features, which is not averaged over)"),
    ("batch_norm", "is_training",
     "'use_running_average' (False in training, True in evaluation)"),
    ("layer_norm", "axis", "'reduction_axes' (what is averaged over)"
     " or 'feature_axes' (the axes that have a gain and a bias each)"),
    ("layer_norm", "elementwise_affine", "'scale' and 'bias'"),
    ("rms_norm", "elementwise_affine", "'scale'"),
    ("group_norm", "groups", "'num_groups'"),
    ("instance_norm", "axis", "'channel_axis' (the axis of the channels)"),
    ("standardize", "axis", "'axes' (what is averaged over)"),
    ("moments", "reduction_axes", "'axes' (what is averaged over)"),
    ("LayerNorm", "elementwise_affine", "'use_scale' and 'use_bias'"),
    ("LayerNorm", "bias", "'use_bias'"),
    ("InstanceNorm", "channel_axis",
     "'feature_axes' (the axes that have a gain and a bias each)"),
  )  # fmt: skip
  def test_name_here(self, function, word, here):
    with self.assertRaises(TypeError) as caught:
      check_keywords(function, [word], ACCEPTED[function])
    self.assertEqual(
      str(caught.exception),
      f"{function} has no argument {word!r}; here it is called {here}.",
    )

  @parameterized.parameters(
    ("layer_norm", "normalized_shape", r"\. Sizes are taken from x\."),
    ("BatchNorm", "track_running_stats", "Batch norm always keeps"),
    ("layer_norm", "dtype", "dtype of x"),
    ("rms_norm", "bias", r"\. It has no bias\."),
    ("RMSNorm", "foo", "its arguments are epsilon, (?!.*parent)"),
    ("layer_norm", "epsilom", "its arguments are x, .*mean 'epsilon'"),
    ("moments", "zzz", "its arguments are x, axes, mask, .*keepdims\\.$"),
  )
  def test_without_a_name_here(self, function, word, message):
    with self.assertRaisesRegex(TypeError, f"argument {word!r}.*{message}"):
      check_keywords(function, [word], ACCEPTED[function])

  def test_all_unknown_words_at_once(self):
    with self.assertRaisesRegex(
      TypeError, "'gamma'.*'scale'.*'eps'.*'epsilon'"
    ):
      normjax.layer_norm(X, gamma=None, mask=None, eps=1e-5)

  def test_no_line_of_the_tables_is_dead(self):
    for word, here in keywords._HERE.items():
      for name in set(here) - {word}:
        self.assertTrue(
          any(
            name in accepted and word not in accepted
            for accepted in ACCEPTED.values()
          ),
          f"{word}: {name}",
        )
    names = set().union(*ACCEPTED.values())
    self.assertLessEqual(keywords._MEANING.keys(), names)
