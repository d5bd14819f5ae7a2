"""Tests of one training step."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest
from flax import linen as nn

from experiments.lab.data.batch import Batch
from experiments.lab.training import lanes, step
from experiments.lab.training.losses import cross_entropy
from experiments.lab.training.step import TrainState, Update
from tests.experiments.lab.training import problems


class Classifier(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(3, name="dense")(x)


def first_state(**settings):
  """Returns an engine and the state of its first lane."""
  engine = problems.engine(**settings)
  return engine, lanes.one(engine.init([0]), 0)


def take(engine, state, batch):
  take_step = functools.partial(
    step.take_step, engine.model, engine.updates, lambda *_: {}
  )
  return jax.jit(take_step)(state, batch)


class StepTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_takes_the_gradient_step_of_softmax_regression(self):
    weights = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    params = {"dense": {"kernel": jnp.asarray(weights), "bias": jnp.zeros(3)}}
    update = Update(cross_entropy(l1=0.01, l2=0.1), optax.sgd(0.5))
    state = TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      collections={},
      opt_state=(update.optimizer.init(params),),
      key=jax.random.key(0),
    )
    x = np.array([[1, 0, 2, 1], [0, 3, 1, 0]], np.float32)
    labels = np.array([2, 0], np.int32)

    @self.variant
    def one_step(state, batch):
      return step.take_step(
        Classifier(), (update,), lambda *_: {}, state, batch
      )

    new, records = one_step(state, Batch(jnp.asarray(x), jnp.asarray(labels)))

    logits = x.astype(np.float64) @ weights
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = softmax - np.eye(3)[labels]
    decay = 0.01 * np.sign(weights) + 0.1 * 2 * weights
    np.testing.assert_allclose(
      new.params["dense"]["kernel"],
      weights - 0.5 * (x.T @ error / 2 + decay),
      rtol=1e-5,
    )
    # The bias is not penalized.
    np.testing.assert_allclose(
      new.params["dense"]["bias"], -0.5 * error.mean(axis=0), rtol=1e-5
    )
    # Nor is the penalty part of the loss.
    sums = records.sums
    np.testing.assert_allclose(
      sums["loss"], -np.log(softmax[[0, 1], labels]).sum(), rtol=1e-6
    )
    self.assertEqual(float(sums["count"]), 2)
    self.assertEqual(
      float(sums["accuracy"]), (logits.argmax(axis=1) == labels).sum()
    )
    self.assertEqual(int(new.step), 1)

  def test_norms_are_not_penalized(self):
    sgd, batch = optax.sgd(1e-3), problems.examples(8)
    after = {}
    for l2 in (0.0, 1e3):
      loss = cross_entropy(problems.prepare, l2=l2)
      engine, state = first_state(loss=loss, optimizer=sgd)
      after[l2], _ = take(engine, state, batch)
    free, penalized = (state.params for state in after.values())
    norm, dense = "LayerNorm_0", "Dense_0"
    chex.assert_trees_all_close(penalized[norm], free[norm], rtol=1e-6)
    difference = penalized[dense]["kernel"] - free[dense]["kernel"]
    self.assertGreater(np.abs(difference).max(), 0.01)

  def test_dropout_changes_from_step_to_step(self):
    engine, state = first_state(dropout=0.5, optimizer=optax.sgd(0.0))
    batch = problems.examples(8)
    later, first = take(engine, state, batch)
    _, second = take(engine, later, batch)
    _, again = take(engine, state, batch)
    chex.assert_trees_all_equal(later.params, state.params)
    loss = lambda records: float(records.sums["loss"])
    self.assertNotEqual(loss(first), loss(second))
    self.assertEqual(loss(first), loss(again))

  def test_what_does_not_count_has_no_influence(self):
    engine, state = first_state()
    few = problems.examples(4)
    batch = problems.examples(6)._replace(
      inputs=jnp.concatenate([few.inputs, 255 - few.inputs[:2]]),
      targets=jnp.concatenate([few.targets, few.targets[:2]]),
      counted=jnp.arange(6) < 4,
    )
    after, records = take(engine, state, batch)
    expected, expected_records = take(engine, state, few)
    chex.assert_trees_all_close(after.params, expected.params, atol=1e-6)
    chex.assert_trees_all_close(records.sums, expected_records.sums, rtol=1e-6)

  def test_refuses_to_train_what_is_not_there(self):
    update = Update(cross_entropy(), optax.sgd(1.0), trains=("head",))
    with self.assertRaisesRegex(ValueError, "trains head, which.*it has dense"):
      step.init_state(
        Classifier(), (update,), jnp.uint32(0), np.zeros((1, 4), np.float32)
      )


if __name__ == "__main__":
  absltest.main()
