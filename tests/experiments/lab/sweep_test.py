"""Lanes of learning rates and seeds, and what is measured on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest

from experiments.lab import signals
from experiments.lab.ghost import GhostBatchNorm
from experiments.lab.models import MLP
from experiments.lab.sweep import Sweep, norm_factory
from experiments.lab.train_step import Examples
from normjax.linen import BatchNorm


def setUpModule():
  jax.config.update("jax_disable_most_optimizations", True)


def tearDownModule():
  jax.config.update("jax_disable_most_optimizations", False)


def data(count=40):
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(count, 6)).astype(np.float32)
  return Examples(
    jnp.asarray(inputs), jnp.asarray(inputs[:, :3].argmax(axis=1), jnp.int32)
  )


class SweepTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  def make(self, norm="bn"):
    model = MLP(norm=norm_factory(norm), hidden=(8,), num_classes=3)
    return Sweep(model, optax.sgd, prepare=lambda x: x, batch_size=10)

  def test_a_lane_is_a_pair_of_rate_and_seed(self):
    train = data()
    sweep = self.make()
    state = sweep.start([3, 4], [0.1, 0.5], train.inputs)
    orders = sweep.orders(state, train, 6)
    self.assertEqual(orders.shape, (4, 6, 10))
    np.testing.assert_array_equal(orders[0], orders[2])
    self.assertFalse(np.array_equal(orders[0], orders[1]))
    # An epoch shows every example once.
    np.testing.assert_array_equal(np.sort(orders[0, :4].ravel()), np.arange(40))
    state, records = sweep.advance(state, orders, train)
    loss = records["loss"]
    np.testing.assert_array_equal(loss[:2, 0], loss[2:, 0])  # Before training.
    self.assertFalse(np.allclose(loss[:2, 1], loss[2:, 1]))

    alone = sweep.start([4], [0.5], train.inputs)
    _, records = sweep.advance(alone, sweep.orders(alone, train, 6), train)
    np.testing.assert_allclose(records["loss"][0], loss[3], rtol=1e-5)

    # Nothing is left out of the re-estimated statistics.
    statistics = sweep.reestimated(state, train)
    kernel, bias = (
      np.asarray(state.params["Dense_0"][name][1])
      for name in ("kernel", "bias")
    )
    before = np.asarray(train.inputs) @ kernel + bias
    np.testing.assert_allclose(
      statistics["BatchNorm_0"]["var"][1], before.var(axis=0), rtol=1e-4
    )
    self.assertEqual(sweep.error(state, train, statistics).shape, (4,))

  def test_signals_are_those_of_the_layers(self):
    model = MLP(norm=norm_factory("ln"), hidden=(8, 8), num_classes=3)
    batch = data()
    found = signals.at_init(model, [0, 1], batch)
    self.assertEqual(found["gradient"].shape, (2, 2))
    np.testing.assert_allclose(found["spread"], 1, rtol=1e-3)
    variables = model.init(jax.random.key(0), batch.inputs, train=False)
    inputs = signals.activation_inputs(
      model, variables, batch.inputs, train=False
    )
    self.assertLen(inputs, 2)
    logits = model.apply(variables, batch.inputs, train=False)
    last = variables["params"]["Dense_2"]
    np.testing.assert_allclose(
      np.maximum(inputs[1], 0) @ last["kernel"] + last["bias"][None],
      logits,
      rtol=1e-4,
      atol=1e-5,
    )


class GhostTest(absltest.TestCase):
  def test_one_ghost_is_batch_norm_and_two_are_not(self):
    x = data().inputs
    whole = BatchNorm(use_running_average=False, momentum=0.9)
    variables = whole.init(jax.random.key(0), x)
    expected, updates = whole.apply(variables, x, mutable=["batch_stats"])
    for size in (40, 20):
      ghost = GhostBatchNorm(size=size, train=True)
      y, found = ghost.apply(variables, x, mutable=["batch_stats"])
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, updates
      )
      if size == 40:
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
      halves = y.reshape(-1, size, 6)
      np.testing.assert_allclose(halves.mean(axis=1), 0, atol=1e-6)
    self.assertGreater(np.abs(y - expected).max(), 0.01)
    evaluated = GhostBatchNorm(size=7, train=False).apply(variables, x)
    np.testing.assert_allclose(
      evaluated, BatchNorm(True).apply(variables, x), rtol=1e-6
    )


if __name__ == "__main__":
  absltest.main()
