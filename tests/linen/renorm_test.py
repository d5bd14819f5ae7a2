"""Batch renormalization as a module: schedules and their steps."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

import normjax
from normjax.linen import BatchNorm, BatchRenorm, frozen, reestimate
from tests.linen.cases import call

KEY = jax.random.key(0)
X = jnp.asarray(
  np.random.default_rng(0).normal(3.0, 2.0, (6, 4, 3)).astype("float32")
)
TRAIN = functools.partial(BatchRenorm, use_running_average=False)


def trained(norm, steps, variables=None):
  """Returns the outputs of some steps, and the variables after them."""
  variables = norm.init(KEY, X) if variables is None else variables
  ys = []
  for _ in range(steps):
    y, updates = call(norm, variables, X)
    variables = {**variables, **updates}
    ys.append(y)
  return ys, variables


class ScheduleTest(parameterized.TestCase):
  def test_by_default_it_starts_as_batch_norm_and_counts_steps(self):
    ys, variables = trained(TRAIN(), 2)
    expected, stats = trained(BatchNorm(use_running_average=False), 2)
    chex.assert_trees_all_close(ys, expected, rtol=1e-6, atol=1e-6)
    found = dict(variables["batch_stats"])
    self.assertEqual(found.pop("steps"), 2)
    chex.assert_trees_all_close(found, stats["batch_stats"], rtol=1e-6)

  def test_limits_are_those_of_the_step(self):
    schedule = optax.linear_schedule(0.0, 1.0, 2)
    norm = TRAIN(r_max=2.0, d_max=schedule, momentum=1.0)
    ys, variables = trained(norm, 3)
    self.assertEqual(variables["batch_stats"]["steps"], 3)
    for y, d_max in zip(ys, (0.0, 0.5, 1.0), strict=True):
      stats = normjax.BatchStats(jnp.zeros(3), jnp.ones(3))
      expected, _ = normjax.batch_renorm(
        X, stats=stats, use_running_average=False, r_max=2.0, d_max=d_max
      )
      np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)

  def test_numbers_need_no_steps(self):
    norm = TRAIN(r_max=3.0, d_max=5.0)
    self.assertEqual({*norm.init(KEY, X)["batch_stats"]}, {"mean", "var"})

  @parameterized.parameters(True, False)
  def test_evaluation_counts_nothing(self, context):
    _, variables = trained(TRAIN(), 1)
    if context:
      with frozen():
        _, updates = call(TRAIN(), variables, X)
    else:
      norm = BatchRenorm(use_running_average=True)
      _, updates = call(norm, variables, X)
    chex.assert_trees_all_equal(
      updates["batch_stats"], variables["batch_stats"]
    )

  def test_initializing_in_evaluation_declares_the_steps(self):
    norm = BatchRenorm()
    variables = norm.init(KEY, X, use_running_average=True)
    chex.assert_trees_all_equal(variables, TRAIN().init(KEY, X))

  def test_steps_train_in_a_scan(self):
    norm = TRAIN(d_max=optax.linear_schedule(0.0, 5.0, 4))
    variables = norm.init(KEY, X)

    @jax.jit
    def run(stats):
      def step(stats, _):
        y, updates = call(norm, {**variables, "batch_stats": stats}, X)
        return updates["batch_stats"], y

      return jax.lax.scan(step, stats, length=3)

    stats, ys = run(variables["batch_stats"])
    expected, kept = trained(norm, 3)
    chex.assert_trees_all_close(ys, jnp.stack(expected), rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(stats, kept["batch_stats"], rtol=1e-5)

  def test_reestimation_leaves_the_steps(self):
    _, variables = trained(TRAIN(), 2)
    stats = reestimate(TRAIN(), variables, [X, 2 * X])["batch_stats"]
    self.assertEqual(stats["steps"], 2)
    np.testing.assert_allclose(stats["mean"], 1.5 * X.mean((0, 1)), rtol=1e-5)
