"""The exact parts of the study of scale invariance, and what breaks them."""

import jax
import numpy as np
from absl.testing import parameterized

from experiments import scale_invariance
from experiments.lab.data import images as data
from experiments.lab.data.arrays import Images
from experiments.lab.data.batch import Batch
from experiments.lab.models.norms import norm_factory
from experiments.lab.probes import invariance


def digits():
  loaded = data.load("digits")
  return Images(
    "digits",
    Batch(*map(np.asarray, loaded.train)),
    Batch(*map(np.asarray, loaded.test)),
    10,
    lambda x: x.astype(np.float32) / 16,
  )


def batch():
  images = digits().train
  return Batch(images.inputs[:64].astype(np.float32) / 16, images.targets[:64])


class ScaleInvarianceTest(parameterized.TestCase):
  @parameterized.parameters(0.01, 100.0)
  def test_gradient_is_inverse(self, factor):
    for units in (False, True):
      errors = invariance.gradient_errors(
        invariance.model(), batch(), factor, units
      )
      self.assertLess(errors["error"], scale_invariance.EXACT)
      self.assertLess(errors["cosine"], scale_invariance.EXACT)

  @parameterized.parameters(
    ("bn", 1e-5, False),  # Epsilon shows when the weights are small.
    ("ln", 1e-12, True),  # Layer norm is invariant to the whole matrix only.
    ("none", 1e-12, False),
  )
  def test_gradient_is_not_inverse(self, norm, epsilon, units):
    net = (
      invariance.model().clone(norm=norm_factory("none"))
      if norm == "none"
      else invariance.model(norm, epsilon)
    )
    errors = invariance.gradient_errors(net, batch(), 0.01, units)
    self.assertGreater(errors["error"], 1e-2)

  def test_scaled_weights_train_alike_at_a_scaled_rate(self):
    with jax.numpy_dtype_promotion("standard"):
      error = invariance.trajectory_error(digits(), 20)
    self.assertLess(error, scale_invariance.EXACT)
