"""Options of PyTorch's norms: what they become, and what is refused."""

import importlib.util
import inspect
import unittest

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from normjax.lifecycle import torch_options
from normjax.linen import BatchNorm, options_from_torch
from tests import reference
from tests.linen.cases import call

HAS_TORCH = importlib.util.find_spec("torch") is not None
BATCHES = np.random.default_rng(0).normal(3, 2, (4, 8, 6)).astype(np.float32)


def trained(**options):
  """Returns the statistics of a batch norm of Linen after some batches."""
  module = BatchNorm(
    use_running_average=False, **options_from_torch("BatchNorm1d", 6, **options)
  )
  variables = module.init(jax.random.key(0), BATCHES[0])
  for x in BATCHES:
    _, updates = call(module, variables, x)
    variables = {**variables, **updates}
  return variables["batch_stats"]


class OptionsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("BatchNorm1d", (8,), {}, {"epsilon": 1e-5, "momentum": 0.9}),
    (
      "SyncBatchNorm",
      (8, 1e-3, 0.25),
      {},
      {"epsilon": 1e-3, "momentum": 0.75, "running_var_ddof": 1},
    ),
    (
      "BatchNorm2d",
      (8,),
      {"affine": False},
      {"use_scale": False, "use_bias": False},
    ),
    ("BatchNorm3d", (8,), {"bias": False}, {"use_scale": True}),
    ("GroupNorm", (4, 8), {}, {"num_groups": 4, "epsilon": 1e-5}),
    ("InstanceNorm2d", (8,), {}, {"use_scale": False, "use_bias": False}),
    ("InstanceNorm3d", (8,), {"affine": True}, {"use_bias": True}),
    ("LayerNorm", (8,), {}, {"reduction_axes": (-1,), "feature_axes": (-1,)}),
    (
      "LayerNorm",
      ([4, 8], 1e-12),
      {"bias": False},
      {"reduction_axes": (-2, -1), "epsilon": 1e-12, "use_bias": False},
    ),
    ("RMSNorm", (8,), {}, {"epsilon": 1.1920928955078125e-07}),
    ("RMSNorm", ((4, 8), 1e-6), {}, {"epsilon": 1e-6}),
  )
  def test_are(self, layer, args, options, expected):
    found = options_from_torch(layer, *args, **options)
    self.assertEqual(found | expected, found)

  def test_without_running_statistics(self):
    found = options_from_torch("BatchNorm2d", 8, track_running_stats=False)
    self.assertEqual(found["use_running_average"], False)
    self.assertNotIn("momentum", found)

  @parameterized.parameters(0.1, 0.25, 1.0)
  def test_statistics_are_those_of_pytorch(self, momentum):
    mean, var = np.zeros(6), np.ones(6)
    for x in BATCHES:
      mean, var = reference.running_statistics(
        x, (mean, var), momentum=1 - momentum, running_var_ddof=1
      )
    stats = trained(momentum=momentum)
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], var, rtol=1e-5)

  @parameterized.parameters(
    (("BatchNorm2d", 8, 1e-5, None), ValueError, "momentum=None.*average"),
    (("InstanceNorm1d", 8, 1e-5, 0.1, False, True), ValueError, "BatchNorm"),
    (("LocalResponseNorm", 8), TypeError, "LocalResponseNorm.*BatchNorm1d"),
    (("BatchNorm2d",), TypeError, "BatchNorm2d: missing.*'num_features'"),
  )
  def test_refuses(self, args, error, message):
    with self.assertRaisesRegex(error, message):
      options_from_torch(*args)

  def test_what_means_nothing_here(self):
    plain = options_from_torch("SyncBatchNorm", 8)
    given = {"device": "cpu", "dtype": None, "process_group": None}
    self.assertEqual(options_from_torch("SyncBatchNorm", 8, **given), plain)
    with self.assertRaisesRegex(TypeError, "BatchNorm1d: .*'process_group'"):
      options_from_torch("BatchNorm1d", 8, process_group=None)

  def test_refuses_what_pytorch_refuses(self):
    with self.assertRaisesRegex(TypeError, "torch.nn.GroupNorm: .*'epsilon'"):
      options_from_torch("GroupNorm", 4, 8, epsilon=1e-5)


@unittest.skipUnless(HAS_TORCH, "needs torch")
@pytest.mark.filterwarnings("default")  # Of PyTorch.
class TorchTest(parameterized.TestCase):
  @parameterized.parameters(*torch_options.OPTIONS)
  def test_arguments_and_defaults_are_those_of_pytorch(self, layer):
    import torch

    def arguments(function):
      without = ("device", "dtype", "process_group")
      return {
        (name, parameter.default, parameter.kind)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in without
      }

    self.assertEqual(
      arguments(torch_options.OPTIONS[layer]),
      arguments(getattr(torch.nn, layer)),
    )

  @parameterized.parameters(0.1, 0.25)
  def test_statistics_are_those_of_pytorch(self, momentum):
    import torch

    layer = torch.nn.BatchNorm1d(6, momentum=momentum)
    for x in BATCHES:
      layer(torch.from_numpy(x))
    stats = trained(momentum=momentum)
    np.testing.assert_allclose(stats["mean"], layer.running_mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], layer.running_var, rtol=1e-5)


if __name__ == "__main__":
  absltest.main()
