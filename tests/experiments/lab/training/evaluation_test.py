"""Tests of evaluation and of re-estimated batch statistics."""

import chex
import jax
import numpy as np
import optax
from absl.testing import absltest, parameterized

from experiments.lab.training import lanes
from experiments.lab.training.batches import Shuffled
from experiments.lab.training.losses import cross_entropy
from tests.experiments.lab.training import problems
from tests.experiments.lab.training.problems import engine, new_engine


class EvaluateTest(parameterized.TestCase):
  @parameterized.parameters((True, 1), (True, 20), (True, 37), (False, 37))
  def test_counts_every_example_once(self, scan, count):
    made = engine("bn", scan=scan)
    data = problems.examples(count)
    variables = made.init([0, 1]).variables
    found = made.evaluate(variables, data)
    for seed in range(2):
      self.assert_by_hand(found, made.model, variables, seed, data)

  @parameterized.parameters((True, 7), (True, 20), (True, 27), (False, 27))
  def test_a_lane_is_evaluated_on_its_own_examples(self, scan, each):
    made = engine("bn", scan=scan)
    own = problems.own_examples(each=each)
    variables = made.init([0, 1, 2]).variables
    found = made.evaluate(variables, own)
    for lane in range(3):
      self.assert_by_hand(found, made.model, variables, lane, own.lane(lane))

  def assert_by_hand(self, found, model, variables, lane, data):
    """Asserts the metrics of a lane, evaluated on data at once."""
    logits = model.apply(
      lanes.one(variables, lane), problems.prepare(data.inputs), train=False
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, data.targets
    )
    correct = logits.argmax(axis=1) == data.targets
    np.testing.assert_allclose(found["loss"][lane], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(
      found["accuracy"][lane], correct.mean(), rtol=1e-6
    )

  def test_a_diverged_lane_has_no_accuracy(self):
    """It would be that of class 0, which `argmax` of NaN is."""
    made = engine("none")
    variables = made.init([0, 1]).variables
    params = jax.tree.map(
      lambda leaf: leaf.at[0].set(np.nan), variables["params"]
    )
    found = made.evaluate({"params": params}, problems.examples(20))
    for name in ("loss", "accuracy"):
      np.testing.assert_array_equal(np.isnan(found[name]), [True, False])

  def test_notices_a_lost_example(self):
    whole = cross_entropy(problems.prepare)

    def loss(model, variables, batch, key, train):
      return whole(model, variables, batch.first(9), key, train)

    made = new_engine("ln", loss=loss)
    with self.assertRaisesRegex(AssertionError, "Counted .* of 44"):
      made.evaluate(made.init([0]).variables, problems.examples())

  def test_training_mode_takes_the_statistics_of_each_batch(self):
    made = engine("bn")
    variables = made.init([0]).variables
    data = problems.examples(20)
    running, of_ten, of_twenty = (
      made.evaluate(variables, data, train=train, size=size)["loss"][0]
      for train, size in ((False, 10), (True, 10), (True, 20))
    )
    self.assertGreater(abs(running - of_ten), 1e-4)
    self.assertGreater(abs(of_ten - of_twenty), 1e-4)


class ReestimateTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_statistics_are_those_of_the_data(self, scan):
    made = engine("bn", scan=scan)
    train = problems.examples(44)
    source = Shuffled(train, 8, ordered=True)
    variables = made.reestimate(made.init([0, 1]).variables, source)
    inputs = np.asarray(problems.prepare(train.inputs[:40])).reshape(40, 16)
    for seed in range(2):
      found = jax.tree.map(np.asarray, lanes.one(variables, seed))
      dense = found["params"]["Dense_0"]
      features = inputs.astype(np.float64) @ dense["kernel"] + dense["bias"]
      stats = found["batch_stats"]["BatchNorm_0"]
      np.testing.assert_allclose(stats["mean"], features.mean(0), atol=1e-6)
      np.testing.assert_allclose(stats["var"], features.var(0), rtol=1e-5)

  @parameterized.parameters(True, False)
  def test_statistics_of_a_lane_are_those_of_its_own_data(self, scan):
    made = engine("bn", scan=scan)
    own = problems.own_examples(each=29)
    variables = made.init([0, 1, 2]).variables
    found = made.reestimate(variables, Shuffled(own, 8, ordered=True))
    for lane in range(3):
      alone = made.reestimate(
        problems.only(variables, lane),
        Shuffled(own.lane(lane), 8, ordered=True),
      )
      chex.assert_trees_all_close(
        lanes.one(found, lane), lanes.one(alone, 0), rtol=1e-5, atol=1e-6
      )

  @parameterized.parameters(True, False)
  def test_equal_sources_share_what_is_compiled(self, scan):
    loss, traced = cross_entropy(problems.prepare), []

    def noticed(*args):
      traced.append(1)
      return loss(*args)

    def again(examples, size):
      source = Shuffled(examples, size, ordered=True)
      return made.reestimate(variables, source)["batch_stats"]

    made = new_engine("bn", loss=noticed, scan=scan)
    variables = made.init([0]).variables
    ours, theirs = problems.examples(44), problems.examples(44, seed=1)
    first = again(ours, 8)
    before = len(traced)
    second = again(theirs, 8)
    self.assertLen(traced, before)
    chex.assert_trees_all_equal(first, again(ours, 8))
    made = new_engine("bn", scan=scan)
    chex.assert_trees_all_equal(second, again(theirs, 8))
    # As many batches, but the examples are in other places.
    made = new_engine("bn", loss=noticed, scan=scan)
    again(problems.examples(47), 8)
    found = again(ours, 8)
    chex.assert_trees_all_equal(first, found)

  def test_without_statistics_nothing_changes(self):
    made = engine("ln")
    variables = made.init([0]).variables
    self.assertIs(made.reestimate(variables, made.source), variables)


if __name__ == "__main__":
  absltest.main()
