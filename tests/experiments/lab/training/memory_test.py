"""What a training must hold in memory, against sums by hand."""

from unittest import mock

import jax
import optax
from absl.testing import absltest, parameterized

from experiments.lab.errors import RefusedError
from experiments.lab.training import memory
from tests.experiments.lab.training.problems import engine

# 16 inputs, 8 hidden units with a gain and a bias, 3 classes.
PARAMETERS = (16 + 1) * 8 + 2 * 8 + (8 + 1) * 3


class MemoryTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    # Optax's Adam mixes integers and floats.
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  @parameterized.parameters(
    (optax.sgd(0.1), 2 * PARAMETERS * 4),
    (optax.adam(0.1), 4 * PARAMETERS * 4 + 4),  # Two moments and a counter.
  )
  def test_counts_parameters_gradients_and_optimizer(self, optimizer, size):
    made = engine("ln", optimizer=optimizer)
    for lanes in 1, 3:
      limit = mock.patch.object(memory, "memory", lambda: lanes * size)  # noqa: B023
      with limit:
        made.check(lanes)
        made.init(range(lanes))
        with self.assertRaises(RefusedError):
          made.check(lanes + 1)
        with self.assertRaises(RefusedError):
          made.init(range(lanes + 1))

  def test_says_what_is_needed_and_what_there_is(self):
    made = engine("ln", hidden=(10**9,))
    for start in made.check, lambda: made.init([0]):
      with (
        mock.patch.object(memory, "memory", lambda: 8e9),
        self.assertRaisesRegex(
          RefusedError, r"take 352\.0 GB, but there are 8\.0 GB of memory"
        ),
      ):
        start()

  def test_this_machine_has_memory(self):
    self.assertBetween(memory.memory(), 1e8, 1e15)


if __name__ == "__main__":
  absltest.main()
