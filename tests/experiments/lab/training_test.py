"""Tests of the training engine on problems of a few hundred bytes."""

import functools

import chex
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized
from flax import linen as nn

from experiments.lab.models import MLP, ConvNet
from experiments.lab.train_step import (
  Examples,
  TrainState,
  make_eval_step,
  make_train_step,
)
from experiments.lab.training import Trainer
from normjax.linen import make_norm


def prepare(images):
  return images.astype(jnp.float32) / 255


def examples(count=44, classes=3, seed=0):
  """Noisy images `[count, 4, 4, 1]` whose class is the brightest row."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, count).astype(np.int32)
  images = rng.integers(0, 120, (count, 4, 4, 1), np.uint8)
  images[np.arange(count), labels] += np.uint8(130)
  return Examples(jnp.asarray(images), jnp.asarray(labels))


def adam(learning_rate):
  """Optax's Adam, which strict dtype promotion refuses."""
  optimizer = optax.adam(learning_rate)

  def update(*args):
    with jax.numpy_dtype_promotion("standard"):
      return optimizer.update(*args)

  return optax.GradientTransformation(optimizer.init, update)


@functools.cache  # Tests with the same trainer share what it has compiled.
def trainer(norm="ln", *, model=MLP, hidden=(8,), dropout=0.0, **options):
  settings = {"batch_size": 8, "patience": 100, "eval_batch_size": 10}
  return Trainer(
    model(
      norm=functools.partial(make_norm, norm),
      hidden=hidden,
      dropout=dropout,
      num_classes=3,
    ),
    options.pop("optimizer", None) or adam(1e-2),
    **{"prepare": prepare, **settings, **options},
  )


def fit(engine, seeds, epochs=3, train=None, validation=None):
  """Returns the last progress and all reports."""
  train = train or examples()
  progress = engine.init(seeds, train.inputs)
  validation = validation or examples(13, seed=1)
  results = list(engine.fit(progress, train, validation, epochs=epochs))
  return results[-1][0], [report for _, report in results]


def setUpModule():
  # Most of the time goes into compiling what runs for milliseconds.
  jax.config.update("jax_disable_most_optimizations", True)


def tearDownModule():
  jax.config.update("jax_disable_most_optimizations", False)


def of_seed(tree, index):
  return jax.tree.map(lambda x: x[index], tree)


class TrainStepTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_takes_the_gradient_step_of_softmax_regression(self):
    weights = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    params = {"kernel": jnp.asarray(weights), "bias": jnp.zeros(3)}
    optimizer = optax.sgd(0.5)

    class Classifier(nn.Module):
      @nn.compact
      def __call__(self, x, *, train):
        return nn.Dense(3, name="dense")(x)

    state = TrainState(
      step=jnp.zeros((), jnp.int32),
      params={"dense": params},
      batch_stats={},
      opt_state=optimizer.init({"dense": params}),
      key=jax.random.key(0),
    )
    x = np.array([[1, 0, 2, 1], [0, 3, 1, 0]], np.float32)
    labels = np.array([2, 0], np.int32)
    step = self.variant(
      make_train_step(
        Classifier(), optimizer, prepare=lambda x: x, l1=0.01, l2=0.1
      )
    )
    new, sums = step(state, Examples(jnp.asarray(x), jnp.asarray(labels)))

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
    np.testing.assert_allclose(
      sums.loss, -np.log(softmax[[0, 1], labels]).sum(), rtol=1e-6
    )
    self.assertEqual(float(sums.count), 2)
    self.assertEqual(
      float(sums.correct), (logits.argmax(axis=1) == labels).sum()
    )
    self.assertEqual(int(new.step), 1)

  def test_norms_are_not_penalized(self):
    engine = trainer("ln", l2=1e3, optimizer=optax.sgd(1e-3))
    train = examples(8)
    state = of_seed(engine.init([0], train.inputs).state, 0)
    plain = trainer("ln", optimizer=optax.sgd(1e-3))
    penalized, _ = engine.train_step(state, train)
    free, _ = plain.train_step(state, train)
    norm = "LayerNorm_0"
    chex.assert_trees_all_close(
      penalized.params[norm], free.params[norm], rtol=1e-6
    )
    self.assertGreater(
      np.abs(
        penalized.params["Dense_0"]["kernel"] - free.params["Dense_0"]["kernel"]
      ).max(),
      0.01,
    )

  def test_dropout_changes_from_step_to_step(self):
    engine = trainer(dropout=0.5, optimizer=optax.sgd(0.0))
    train = examples(8)
    state = of_seed(engine.init([0], train.inputs).state, 0)
    later, first = engine.train_step(state, train)
    _, second = engine.train_step(later, train)
    _, again = engine.train_step(state, train)
    chex.assert_trees_all_equal(later.params, state.params)
    self.assertNotEqual(float(first.loss), float(second.loss))
    self.assertEqual(float(first.loss), float(again.loss))

  def test_evaluation_ignores_what_is_not_valid(self):
    engine = trainer()
    batch = examples(6)
    state = of_seed(engine.init([0], batch.inputs).state, 0)
    step = make_eval_step(engine.model, prepare=prepare)
    valid = jnp.arange(6) < 4
    expected = step(
      state.params, {}, Examples(*(a[:4] for a in batch)), jnp.ones(4, bool)
    )
    # An input that overflows must not reach the sums either.
    spoilt = Examples(batch.inputs.astype(jnp.float32), batch.labels)
    spoilt = spoilt._replace(inputs=spoilt.inputs.at[4:].set(jnp.inf))
    chex.assert_trees_all_close(
      step(state.params, {}, spoilt, valid), expected, rtol=1e-6
    )


class TrainerTest(parameterized.TestCase):
  def test_learns(self):
    _, reports = fit(trainer("bn"), [0, 1], epochs=40)
    self.assertGreater(reports[-1].metrics["val_accuracy"].min(), 0.9)
    self.assertLess(
      reports[-1].metrics["train_loss"].max(),
      0.5 * reports[0].metrics["train_loss"].min(),
    )

  @parameterized.named_parameters(
    ("scanned", MLP, (8,), True),
    ("stepped", MLP, (8,), False),
    ("stepped_convolutions", ConvNet, (4, 4), False),
  )
  def test_a_seed_goes_the_same_way_alone(self, model, hidden, scan):
    # Not Adam: before a batch norm the gradient of a bias is zero but for
    # rounding, which Adam would divide by its own size.
    make = lambda: trainer(
      "bn",
      model=model,
      hidden=hidden,
      scan=scan,
      dropout=0.1,
      optimizer=optax.sgd(0.1),
    )
    together, reports = fit(make(), [0, 1])
    alone, alone_reports = fit(make(), [1])
    chex.assert_trees_all_close(
      of_seed(together.state.params, 1),
      of_seed(alone.state.params, 0),
      atol=2e-5,
    )
    chex.assert_trees_all_close(
      of_seed(together.state.batch_stats, 1),
      of_seed(alone.state.batch_stats, 0),
      atol=2e-5,
    )
    for report, alone_report in zip(reports, alone_reports, strict=True):
      for name, values in report.metrics.items():
        np.testing.assert_allclose(
          values[1], alone_report.metrics[name][0], atol=1e-5
        )
    # They do differ from each other.
    self.assertGreater(np.ptp(reports[0].metrics["train_loss"]), 1e-3)

  def test_scanning_or_not_gives_the_same_numbers(self):
    settings = {"model": ConvNet, "hidden": (4, 4), "dropout": 0.1}
    scanned, reports = fit(trainer("ln", **settings, scan=True), [0, 1])
    stepped, other_reports = fit(trainer("ln", **settings, scan=False), [0, 1])
    chex.assert_trees_all_close(
      scanned.state.params, stepped.state.params, atol=2e-5
    )
    for report, other in zip(reports, other_reports, strict=True):
      chex.assert_trees_all_close(report.metrics, other.metrics, atol=1e-5)

  def test_the_same_seed_gives_the_same_bits(self):
    first, _ = fit(trainer("bn", dropout=0.1), [0, 1])
    second, _ = fit(trainer("bn", dropout=0.1), [0, 1])
    chex.assert_trees_all_equal(first.state.params, second.state.params)

  def test_norms_share_kernels_order_and_dropout(self):
    train = examples()
    starts = {
      norm: trainer(norm).init([0, 1], train.inputs).state
      for norm in ("none", "ln", "bn")
    }
    for state in starts.values():
      for layer in ("Dense_0", "Dense_1"):
        chex.assert_trees_all_equal(
          state.params[layer], starts["none"].params[layer]
        )
      chex.assert_trees_all_equal(
        jax.random.key_data(state.key),
        jax.random.key_data(starts["none"].key),
      )

  @parameterized.parameters(True, False)
  def test_nothing_is_compiled_after_the_first_epoch(self, scan):
    # Initialization, training, and evaluation of one data set: one trace each.
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(prepare, n=3 if scan else 5)
    engine = trainer("bn", scan=scan, prepare=traced)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
      lambda event, *_, **__: compiled.append(event)
    )
    self.addCleanup(jax.monitoring.clear_event_listeners)
    train, validation = examples(), examples(13, seed=1)
    progress = engine.init([0, 1], train.inputs)
    for _, report in engine.fit(progress, train, validation, epochs=4):
      if report.epoch == 1:
        self.assertNotEmpty(compiled)  # The listener does hear of it.
        compiled.clear()
    self.assertEqual(report.epoch, 4)
    self.assertEmpty(compiled)

  @parameterized.parameters((True, 1), (True, 20), (True, 37), (False, 37))
  def test_evaluation_counts_every_example_once(self, scan, count):
    engine = trainer("bn", scan=scan)
    data = examples(count)
    state = engine.init([0, 1], data.inputs).state
    sums = engine.evaluate(state.params, state.batch_stats, data)
    np.testing.assert_array_equal(sums.count, [count, count])
    for index in range(2):
      variables = of_seed(
        {"params": state.params, "batch_stats": state.batch_stats}, index
      )
      logits = engine.model.apply(variables, prepare(data.inputs), train=False)
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, data.labels
      )
      correct = logits.argmax(axis=1) == data.labels
      np.testing.assert_allclose(
        sums.means()["loss"][index], losses.mean(), rtol=1e-5
      )
      np.testing.assert_allclose(
        sums.means()["accuracy"][index], correct.mean(), rtol=1e-6
      )

  def test_evaluation_notices_a_lost_example(self):
    engine = trainer.__wrapped__(scan=False)
    engine._evaluation_batches = lambda examples: 1
    state = engine.init([0], examples().inputs).state
    with self.assertRaisesRegex(AssertionError, "Counted .* of 44"):
      engine.evaluate(state.params, state.batch_stats, examples())

  def test_an_epoch_is_a_fresh_order_of_different_examples(self):
    engine = trainer()
    train = examples(44)  # Five batches of eight; four are left out.
    keys = engine.init([0, 1], train.inputs).state.key
    orders = np.stack([engine._order(keys, epoch, train) for epoch in (1, 2)])
    self.assertEqual(orders.shape, (2, 2, 5, 8))
    orders = orders.reshape(4, 40)  # Epochs of seeds.
    for order in orders:
      self.assertLen(set(order.tolist()), 40)
      self.assertContainsSubset(order.tolist(), range(44))
    self.assertLen({tuple(order) for order in orders.tolist()}, 4)

  @parameterized.parameters(True, False)
  def test_an_epoch_takes_every_full_batch(self, scan):
    engine = trainer("bn", scan=scan)
    train = examples(44)
    state = engine.init([0, 1], train.inputs).state
    state, sums = engine.train_epoch(state, 1, train)
    np.testing.assert_array_equal(state.step, [5, 5])
    np.testing.assert_array_equal(sums.count, [40, 40])

  @parameterized.parameters(True, False)
  def test_refuses_a_batch_larger_than_the_data(self, scan):
    engine = trainer(batch_size=45, scan=scan)
    with self.assertRaisesRegex(ValueError, "45 is more than the 44 training"):
      fit(engine, [0])

  def test_batch_statistics_are_per_seed(self):
    progress, _ = fit(trainer("bn"), [0, 1], epochs=1)
    mean = progress.state.batch_stats["BatchNorm_0"]["mean"]
    self.assertEqual(mean.shape, (2, 8))
    self.assertGreater(np.abs(mean[0] - mean[1]).max(), 1e-3)

  def test_a_diverged_seed_leaves_the_others_alone(self):
    train, validation = examples(), examples(13, seed=1)
    engine = trainer("bn")
    progress = engine.init([0, 1], train.inputs)
    params = jax.tree.map(lambda x: x.at[0].set(jnp.nan), progress.state.params)
    progress = progress.replace(state=progress.state.replace(params=params))
    results = list(engine.fit(progress, train, validation, epochs=3))
    progress, reports = results[-1][0], [report for _, report in results]
    stopping = progress.stopping
    np.testing.assert_array_equal(stopping.diverged, [True, False])
    np.testing.assert_array_equal(stopping.stopped, [True, False])
    np.testing.assert_array_equal(stopping.best_epoch[0], 0)
    chex.assert_tree_all_finite(stopping.best_params)
    healthy, healthy_reports = fit(trainer("bn"), [0, 1])
    chex.assert_trees_all_close(
      of_seed(progress.state.params, 1),
      of_seed(healthy.state.params, 1),
      rtol=1e-6,
    )
    for report, healthy_report in zip(reports, healthy_reports, strict=True):
      for name, values in report.metrics.items():
        self.assertTrue(np.isnan(values[0]) or name.endswith("accuracy"))
        self.assertAlmostEqual(values[1], healthy_report.metrics[name][1])

  def test_a_stopped_seed_does_not_change_any_more(self):
    train, validation = examples(), examples(13, seed=1)
    engine = trainer("bn")
    progress = engine.init([0, 1], train.inputs)
    stopping = progress.stopping.replace(stopped=jnp.array([True, False]))
    before = jax.tree.map(np.array, stopping)
    progress = progress.replace(stopping=stopping)
    results = list(engine.fit(progress, train, validation, epochs=2))
    progress = results[-1][0]
    for _, report in results:
      for values in report.metrics.values():
        np.testing.assert_array_equal(np.isnan(values), [True, False])
    chex.assert_trees_all_equal(
      of_seed(progress.stopping, 0), of_seed(before, 0)
    )
    self.assertEqual(progress.stopping.best_epoch[1], 2)

  def test_ends_when_every_seed_has_stopped(self):
    engine = trainer(patience=2, min_delta=1e3)  # The first epoch is the best.
    progress, reports = fit(engine, [0, 1], epochs=50)
    self.assertLen(reports, 3)
    np.testing.assert_array_equal(progress.stopping.best_epoch, [1, 1])
    self.assertTrue(progress.stopping.stopped.all())

  def test_the_best_variables_are_those_of_the_best_epoch(self):
    train, validation = examples(), examples(13, seed=1)
    # Goes up and down, so that of six seeds some end worse than they were.
    engine = trainer("bn", optimizer=adam(0.3))
    progress = engine.init(range(6), train.inputs)
    states, losses = [], []
    for after, report in engine.fit(progress, train, validation, epochs=12):
      states.append(
        jax.tree.map(np.array, (after.state.params, after.state.batch_stats))
      )
      losses.append(report.metrics["val_loss"])
    best = np.argmin(losses, axis=0)
    self.assertLess(best.min(), 11)
    stopping = after.stopping
    np.testing.assert_array_equal(stopping.best_epoch, best + 1)
    for seed, epoch in enumerate(best):
      chex.assert_trees_all_equal(
        of_seed((stopping.best_params, stopping.best_batch_stats), seed),
        of_seed(states[epoch], seed),
      )

  @parameterized.parameters(True, False)
  def test_reestimated_statistics_are_those_of_the_data(self, scan):
    engine = trainer("bn", scan=scan)
    train = examples(44)
    state = engine.init([0, 1], train.inputs).state
    model = engine.model
    memoryless = functools.partial(model.norm, momentum=0.0)
    stats = engine.reestimate_batch_stats(
      model.clone(norm=memoryless), state.params, state.batch_stats, train
    )
    inputs = np.asarray(prepare(train.inputs[:40])).reshape(40, 16)
    for seed in range(2):
      dense = jax.tree.map(np.asarray, of_seed(state.params["Dense_0"], seed))
      features = inputs.astype(np.float64) @ dense["kernel"] + dense["bias"]
      result = of_seed(stats["BatchNorm_0"], seed)
      np.testing.assert_allclose(result["mean"], features.mean(0), atol=1e-6)
      np.testing.assert_allclose(result["var"], features.var(0), rtol=1e-5)

  def test_check_lets_the_model_object(self):
    trainer("bn").check((4, 4, 1), np.uint8)
    with self.assertRaisesRegex(ValueError, "spatial"):
      trainer("in").check((4, 4, 1), np.uint8)
