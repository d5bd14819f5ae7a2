"""Whole models from PyTorch and back; what a state dict may be given as."""

import importlib.util
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from absl.testing import absltest, parameterized
from flax import linen as nn

from normjax.linen import BatchNorm, variables_from_torch, variables_to_torch
from tests.linen import resnet

HAS_TORCH = importlib.util.find_spec("torch") is not None
MODEL = resnet.ResNet()
IMAGES = resnet.images(100)
NORM, X = BatchNorm(use_running_average=True), jnp.ones((2, 3))


def state_dict(shapes, seed=0):
  numbers = np.random.default_rng(seed)
  return {
    key: np.array(5)
    if key.endswith("tracked")
    else numbers.uniform(0.5, 2, shape).astype(np.float32)
    for key, shape in shapes.items()
  }


def norm_state_dict():
  names = ("weight", "bias", "running_mean", "running_var")
  return state_dict(dict.fromkeys(names, (3,)))


def aligned(array):
  """Returns a copy whose memory JAX could share on CPUs, as PyTorch's."""
  buffer = np.empty(array.nbytes + 64, np.uint8)
  start = -buffer.ctypes.data % 64
  copy = buffer[start : start + array.nbytes].view(array.dtype)
  copy[:] = array
  return copy


def from_torch(given):
  return variables_from_torch(given, MODEL, IMAGES, train=False)


def to_torch(variables, **options):
  return variables_to_torch(variables, MODEL, IMAGES, train=False, **options)


@jax.jit
def evaluate(variables):
  return MODEL.apply(variables, IMAGES, False)


@jax.jit
def train(variables):
  """Returns logits, and the variables with the statistics after a batch."""
  logits, updates = MODEL.apply(
    variables, IMAGES, True, mutable=["batch_stats"]
  )
  return logits, {**variables, **updates}


class ModelTest(absltest.TestCase):
  def test_comes_back_with_the_same_bits(self):
    given = state_dict(resnet.shapes())
    variables = from_torch(given)
    jax.tree.map(
      lambda ours, leaf: self.assertEqual(
        (ours.shape, ours.dtype), (leaf.shape, leaf.dtype)
      ),
      variables,
      jax.eval_shape(lambda: MODEL.init(jax.random.key(0), IMAGES, False)),
    )
    back = to_torch(variables, num_batches_tracked=5)
    self.assertSameElements(back, given)
    for key, array in given.items():
      np.testing.assert_array_equal(back[key], array, strict=True)


class GivenTest(parameterized.TestCase):
  def file(self, arrays, name="model.safetensors"):
    folder = self.enter_context(tempfile.TemporaryDirectory())
    path = pathlib.Path(folder, name)
    safetensors.numpy.save_file(arrays, path)
    return path

  def test_a_file(self):
    given = norm_state_dict()
    expected = variables_from_torch(given, NORM, X)
    path = self.file(given)
    for file in (path, str(path)):
      jax.tree.map(
        np.testing.assert_array_equal,
        variables_from_torch(file, NORM, X),
        expected,
      )
    # What goes to PyTorch can be written.
    back = self.file(variables_to_torch(expected, NORM, X))
    jax.tree.map(
      np.testing.assert_array_equal,
      variables_from_torch(back, NORM, X),
      expected,
    )

  def test_other_dtypes_become_those_of_the_model(self):
    given = {k: v.astype(jnp.bfloat16) for k, v in norm_state_dict().items()}
    variables = variables_from_torch(self.file(given), NORM, X)
    np.testing.assert_array_equal(
      variables["params"]["scale"],
      given["weight"].astype(np.float32),
      strict=True,
    )
    half = BatchNorm(
      use_running_average=True, param_dtype=jnp.bfloat16, dtype=jnp.float32
    )
    variables = variables_from_torch(norm_state_dict(), half, X)
    self.assertEqual(variables["params"]["scale"].dtype, jnp.bfloat16)
    self.assertEqual(variables["batch_stats"]["var"].dtype, jnp.float32)
    back = variables_to_torch(variables, half, X)
    self.assertEqual(back["weight"].dtype, jnp.bfloat16)

  def test_neither_a_mapping_nor_a_path(self):
    with self.assertRaisesRegex(TypeError, "state_dict must be .* got NoneT"):
      variables_from_torch(None, NORM, X)

  def test_without_safetensors(self):
    path = self.file(norm_state_dict())
    missing = {"safetensors": None, "safetensors.numpy": None}
    with (
      mock.patch.dict(sys.modules, missing),
      self.assertRaisesRegex(
        ModuleNotFoundError, "pip install safetensors.*mapping of names"
      ),
    ):
      variables_from_torch(path, NORM, X)

  @parameterized.parameters("model.pt", "model")
  def test_another_file(self, name):
    with self.assertRaisesRegex(ValueError, f"'{name}'.*torch.load"):
      variables_from_torch(name, NORM, X)

  def test_arrays_are_copied(self):
    given = {key: aligned(v) for key, v in norm_state_dict().items()}
    variables = variables_from_torch(given, NORM, X)
    back = variables_to_torch(variables, NORM, X)
    expected = given["weight"].copy()
    given["weight"] += 1
    back["weight"] += 1
    np.testing.assert_array_equal(variables["params"]["scale"], expected)

  def test_metadata_of_partitioning(self):
    init = nn.with_partitioning(nn.initializers.ones, ("model",))
    norm = BatchNorm(use_running_average=True, scale_init=init)
    boxed = norm.init(jax.random.key(0), X)
    back = variables_to_torch(boxed, norm, X)
    variables = variables_from_torch(back, norm, X)
    np.testing.assert_array_equal(variables["params"]["scale"], np.ones(3))


@unittest.skipUnless(HAS_TORCH, "needs torch")
@pytest.mark.filterwarnings("default")  # Of PyTorch.
class TorchTest(parameterized.TestCase):
  def test_resnet_gives_the_same_logits_in_both_directions(self):
    import torch

    model = resnet.trained()
    variables = from_torch(model.state_dict())
    with torch.inference_mode():
      logits = model.eval()(resnet.as_torch(IMAGES)).numpy()
      np.testing.assert_allclose(evaluate(variables), logits, atol=1e-4)
      self.assertGreater(np.abs(logits).max(), 0.5)

      # A batch in training changes the statistics alike.
      expected = model.train()(resnet.as_torch(IMAGES))
      logits, variables = train(variables)
      np.testing.assert_allclose(logits, expected, atol=1e-4)
      back = to_torch(variables, num_batches_tracked=6)
      for key, value in model.state_dict().items():
        np.testing.assert_allclose(
          back[key], value, rtol=1e-4, atol=1e-4, err_msg=key
        )

      other = resnet.torch_class()().eval()
      other.load_state_dict(
        {key: torch.from_numpy(array) for key, array in back.items()}
      )
      np.testing.assert_allclose(
        other(resnet.as_torch(IMAGES)), evaluate(variables), atol=1e-4
      )

  def test_resnet_has_these_names(self):
    given = resnet.torch_class()().state_dict()
    self.assertEqual(
      {key: tuple(value.shape) for key, value in given.items()},
      resnet.shapes(),
    )

  @parameterized.parameters(
    (lambda torch: torch.nn.Parameter(torch.ones(3)), RuntimeError),
    (lambda torch: torch.ones(3, dtype=torch.bfloat16), TypeError),
  )
  def test_tensors_that_numpy_cannot_read(self, make, error):
    import torch

    given = {**norm_state_dict(), "weight": make(torch)}
    with self.assertRaises(error) as raised:
      variables_from_torch(given, NORM, X)
    self.assertIn("'weight' must be", raised.exception.__notes__[0])

  def test_later_training_in_pytorch_changes_nothing(self):
    import torch

    layer = torch.nn.BatchNorm1d(3)
    variables = variables_from_torch(layer.state_dict(), NORM, X)
    layer(torch.randn(4, 3) + 7)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(3))


if __name__ == "__main__":
  absltest.main()
