"""Tests of the training of transformers: steps, seeds, evaluation."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab import sequence_tasks
from experiments.lab.sequence_training import SequenceTrainer, make_optimizer
from experiments.lab.transformer import Classifier, LanguageModel
from normjax.linen import make_norm

OPTIMIZER = {
  "learning_rate": 1e-2,
  "warmup_steps": 0,
  "schedule": "constant",
  "steps": 100,
  "weight_decay": 0.1,
  "clip_norm": 1.0,
}


def setUpModule():
  jax.config.update("jax_disable_most_optimizations", True)


def tearDownModule():
  jax.config.update("jax_disable_most_optimizations", False)


def trainer(norm="bn", **options):
  task = sequence_tasks.load("copy", dataset="", data_dir=None, context=4)
  model = LanguageModel(
    functools.partial(make_norm, norm),
    vocabulary=task.classes,
    layers=1,
    width=8,
    heads=2,
    context=4,
    **options,
  )
  return SequenceTrainer(model, make_optimizer(**OPTIMIZER), task, batch_size=5)


class ScheduleTest(parameterized.TestCase):
  @parameterized.parameters(
    # step, warm-up, schedule, share of the highest rate
    (0, 0, "constant", 1.0),
    (99, 0, "constant", 1.0),
    (0, 10, "constant", 0.1),
    (4, 10, "constant", 0.5),
    (9, 10, "cosine", 1.0),
    (10, 10, "cosine", 1.0),
    (55, 10, "cosine", 0.55),
    (100, 10, "cosine", 0.1),
    (500, 10, "cosine", 0.1),
    (3, 200, "cosine", 0.02),
  )
  def test_by_hand(self, step, warmup_steps, schedule, share):
    optimizer = make_optimizer(
      **{
        **OPTIMIZER,
        "warmup_steps": warmup_steps,
        "schedule": schedule,
        "weight_decay": 0.0,
      }
    )
    params = {"x": jnp.ones(2)}
    state = optimizer.init(params)
    # The step is the count of what scales by the schedule.
    state = jax.tree.map(
      lambda leaf: (
        jnp.full_like(leaf, step) if leaf.dtype == jnp.int32 else leaf
      ),
      state,
    )
    with jax.numpy_dtype_promotion("standard"):
      updates, _ = optimizer.update(
        {"x": jnp.array([0.5, -0.5])}, state, params
      )
    # Adam's update has the size of the rate, up to the bias correction.
    corrected = (0.1 / (1 - 0.9 ** (step + 1))) / math.sqrt(
      0.02 / (1 - 0.98 ** (step + 1))
    )
    np.testing.assert_allclose(
      updates["x"],
      [-1e-2 * share * corrected, 1e-2 * share * corrected],
      rtol=1e-4,
    )


class DecayTest(absltest.TestCase):
  def test_leaves_gains_and_biases_alone(self):
    optimizer = make_optimizer(**OPTIMIZER)
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    params["norm"] = {"scale": jnp.ones(3)}
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam mixes them.
      updates, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
      )
    decay = OPTIMIZER["learning_rate"] * OPTIMIZER["weight_decay"]
    expected = {"kernel": -decay, "bias": 0.0, "norm": {"scale": 0.0}}
    chex.assert_trees_all_close(
      updates, jax.tree.map(jnp.full_like, params, expected), rtol=1e-6
    )


class TrainerTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    # Optax's Adam mixes integers and floats.
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  def test_a_stretch_is_its_steps(self):
    """Also: a run that goes on after a stretch repeats the batches' order."""
    run = trainer(dropout=0.1)
    state, _ = run.init([3])
    whole, total = run.train(state, 5)
    state, _ = run.init([3])
    step, gradient = jax.jit(run.train_step), jax.jit(run.gradient)
    draw = jax.jit(run.task.draw, static_argnums=2)
    seed = jax.tree.map(lambda leaf: leaf[0], state)
    draw_key, _ = jax.random.split(seed.key)
    expected = []
    for number in range(5):
      batch = draw(jax.random.fold_in(draw_key, number), run.task.data, 5)
      # The rest of what the step reports, from its gradient.
      grads = gradient(seed, batch)
      leaves = jax.tree.leaves(grads["block_0"])
      first = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in leaves))
      seed, stretch = step(seed, batch)
      np.testing.assert_allclose(stretch.first_grad_norm, first, rtol=1e-5)
      expected.append(stretch)
    chex.assert_trees_all_close(
      jax.tree.map(lambda leaf: leaf[0], whole.params), seed.params, atol=1e-5
    )
    np.testing.assert_allclose(
      total.sums.loss[0], sum(s.sums.loss for s in expected), rtol=1e-5
    )
    np.testing.assert_allclose(
      total.last_grad_norm[0],
      sum(s.last_grad_norm for s in expected),
      rtol=1e-4,
    )
    parts, _ = run.train(run.train(run.init([3])[0], 2)[0], 3)
    chex.assert_trees_all_equal(parts.params, whole.params)
    chex.assert_trees_all_equal(parts.batch_stats, whole.batch_stats)

  def test_seeds_train_alone_as_with_others(self):
    run = trainer("ln")
    together, _ = run.train(run.init([0, 1])[0], 3)
    alone, _ = run.train(run.init([1])[0], 3)
    chex.assert_trees_all_close(
      jax.tree.map(lambda leaf: leaf[1:], together.params),
      alone.params,
      atol=2e-3,  # Adam makes rounding of tiny gradients visible.
    )
    first, second = (
      [leaf[i] for leaf in jax.tree.leaves(together.params)] for i in (0, 1)
    )
    self.assertGreater(np.abs(first[0] - second[0]).max(), 1e-3)

  def test_evaluation_by_hand(self):
    run = trainer("ln")
    state, _ = run.init([0])
    examples = jax.tree.map(lambda array: array[:13], run.task.test)
    sums = run.evaluate(state.params, state.batch_stats, examples)
    params = jax.tree.map(lambda leaf: leaf[0], state.params)
    apply = jax.jit(functools.partial(run.model.apply, train=False))
    logits = apply({"params": params}, examples.inputs, mask=examples.mask)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    total = sum(
      -log_p[i, t, examples.targets[i, t]]
      for i, t in np.argwhere(np.asarray(examples.counted))
    )
    np.testing.assert_allclose(sums.loss[0], total, rtol=1e-5)
    self.assertEqual(sums.count[0], examples.counted.sum())

  def test_batch_statistics_in_evaluation(self):
    run = trainer("bn")
    state, _ = run.init([0])
    losses = {
      train: run.evaluate(
        state.params, state.batch_stats, run.task.test, train=train
      ).means()["loss"]
      for train in (False, True)
    }
    self.assertGreater(abs(losses[True] - losses[False]), 1e-4)

  def test_reestimates_what_the_norm_sees(self):
    run = trainer("bn")
    state, _ = run.init([0])
    model = run.model.clone(
      norm=functools.partial(make_norm, "bn", momentum=0.0)
    )
    stats = run.reestimate_batch_stats(
      model, state.params, state.batch_stats, batches=200
    )["block_0"]["BatchNorm_0"]
    # The first norm sees the embedding of the tokens of all lengths.
    table = np.asarray(state.params["embedding"])[0] / 0.02
    examples = run.task.validation
    seen = table[np.asarray(examples.inputs)[np.asarray(examples.mask)]]
    np.testing.assert_allclose(stats["mean"][0], seen.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(stats["var"][0], seen.var(axis=0), rtol=0.15)

  def test_learns(self):
    run = trainer("ln")
    state, stopping = run.init([0])
    state, stretch = run.train(state, 300)
    validation = run.evaluate(
      state.params, state.batch_stats, run.task.validation
    )
    self.assertGreater(validation.means()["accuracy"][0], 0.5)  # Chance: 0.1.
    stopping = run.update_stopping(
      stopping,
      (state.params, state.batch_stats),
      stretch.sums,
      validation,
      300,
    )
    self.assertEqual(stopping.best_epoch.tolist(), [300])
    self.assertFalse(stopping.stopped[0])

  def test_a_classifier_trains(self):
    task = sequence_tasks.load(
      "mnist", dataset="digits", data_dir=None, context=1
    )
    model = Classifier(
      functools.partial(make_norm, "in"), layers=1, width=8, heads=2, context=8
    )
    run = SequenceTrainer(
      model, make_optimizer(**OPTIMIZER), task, batch_size=16
    )
    state, _ = run.init([0])
    state, _ = run.train(state, 150)
    sums = run.evaluate(state.params, state.batch_stats, task.validation)
    self.assertGreater(sums.means()["accuracy"][0], 0.3)  # Chance: 0.1.

  def test_check_computes_nothing(self):
    state = trainer("bn").check()
    self.assertIsInstance(state.step, jax.ShapeDtypeStruct)
    with self.assertRaisesRegex(ValueError, "3 heads"):
      run = trainer("ln")
      run.model = run.model.clone(heads=3)
      run.check()


if __name__ == "__main__":
  absltest.main()
