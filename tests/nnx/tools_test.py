"""Freezing, re-estimating, diagnosing and folding batch norms, and PyTorch."""

import functools
import importlib.util
import unittest

import chex
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from flax import linen as nn
from flax import nnx

import normjax.linen
import normjax.nnx
from normjax.nnx import (
  BatchNorm,
  BatchRenorm,
  DecorrelatedBatchNorm,
  DomainBatchNorm,
  FoldedBatchNorm,
  LayerNorm,
  diagnose,
  fold,
  frozen,
  frozen_mask,
  reestimate,
  state_from_torch,
  state_to_torch,
)


def batches(number=3, seed=0):
  """Returns batches of images, of different sizes and far from zero."""
  generator = np.random.default_rng(seed)
  return [
    jnp.asarray(generator.normal(3, 2, (6 + i // 2, 5, 5, 3)).astype("float32"))
    for i in range(number)
  ]


class Block(nnx.Module):
  def __init__(self, library, features, rngs):
    self.conv = nnx.Conv(features[0], features[1], (3, 3), rngs=rngs)
    self.norm = library.BatchNorm(features[1], momentum=0.8, rngs=rngs)

  def __call__(self, x):
    return nnx.relu(self.norm(self.conv(x)))


class Net(nnx.Module):
  """Two blocks, a linear layer with a norm, dropout, and a layer norm."""

  def __init__(self, library=normjax.nnx, seed=0):
    rngs = nnx.Rngs(seed)
    self.blocks = nnx.List(
      [
        Block(library, (3, 4), rngs),
        Block(library, (4, 5), rngs),
      ]
    )
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.dense = nnx.Linear(5, 2, use_bias=False, rngs=rngs)
    self.norm = library.BatchNorm(2, rngs=rngs)
    self.last = LayerNorm(2, rngs=rngs)

  def __call__(self, x):
    for block in self.blocks:
      x = block(x)
    return self.last(self.norm(self.dense(self.dropout(x.mean((1, 2))))))


class LinenBlock(nn.Module):
  features: int

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(self.features, (3, 3), name="conv")(x)
    norm = normjax.linen.BatchNorm(not train, momentum=0.8, name="norm")
    return nn.relu(norm(x))


class LinenNet(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    for i, features in enumerate((4, 5)):
      x = LinenBlock(features, name=f"blocks_{i}")(x, train)
    x = nn.Dense(2, use_bias=False, name="dense")(x.mean((1, 2)))
    x = normjax.linen.BatchNorm(not train, name="norm")(x)
    return normjax.linen.LayerNorm(name="last")(x)


def linen_variables(model):
  """Returns the variables of the same net in Linen."""
  variables = {"params": {}, "batch_stats": {}}
  for keys, variable in nnx.to_flat_state(
    nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
  ):
    statistic = issubclass(variable.type, nnx.BatchStat)
    tree = variables["batch_stats" if statistic else "params"]
    *path, name = map(str, keys)
    if path[0] == "blocks":
      path = [f"blocks_{path[1]}", *path[2:]]
    for part in path:
      tree = tree.setdefault(part, {})
    tree[name] = variable.get_value()
  return variables


def norms(model):
  """Returns the batch norms of the net."""
  return [*(block.norm for block in model.blocks), model.norm]


def stats(model):
  return [(n.mean.get_value(), n.var.get_value()) for n in norms(model)]


@nnx.jit
def run(model, x):
  return model(x)


@functools.cache
def _trained(library):
  model = Net(library)
  for x in batches(2, seed=1):
    run(model, x)
  return model


def trained(library=normjax.nnx):
  """Returns a net with running statistics of two batches."""
  return nnx.clone(_trained(library))


BOTH = {"normjax": normjax.nnx, "flax": flax.nnx}
LIBRARIES = [*BOTH.items()]


class FrozenTest(parameterized.TestCase):
  @parameterized.named_parameters(LIBRARIES)
  def test_keeps_statistics_and_evaluates(self, library):
    model = trained(library)
    before = stats(model)
    with frozen(model, "blocks/*"):
      model.train()
      run(model, batches()[0])
    first, second, last = stats(model)
    chex.assert_trees_all_equal((first, second), tuple(before[:2]))
    self.assertTrue(jnp.any(last[0] != before[2][0]))
    run(model, batches()[0])
    self.assertTrue(jnp.any(stats(model)[0][0] != before[0][0]))

  def test_in_compiled_steps(self):
    model = trained()
    x = batches()[0]
    run(model, x)
    before = stats(model)
    with frozen(model):
      run(model, x)
      chex.assert_trees_all_equal(stats(model), before)
    run(model, x)
    self.assertTrue(jnp.any(stats(model)[0][0] != before[0][0]))

  def test_classes_functions_and_nested_contexts(self):
    model = nnx.Sequential(
      BatchNorm(3, rngs=nnx.Rngs(0)), BatchRenorm(3, rngs=nnx.Rngs(0))
    )
    x = batches()[0]
    with (
      frozen(model, BatchRenorm),
      frozen(model, lambda path: path == ("layers", "0")),
    ):
      model(x)
    for norm in model.layers:
      self.assertFalse(jnp.any(norm.mean.get_value()))

  def test_a_subclass_with_another_call(self):
    class Plain(BatchNorm):
      def __call__(self, x):
        return super().__call__(x)

    norm = Plain(3, rngs=nnx.Rngs(0))
    with frozen(norm):
      norm(batches()[0])
    self.assertFalse(jnp.any(norm.mean.get_value()))
    norm(batches()[0])
    self.assertTrue(jnp.any(norm.mean.get_value()))

  def test_needs_the_model(self):
    with self.assertRaisesRegex(TypeError, "model must be an nnx.Module"):
      frozen("encoder").__enter__()

  def test_ends_with_an_exception(self):
    model = Net()
    cls = type(model.norm)
    with self.assertRaises(ZeroDivisionError), frozen(model):
      raise ZeroDivisionError
    self.assertIs(type(model.norm), cls)

  def test_choices_that_choose_nothing(self):
    model = Net()
    with self.assertRaisesRegex(ValueError, "'encoder' chooses no batch norm"):
      frozen(model, "encoder").__enter__()
    with frozen(model, "encoder", missing_ok=True):
      run(model, batches()[0])
    with self.assertRaisesRegex(TypeError, "pattern of their path"):
      frozen(model, 3).__enter__()
    with self.assertRaisesRegex(TypeError, "got a module, BatchNorm. Give it"):
      frozen_mask(model, model.norm)

  def test_mask_leaves_gains_and_biases_alone(self):
    model = trained()
    mask = frozen_mask(model, "blocks")
    decay = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))
    tx = optax.selective_transform(decay, freeze_mask=mask)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = nnx.clone(nnx.state(model, nnx.Param))
    x = batches()[0]
    grads = nnx.jit(nnx.grad(lambda model: (model(x) ** 3).sum()))(model)
    optimizer.update(model, grads)
    after = nnx.state(model, nnx.Param)
    for keys, variable in nnx.to_flat_state(after):
      same = bool(
        jnp.all(
          variable.get_value()
          == dict(nnx.to_flat_state(before))[keys].get_value()
        )
      )
      self.assertEqual(same, keys[0] == "blocks" and keys[2] == "norm", keys)


class ReestimateTest(parameterized.TestCase):
  @parameterized.named_parameters(LIBRARIES)
  def test_as_in_linen(self, library):
    model = trained(library)
    variables = linen_variables(model)
    reestimate(model, batches())
    expected = normjax.linen.reestimate(LinenNet(), variables, batches())
    chex.assert_trees_all_close(
      linen_variables(model)["batch_stats"],
      expected["batch_stats"],
      rtol=1e-4,
      atol=1e-5,
    )
    self.assertFalse(model.norm.use_running_average)
    self.assertFalse(model.dropout.deterministic)

  def test_one_norm_and_frozen_ones(self):
    model = trained()
    before = stats(model)
    reestimate(model, batches(), which="norm")
    chex.assert_trees_all_equal(stats(model)[:2], before[:2])
    self.assertTrue(jnp.any(stats(model)[2][0] != before[2][0]))
    again = stats(model)
    with frozen(model):
      reestimate(model, batches())
    chex.assert_trees_all_equal(stats(model), again)

  def test_whitening_debiased_and_rows(self):
    x = batches(1)[0][:, 0, 0]
    for norm in (
      DecorrelatedBatchNorm(3, rngs=nnx.Rngs(0)),
      BatchNorm(3, debias=True, rngs=nnx.Rngs(0)),
      BatchRenorm(3, rngs=nnx.Rngs(0)),
    ):
      reestimate(norm, [x[:3], x[3:]])
      np.testing.assert_allclose(norm.mean.get_value(), x.mean(0), rtol=1e-5)
      spread = norm.cov.get_value()[0] if hasattr(norm, "cov") else None
      if spread is None:
        np.testing.assert_allclose(norm.var.get_value(), x.var(0), rtol=1e-5)
      else:
        np.testing.assert_allclose(
          spread, np.cov(x.T, ddof=0), rtol=1e-4, atol=1e-4
        )
    norm = DomainBatchNorm(3, domains=2, rngs=nnx.Rngs(0))
    reestimate(
      norm, [(x, 0), (2 * x, 1)], method=lambda norm, batch: norm(*batch)
    )
    np.testing.assert_allclose(
      norm.mean.get_value(), np.stack([x.mean(0), 2 * x.mean(0)]), rtol=1e-5
    )

  def test_layers_of_a_scan(self):
    class Layers(nnx.Module):
      def __init__(self):
        keys = jax.random.split(jax.random.key(0), 2)
        make = nnx.vmap(lambda key: BatchNorm(3, rngs=nnx.Rngs(key)))
        self.norms = make(keys)

      def __call__(self, x):
        scan = nnx.scan(
          lambda x, norm: 2 * norm(x) + 1, in_axes=(nnx.Carry, 0),
          out_axes=nnx.Carry,
        )  # fmt: skip
        return scan(x, self.norms)

    model, x = Layers(), batches(1)[0]
    reestimate(model, [x])
    np.testing.assert_allclose(
      model.norms.mean.get_value(),
      np.stack([x.mean((0, 1, 2)), np.ones(3)]),
      rtol=1e-4,
    )

  def test_errors_leave_the_model_alone(self):
    model = trained()
    before = stats(model)
    with self.assertRaisesRegex(TypeError, "iterable of batches"):
      reestimate(model, batches()[0])
    with self.assertRaisesRegex(ValueError, "No batch had values"):
      reestimate(model, [])
    with self.assertRaises(Exception) as caught:
      reestimate(model, [{"image": batches()[0]}])
    self.assertIn("method=lambda", caught.exception.__notes__[-1])
    chex.assert_trees_all_equal(stats(model), before)


class DiagnoseTest(parameterized.TestCase):
  @parameterized.named_parameters(LIBRARIES)
  def test_as_in_linen(self, library):
    model = trained(library)
    model.eval()
    before, x = stats(model), batches()[0]
    found = diagnose(model, x)
    expected = normjax.linen.diagnose(LinenNet(), linen_variables(model), x)
    self.assertEqual([*found.norms], ["blocks/0/norm", "blocks/1/norm", "norm"])
    for path, norm in found.norms.items():
      other = expected.norms[path.replace("blocks/", "blocks_")]
      np.testing.assert_allclose(norm.drift, other.drift, rtol=1e-3, atol=1e-4)
      np.testing.assert_allclose(
        norm.variance_ratio, other.variance_ratio, rtol=1e-3
      )
      self.assertEqual(norm.values, other.values)
      self.assertEqual(len(norm.advice), len(other.advice))
    chex.assert_trees_all_equal(stats(model), before)

  def test_refuses_traced_models(self):
    with self.assertRaisesRegex(TypeError, "traced model"):
      nnx.jit(lambda model, x: diagnose(model, x) and 0)(Net(), batches()[0])

  def test_a_model_without_norms(self):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    self.assertEmpty(diagnose(model, jnp.ones((2, 3))).norms)


class FoldTest(parameterized.TestCase):
  @parameterized.named_parameters(LIBRARIES)
  def test_equals_the_model(self, library):
    model, x = trained(library), batches()[0]
    folded = fold(model, jax.ShapeDtypeStruct(x.shape, x.dtype))
    self.assertFalse(model.norm.use_running_average)
    model.eval()
    chex.assert_trees_all_close(
      run(folded.model, x), run(model, x), rtol=1e-4, atol=1e-5
    )
    self.assertLen(folded.norms, 3)
    self.assertEmpty(folded.kept)
    self.assertEmpty(nnx.state(folded.model, nnx.BatchStat))
    self.assertIsInstance(folded.model.norm, FoldedBatchNorm)
    self.assertIsNotNone(folded.model.dense.bias)

  def test_frozen_norms(self):
    model, x = trained(), batches()[0]
    expected = run(fold(model, x).model, x)
    with frozen(model, "norm"), frozen(model):
      folded = fold(model, x)
    self.assertLen(folded.norms, 3)
    chex.assert_trees_all_equal(run(folded.model, x), expected)

  def test_refuses_training_and_masks(self):
    x = batches()[0]
    model = fold(trained(), x).model
    model.train()
    with self.assertRaisesRegex(ValueError, "folded into blocks/0/conv"):
      model(x)

  def test_transposed_convolution_and_offset_gain(self):
    x = batches()[0]
    for transpose in (False, True):
      model = nnx.Sequential(
        nnx.ConvTranspose(
          3, 4, (3, 3), transpose_kernel=transpose, rngs=nnx.Rngs(0)
        ),
        BatchNorm(4, scale_offset=1.0, rngs=nnx.Rngs(0)),
      )
      run(model, x)
      folded = fold(model, x).model
      model.eval()
      chex.assert_trees_all_close(
        run(folded, x), run(model, x), rtol=1e-4, atol=1e-5
      )

  def test_refusals(self):
    x = batches()[0]

    class Wrong(nnx.Module):
      def __init__(self):
        rngs = nnx.Rngs(0)
        self.before = BatchNorm(3, rngs=rngs)
        self.conv = nnx.Conv(3, 3, (1, 1), rngs=rngs)
        self.after = BatchNorm(3, rngs=rngs)
        self.twice = nnx.Conv(3, 3, (1, 1), rngs=rngs)
        self.norm = BatchNorm(3, rngs=rngs)
        self.unused = BatchNorm(3, rngs=rngs)
        self.tied = nnx.Conv(3, 3, (1, 1), rngs=rngs)
        self.of_tied = BatchNorm(3, rngs=rngs)

      def __call__(self, x):
        x = self.after(nnx.relu(self.conv(self.before(x))))
        y = self.twice(x)
        x = self.norm(y) + y
        return self.of_tied(self.tied(x)) + self.tied.kernel.get_value().sum()

    with self.assertRaises(ValueError) as caught:
      fold(Wrong(), x)
    message = str(caught.exception)
    for reason in (
      "5 of 5 batch norms",
      "before: its input is not the output of an nnx.Linear",
      "after: its input is not the output of an nnx.Linear, nnx.Conv",
      "norm: the output of twice before it is also used elsewhere",
      "unused: the model does not call it",
      "of_tied: its parameters, or those of tied, are also used",
    ):
      self.assertIn(reason, message)
    folded = fold(Wrong(), x, partial=True)
    self.assertLen(folded.kept, 5)


@unittest.skipUnless(importlib.util.find_spec("torch"), "needs torch")
class TorchTest(absltest.TestCase):
  def test_there_and_back(self):
    import torch

    net = torch.nn.Sequential(
      torch.nn.Conv2d(3, 4, 3, padding=1),
      torch.nn.BatchNorm2d(4),
      torch.nn.ReLU(),
    )
    x = batches()[0]
    with torch.no_grad():
      net(torch.from_numpy(np.moveaxis(np.array(x), -1, 1)))
      expected = net.eval()(torch.from_numpy(np.moveaxis(np.array(x), -1, 1)))
    rngs = nnx.Rngs(1)
    model = nnx.Sequential(
      nnx.Conv(3, 4, (3, 3), rngs=rngs), BatchNorm(4, rngs=rngs), nnx.relu
    )
    names = {"": "layers"}
    state_dict = {k: v.numpy() for k, v in net.state_dict().items()}
    nnx.update(model, state_from_torch(state_dict, model, names=names))
    model.eval()
    np.testing.assert_allclose(
      np.moveaxis(np.array(model(x)), -1, 1), expected, rtol=1e-4, atol=1e-5
    )
    back = state_to_torch(model, names=names, num_batches_tracked=1)
    self.assertEqual(back.keys(), state_dict.keys())
    for key, value in state_dict.items():
      np.testing.assert_array_equal(back[key], value)


class StateTest(absltest.TestCase):
  def test_round_trip_without_torch(self):
    model = trained()
    names = {"": ""}
    state_dict = state_to_torch(model, names=names)
    self.assertIn("blocks.0.norm.running_mean", state_dict)
    other = Net(seed=1)
    nnx.update(other, state_from_torch(state_dict, other))
    chex.assert_trees_all_equal(linen_variables(other), linen_variables(model))

  def test_names_what_is_missing(self):
    state_dict = state_to_torch(trained())
    del state_dict["norm.weight"]
    with self.assertRaisesRegex(ValueError, r"missing: norm.weight \(for"):
      state_from_torch(state_dict, Net())


if __name__ == "__main__":
  absltest.main()
