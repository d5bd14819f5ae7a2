"""Models of a study train at the rate of their lane, as without lanes."""

import dataclasses

import jax
import numpy as np
from absl.testing import absltest

from experiments.lab.data import sequences
from experiments.lab.models import kernels
from experiments.transformer import sweep, training
from experiments.transformer.options import Config

TASK = sequences.load("copy", dataset="", data_dir=None, context=8)
CONFIG = dataclasses.replace(
  Config(task="copy"),
  **{
    **sweep.SETTINGS,
    **sweep.QUICK,
    "steps": 3,
    "warmup_steps": 2,
    "gain": 2.0,
  },
)


class SweepTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    # Optax's Adam mixes integers and floats.
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  def test_a_lane_is_a_rate_and_a_seed(self):
    found = sweep.train(CONFIG, TASK, [0.01, 0.1], [3, 4])
    self.assertEqual(found["loss"].shape, (2, 2, 3))
    self.assertEqual(found["validation"].shape, (2, 2))
    alone = dataclasses.replace(CONFIG, learning_rate=0.1, gain=1.0)
    engine = training.make_engine(alone, TASK)
    state = engine.init([3, 4])
    params = kernels.scaled(state.params, 2.0)
    state, records = engine.train(dataclasses.replace(state, params=params), 3)
    np.testing.assert_allclose(found["loss"][1], records.loss, rtol=1e-5)
    for name in ("validation", "test"):
      examples = getattr(TASK, name)
      expected = engine.evaluate(state.variables, examples)["loss"]
      np.testing.assert_allclose(found[name][1], expected, rtol=1e-5)
      self.assertGreater(np.ptp(found[name], axis=0).min(), 1e-3)
    self.assertGreater(np.abs(found["test"] - found["validation"]).min(), 1e-6)


if __name__ == "__main__":
  absltest.main()
