"""Tests of the engine: lanes, stretches, what is compiled, what is shared."""

import contextlib
import dataclasses
import re

import chex
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from experiments.lab.models.nets import CNN, MLP
from experiments.lab.training import fit, lanes, step
from experiments.lab.training.batches import Shuffled
from experiments.lab.training.fit import Schedule
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.losses import cross_entropy
from normjax.linen import frozen
from tests.experiments.lab.training import problems
from tests.experiments.lab.training.problems import engine, new_engine


class LanesTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("scanned", MLP, (8,), True),
    ("stepped", MLP, (8,), False),
    ("stepped_convolutions", CNN, (4, 4), False),
  )
  def test_a_seed_goes_the_same_way_alone(self, model, hidden, scan):
    # Not Adam: before a batch norm the gradient of a bias is zero but for
    # rounding, which Adam would divide by its own size.
    made = engine(
      "bn",
      model=model,
      hidden=hidden,
      scan=scan,
      dropout=0.1,
      optimizer=optax.sgd(0.1),
    )
    together, records = made.train(made.init([0, 1]), 12)
    alone, alone_records = made.train(made.init([1]), 12)
    chex.assert_trees_all_close(
      lanes.one(together.variables, 1),
      lanes.one(alone.variables, 0),
      atol=2e-5,
    )
    np.testing.assert_allclose(
      records.loss[1], alone_records.loss[0], atol=1e-5
    )
    # The seeds do differ from each other.
    self.assertGreater(np.abs(np.diff(records.loss, axis=0)).max(), 1e-3)

  def test_norms_share_kernels_and_keys(self):
    states = {norm: engine(norm).init([0, 1]) for norm in ("none", "ln", "bn")}
    for state in states.values():
      for layer in ("Dense_0", "Dense_1"):
        chex.assert_trees_all_equal(
          state.params[layer], states["none"].params[layer]
        )
      chex.assert_trees_all_equal(
        jax.random.key_data(state.key),
        jax.random.key_data(states["none"].key),
      )

  def test_batch_statistics_are_per_seed(self):
    made = engine("bn")
    state, _ = made.train(made.init([0, 1]), 5)
    mean = state.collections["batch_stats"]["BatchNorm_0"]["mean"]
    self.assertEqual(mean.shape, (2, 8))
    self.assertGreater(np.abs(mean[0] - mean[1]).max(), 1e-3)

  def test_frozen_batch_norms_keep_their_statistics(self):
    made = engine("bn")
    start = jax.device_get(made.init([0, 1]).variables)
    for context in (contextlib.nullcontext, frozen, contextlib.nullcontext):
      with context():
        state, _ = made.train(made.init([0, 1]), 2)
      changed = jax.tree.map(
        lambda old, new: bool(np.any(old != new)), start, state.variables
      )
      stats = changed["batch_stats"]["BatchNorm_0"]
      self.assertEqual(set(stats.values()), {context is not frozen})
      self.assertTrue(changed["params"]["BatchNorm_0"]["scale"])

  def test_a_lane_is_a_pair_of_rate_and_seed(self):
    made = engine("bn", optimizer=swept(optax.sgd))
    with jax.numpy_dtype_promotion("standard"):
      state = made.init([3, 4], learning_rate=[0.1, 0.5])
      _, records = made.train(state, 6)
      _, alone = made.train(made.init([4], learning_rate=[0.5]), 6)
    loss = records.loss
    self.assertEqual(loss.shape, (4, 6))
    np.testing.assert_array_equal(loss[:2, 0], loss[2:, 0])  # Before training.
    self.assertFalse(np.allclose(loss[:2, 1], loss[2:, 1]))
    np.testing.assert_allclose(alone.loss[0], loss[3], rtol=1e-5)

  def test_refuses_a_rate_that_no_optimizer_has(self):
    with self.assertRaisesRegex(ValueError, "No optimizer has a learning_rate"):
      engine().init([0], learning_rate=[0.1])


class StretchTest(parameterized.TestCase):
  def test_is_its_steps(self):
    made = engine("bn", dropout=0.1, optimizer=optax.sgd(0.1))
    state, records = made.train(made.init([0, 1]), 7)
    expected = lanes.one(made.init([0, 1]), 1)
    key, _ = jax.random.split(expected.key)
    take = jax.jit(
      lambda state, batch: step.take_step(
        made.model, made.updates, lambda *_: {}, state, batch
      )
    )
    losses = []
    for number in range(7):  # Five steps are an epoch.
      plan = made.source.plan(key, number // 5)
      batch = made.source.batch(plan, number % 5, made.source.data)
      expected, one = take(expected, batch)
      losses.append(one.sums["loss"] / one.sums["count"])
    chex.assert_trees_all_close(
      lanes.one(state.variables, 1), expected.variables, atol=1e-5
    )
    np.testing.assert_allclose(records.loss[1], losses, rtol=1e-4)
    np.testing.assert_array_equal(state.step, [7, 7])
    np.testing.assert_array_equal(records.sums["count"], np.full((2, 7), 8))
    means = records.means()
    np.testing.assert_allclose(means["loss"][1], np.mean(losses), rtol=1e-4)

  @parameterized.parameters(True, False)
  def test_may_be_cut_anywhere(self, scan):
    made = engine("bn", scan=scan)
    whole, records = made.train(made.init([0]), 12)
    state, losses = made.init([0]), []
    for steps in (2, 7, 3):
      state, part = made.train(state, steps)
      losses.append(part.loss)
    chex.assert_trees_all_equal(state.variables, whole.variables)
    np.testing.assert_array_equal(np.concatenate(losses, axis=1), records.loss)

  def test_scanning_or_not_gives_the_same_numbers(self):
    settings = {"model": CNN, "hidden": (4, 4), "dropout": 0.1}
    (scanned, records), (stepped, others) = (
      made.train(made.init([0, 1]), 6)
      for made in (engine(**settings), engine(**settings, scan=False))
    )
    chex.assert_trees_all_close(scanned.params, stepped.params, atol=2e-5)
    chex.assert_trees_all_close(records.sums, others.sums, atol=1e-4)

  def test_the_same_seed_gives_the_same_bits(self):
    made = engine("bn", dropout=0.1)
    first, second = (made.train(made.init([0, 1]), 6)[0] for _ in range(2))
    chex.assert_trees_all_equal(first.params, second.params)

  def test_seeds_after_others_have_their_own_order(self):
    made = engine("none")
    made.train(made.init([0]), 3)
    _, after_others = made.train(made.init([1]), 3)
    _, together = made.train(made.init([0, 1]), 3)
    np.testing.assert_allclose(
      after_others.loss[0], together.loss[1], rtol=1e-5
    )

  def test_watches_every_step(self):
    def watch(before, after, gradients):
      moved = after.params["Dense_1"]["bias"] - before.params["Dense_1"]["bias"]
      return {
        "moved": jnp.linalg.norm(moved),
        "gradient": jnp.linalg.norm(gradients["Dense_1"]["bias"]),
      }

    made = new_engine(optimizer=optax.sgd(0.1), watch=watch)
    _, records = made.train(made.init([0, 1]), 6)
    watched = records.watched
    self.assertEqual(watched["moved"].shape, (2, 6))
    np.testing.assert_allclose(
      watched["moved"], 0.1 * watched["gradient"], rtol=1e-4
    )

  def test_the_next_batch_is_that_of_the_next_step(self):
    made = engine("none")
    state, _ = made.train(made.init([0, 1]), 7)
    batch = made.next_batch(state)
    logits = jax.vmap(lambda variables, inputs: made.model.apply(
      variables, problems.prepare(inputs), train=False
    ))(state.variables, batch.inputs)  # fmt: skip
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch.targets
    )
    _, records = made.train(state, 1)
    np.testing.assert_allclose(
      records.loss[:, 0], losses.mean(axis=1), rtol=1e-5
    )


def lane_of(own, lane):
  """Returns members of one lane only."""
  chosen, targets = (x[lane : lane + 1] for x in (own.chosen, own.targets))
  return own._replace(chosen=chosen, targets=targets)


class MembersTest(parameterized.TestCase):
  def test_the_same_members_train_as_a_batch(self):
    order = np.random.default_rng(0).permutation(44)[:30]
    own = problems.members([order, order], noisy=True)
    # The same bits: each lane gathers its own batch in both cases.
    (found, records), (expected, others) = (
      made.train(made.init([0, 1]), 7)
      for made in (
        new_engine("bn", data=data, dropout=0.1) for data in (own, own.lane(0))
      )
    )
    chex.assert_trees_all_equal(found.variables, expected.variables)
    chex.assert_trees_all_equal(records.sums, others.sums)

  def test_a_seed_goes_the_same_way_without_the_others(self):
    own = problems.own_examples()
    settings = {"optimizer": optax.sgd(0.1)}
    made = new_engine("bn", data=own, **settings)
    _, records = made.train(made.init([0, 1, 2]), 5)
    alone = own._replace(chosen=own.chosen[2:], targets=own.targets[2:])
    made = new_engine("bn", data=alone, **settings)
    _, expected = made.train(made.init([2]), 5)
    np.testing.assert_allclose(records.loss[2], expected.loss[0], rtol=1e-5)

  @parameterized.parameters(True, False)
  def test_lanes_one_after_the_other(self, scan):
    own = problems.own_examples()
    settings = {"optimizer": optax.sgd(0.1), "scan": scan}
    made = new_engine("bn", data=own, **settings)
    _, expected = made.train(made.init([7, 7, 7]), 5)
    first = new_engine("bn", data=lane_of(own, 0), **settings)
    for steps in (5, 1):  # The last plan is of the first period.
      first.train(first.init([7]), steps)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
      lambda event, *_, **__: compiled.append(event)
    )
    self.addCleanup(jax.monitoring.clear_event_listeners)
    for lane in (2, 0, 1):
      source = dataclasses.replace(first.source, data=lane_of(own, lane))
      of_lane = first.on(source)
      compiled.clear()
      _, records = of_lane.train(of_lane.init([7]), 5)
      self.assertEmpty(compiled)
      np.testing.assert_allclose(
        records.loss[0], expected.loss[lane], rtol=1e-5
      )

  def test_refuses_another_number_of_lanes(self):
    own = problems.own_examples(lanes=3)
    made = new_engine("bn", data=own)
    made.check(3)
    state = made.init([0, 1])
    several = "those of 3 lanes, but there are 2"
    with self.assertRaisesRegex(ValueError, several):
      made.train(state, 1)
    with self.assertRaisesRegex(ValueError, several):
      made.evaluate(state.variables, own)
    with self.assertRaisesRegex(ValueError, several):
      made.reestimate(state.variables, made.source)

  @parameterized.parameters("train", "evaluate")
  def test_the_pool_is_not_copied_for_each_lane(self, what):
    own = problems.members([range(20), range(20, 40)], count=500)
    made = new_engine("bn", data=own)
    state = made.init([0, 1])
    if what == "train":
      plan = made._plan(state.key, 0)
      lowered = made._advance.lower(2, state, plan, 0, 2, made.source.data)
    else:
      lowered = made._evaluator._of_all.lower(
        made.model, False, 10, state.variables, own.choice, own.pool
      )
    text = lowered.compile().as_text()
    arguments = re.findall(
      r"u8\[500,4,4,1\]\S* parameter", text[text.index("ENTRY") :]
    )
    self.assertLen(arguments, 1)
    sizes = [
      np.prod([int(n) for n in shape.split(",")])
      for shape in re.findall(r"u8\[([\d,]+)\]", text)
    ]
    self.assertEqual(max(sizes), 500 * 16)


class ApartTest(absltest.TestCase):
  def engine(self, traced, apart=True, data=None):
    loss = cross_entropy(problems.prepare)

    def noticed(*args):
      traced.append(1)
      return loss(*args)

    return new_engine(
      "bn",
      scan=False,
      apart=apart,
      loss=noticed,
      data=data,
      optimizer=optax.sgd(0.1),
    )

  def found(self, made):
    own = made.source.data
    state, records = made.train(made.init([0, 1, 2]), 5)
    again = made.reestimate(state.variables, Shuffled(own, 7, ordered=True))
    metrics = made.evaluate(again, own, size=8)
    return state.variables, again, metrics, records.loss

  def test_gives_the_same_numbers_as_together(self):
    own = problems.own_examples()
    apart, together = (
      self.found(self.engine([], apart, own)) for apart in (True, False)
    )
    chex.assert_trees_all_close(apart, together, atol=2e-5)
    self.assertGreater(np.abs(np.diff(apart[-1], axis=0)).max(), 1e-3)

  def test_compiles_no_more_for_more_lanes(self):
    counts = []
    for seeds in ([0], [0, 1, 2]):
      traced = []
      made = self.engine(traced)
      made.train(made.init(seeds), 5)
      counts.append(len(traced))
    self.assertEqual(*counts)

  def test_other_data_share_what_is_compiled(self):
    ours, theirs = problems.examples(), problems.examples(seed=1)
    traced = []
    made = self.engine(traced, data=ours)
    first, _ = made.train(made.init([0]), 7)
    before = len(traced)
    other = made.on(Shuffled(theirs, 8))
    second, _ = other.train(other.init([0, 1]), 7)
    self.assertLen(traced, before)
    fresh = self.engine([], data=theirs)
    expected, _ = fresh.train(fresh.init([0, 1]), 7)
    chex.assert_trees_all_equal(second.params, expected.params)
    again, _ = made.train(made.init([0]), 7)  # Its data are still its own.
    chex.assert_trees_all_equal(first.params, again.params)
    for examples, size in ((theirs, 4), (problems.examples(30), 8)):
      with self.assertRaisesRegex(ValueError, "The source is"):
        made.on(Shuffled(examples, size))


class CompiledTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_nothing_after_the_first_stretch(self, scan):
    traced = []
    loss = cross_entropy(problems.prepare)

    def noticed(*args):
      traced.append(len(traced))
      return loss(*args)

    made = new_engine("bn", scan=scan, loss=noticed)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
      lambda event, *_, **__: compiled.append(event)
    )
    self.addCleanup(jax.monitoring.clear_event_listeners)
    # An epoch has five steps: some stretches cross into the next one.
    schedule = Schedule(every=4, steps=15)
    validation = problems.examples(13, seed=1)
    steps = fit.fit(made, fit.start(made, [0, 1]), validation, schedule)
    for progress, _ in steps:
      if progress.step == 4:
        self.assertNotEmpty(compiled)  # The listener does hear of it.
        compiled.clear()
        first = len(traced)
    self.assertEqual(progress.step, 15)
    self.assertEmpty(compiled)
    self.assertLen(traced, first)

  def test_check_lets_the_model_object(self):
    state = engine("bn").check()
    self.assertIsInstance(state.step, jax.ShapeDtypeStruct)
    with self.assertRaisesRegex(ValueError, "spatial"):
      new_engine("in").check()


if __name__ == "__main__":
  absltest.main()
