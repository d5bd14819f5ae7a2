"""Every layer that both libraries have, converted in both directions."""

import importlib.util
import unittest

import flax.linen
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from normjax.linen import variables_from_torch, variables_to_torch
from tests.linen.cases import PEERED_ONE_OF_EACH, call, named
from tests.linen.torch_cases import CASES

HAS_TORCH = importlib.util.find_spec("torch") is not None


def converted(case):
  """Returns the variables in Linen, and the input there."""
  x = case.there(case.x())
  return variables_from_torch(
    case.state_dict(), case.module, x, **case.conversion
  ), x


def back(case, variables, x):
  return variables_to_torch(variables, case.module, x, **case.conversion)


class LayersTest(parameterized.TestCase):
  @parameterized.named_parameters(named(CASES))
  def test_computes_the_formula(self, case):
    variables, x = converted(case)
    y, _ = call(case.module, variables, x)
    np.testing.assert_allclose(
      case.back(y),
      case.formula(case.x(), **case.state()),
      rtol=1e-5,
      atol=1e-5,
    )

  @parameterized.named_parameters(named(CASES))
  def test_has_the_variables_of_init(self, case):
    variables, x = converted(case)
    expected = jax.eval_shape(case.module.init, jax.random.key(0), x)
    jax.tree.map(
      lambda ours, leaf: self.assertEqual(
        (ours.shape, ours.dtype), (leaf.shape, leaf.dtype)
      ),
      variables,
      dict(expected),
    )

  @parameterized.named_parameters(named(CASES))
  def test_comes_back_with_the_same_numbers(self, case):
    state_dict = back(case, *converted(case))
    self.assertSameElements(state_dict, case.state_dict())
    for name, array in case.state_dict().items():
      np.testing.assert_array_equal(state_dict[name], array, strict=True)
      self.assertTrue(state_dict[name].flags.c_contiguous)
      self.assertTrue(state_dict[name].flags.writeable)

  @parameterized.named_parameters(named(PEERED_ONE_OF_EACH))
  def test_norms_of_flax_are_those_of_this_library(self, case):
    x = case.input()
    state_dict = variables_to_torch(case.variables(), case.build(), x)
    jax.tree.map(
      np.testing.assert_array_equal,
      variables_from_torch(state_dict, case.build(flax.linen), x),
      case.variables(),
    )


@unittest.skipUnless(HAS_TORCH, "needs torch")
@pytest.mark.filterwarnings("default")  # Of PyTorch.
class TorchTest(parameterized.TestCase):
  @parameterized.named_parameters(named(CASES))
  def test_computes_the_same(self, case):
    import torch

    layer = getattr(torch.nn, case.layer)(*case.args, **case.options).eval()
    layer.load_state_dict(
      {k: torch.from_numpy(v) for k, v in case.state_dict().items()}
    )
    variables, x = converted(case)
    y, _ = call(case.module, variables, x)
    np.testing.assert_allclose(
      case.back(y),
      layer(torch.from_numpy(case.x())).detach().numpy(),
      rtol=1e-5,
      atol=1e-5,
    )
    # Strictly: no key is missing, none is left over.
    layer.load_state_dict(
      {k: torch.from_numpy(v) for k, v in back(case, variables, x).items()}
    )


if __name__ == "__main__":
  absltest.main()
