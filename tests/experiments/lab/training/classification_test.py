"""Tests of classifiers at several rates whose lanes have their own images."""

import functools

import jax
import numpy as np
import optax
from absl.testing import absltest

from experiments.lab.data.arrays import Pool, Sizes
from experiments.lab.models.nets import MLP
from experiments.lab.training import classification, lanes
from normjax.linen import make_norm
from tests.experiments.lab.training import problems

SEEDS = [3, 4]
RATES = [0.1, 0.5]


def train(images, seeds=SEEDS):
  model = MLP(
    norm=functools.partial(make_norm, "bn"), hidden=(8,), num_classes=3
  )
  with jax.numpy_dtype_promotion("standard"):
    engine, state, _ = classification.train_at_rates(
      model,
      optax.sgd,
      images,
      batch_size=8,
      seeds=seeds,
      rates=RATES,
      steps=4,
    )
  return engine, state


class ResultsTest(absltest.TestCase):
  def test_each_lane_is_tested_on_its_own_images(self):
    pool = Pool(
      "rows", problems.examples(70), Sizes(28, 14, 17), 3, problems.prepare
    )
    images = pool.split(SEEDS, len(RATES), noise=0.2)
    engine, state = train(images)
    found = classification.results(
      engine, state, images, len(RATES), lane=np.arange(4)
    )
    again = classification.reestimated(engine, state, images.train)
    for rate in range(2):
      for seed in range(2):
        lane = found["lane"][rate, seed]
        variables = problems.only(state.variables, lane)
        others = problems.only(again, lane)
        np.testing.assert_allclose(
          found["error"][rate, seed],
          classification.error(engine, variables, images.test.lane(lane))[0],
          rtol=1e-5,
        )
        np.testing.assert_allclose(
          found["reestimated"][rate, seed],
          classification.error(engine, others, images.test.lane(lane))[0],
          rtol=1e-5,
        )
        validation = engine.evaluate(variables, images.validation.lane(lane))
        np.testing.assert_allclose(
          found["validation"][rate, seed], validation["loss"][0], rtol=1e-5
        )
    # A seed has the same images at every rate, and others than another seed.
    np.testing.assert_array_equal(images.test.chosen[0], images.test.chosen[2])
    with self.assertRaisesRegex(ValueError, "those of 2 lanes, but .* 4"):
      train(pool.split(SEEDS))

  def test_reestimates_over_6400_training_examples(self):
    pool = Pool(
      "rows",
      problems.examples(6_500),
      Sizes(6_480, 10, 10),
      3,
      problems.prepare,
    )
    images = pool.split(SEEDS, len(RATES))
    engine, state = train(images)
    again = classification.reestimated(engine, state, images.train)
    for lane in range(4):
      variables = jax.tree.map(np.asarray, lanes.one(again, lane))
      inputs = problems.prepare(images.train.lane(lane).inputs)
      dense = variables["params"]["Dense_0"]
      features = np.asarray(inputs, np.float64).reshape(6_480, 16)[:6_400]
      features = features @ dense["kernel"] + dense["bias"]
      stats = variables["batch_stats"]["BatchNorm_0"]
      np.testing.assert_allclose(stats["mean"], features.mean(0), atol=1e-6)


if __name__ == "__main__":
  absltest.main()
