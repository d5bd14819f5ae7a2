"""Tests of training with evaluations in between, until it is time to stop."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments.lab.training import fit, lanes
from experiments.lab.training.fit import Schedule
from tests.experiments.lab.training import problems
from tests.experiments.lab.training.problems import adam, engine

EPOCH = 5


def run(made, seeds, epochs=3, start=None, **options):
  """Returns the last progress and all reports."""
  progress = start or fit.start(made, seeds)
  schedule = Schedule(EPOCH, EPOCH * epochs, **options)
  validation = problems.examples(13, seed=1)
  results = list(fit.fit(made, progress, validation, schedule))
  return results[-1][0], [report for _, report in results]


class FitTest(absltest.TestCase):
  def test_learns(self):
    _, reports = run(engine("bn"), [0, 1], epochs=40)
    self.assertGreater(reports[-1].metrics["val_accuracy"].min(), 0.9)
    self.assertLess(
      reports[-1].metrics["train_loss"].max(),
      0.5 * reports[0].metrics["train_loss"].min(),
    )

  def test_keeps_the_variables_that_are_best_by_another_criterion(self):
    made = engine("bn")
    validation = problems.examples(13, seed=1)
    *_, (progress, _) = fit.fit(
      made,
      fit.start(made, [0, 1]),
      validation,
      Schedule(EPOCH, 10 * EPOCH),
      criterion=lambda metrics: -metrics["accuracy"],
    )
    kept = made.evaluate(progress.stopping.best_variables, validation)
    np.testing.assert_allclose(-progress.stopping.best_loss, kept["accuracy"])
    by_loss, _ = run(made, [0, 1], epochs=10)
    self.assertLess(
      progress.stopping.best_step.max(), by_loss.stopping.best_step.min()
    )

  def test_a_diverged_seed_leaves_the_others_alone(self):
    made = engine("bn")
    start = fit.start(made, [0, 1])
    params = jax.tree.map(lambda x: x.at[0].set(jnp.nan), start.state.params)
    state = dataclasses.replace(start.state, params=params)
    progress, reports = run(made, [0, 1], start=start.replace(state=state))
    stopping = progress.stopping
    np.testing.assert_array_equal(stopping.diverged, [True, False])
    np.testing.assert_array_equal(stopping.stopped, [True, False])
    np.testing.assert_array_equal(stopping.best_step[0], 0)
    chex.assert_tree_all_finite(stopping.best_variables)
    healthy, healthy_reports = run(made, [0, 1])
    chex.assert_trees_all_close(
      lanes.one(progress.state.params, 1),
      lanes.one(healthy.state.params, 1),
      rtol=1e-6,
    )
    for report, healthy_report in zip(reports, healthy_reports, strict=True):
      for name, values in report.metrics.items():
        self.assertTrue(np.isnan(values[0]) or name.endswith("accuracy"))
        self.assertAlmostEqual(values[1], healthy_report.metrics[name][1])

  def test_a_stopped_seed_does_not_change_any_more(self):
    made = engine("bn")
    start = fit.start(made, [0, 1])
    stopping = start.stopping.replace(stopped=jnp.array([True, False]))
    before = jax.tree.map(np.array, stopping)
    progress, reports = run(
      made, [0, 1], epochs=2, start=start.replace(stopping=stopping)
    )
    for report in reports:
      for values in report.metrics.values():
        np.testing.assert_array_equal(np.isnan(values), [True, False])
    chex.assert_trees_all_equal(
      lanes.one(progress.stopping, 0), lanes.one(before, 0)
    )
    self.assertEqual(progress.stopping.best_step[1], 2 * EPOCH)

  def test_ends_when_every_seed_has_stopped(self):
    # The first evaluation is the best.
    options = {"patience": 2, "min_delta": 1e3}
    progress, reports = run(engine(), [0, 1], epochs=50, **options)
    self.assertLen(reports, 3)
    np.testing.assert_array_equal(progress.stopping.best_step, [EPOCH] * 2)
    self.assertTrue(progress.stopped.all())

  def test_the_best_variables_are_those_of_the_best_evaluation(self):
    # Goes up and down, so that of six seeds some end worse than they were.
    made = engine("bn", optimizer=adam(0.3))
    progress = fit.start(made, range(6))
    schedule = Schedule(EPOCH, 12 * EPOCH)
    states, losses = [], []
    for after, report in fit.fit(
      made, progress, problems.examples(13, seed=1), schedule
    ):
      states.append(jax.tree.map(np.array, after.state.variables))
      losses.append(report.metrics["val_loss"])
    best = np.argmin(losses, axis=0)
    self.assertLess(best.min(), 11)
    stopping = after.stopping
    np.testing.assert_array_equal(stopping.best_step, EPOCH * (best + 1))
    for seed, epoch in enumerate(best):
      chex.assert_trees_all_equal(
        lanes.one(stopping.best_variables, seed),
        lanes.one(states[epoch], seed),
      )

  def test_measures_more(self):
    made = engine("ln")
    schedule = Schedule(3, 5)
    reports = [
      report
      for _, report in fit.fit(
        made,
        fit.start(made, [0, 1]),
        problems.examples(13, seed=1),
        schedule,
        measure=lambda state: {"steps_taken": state.step},
      )
    ]
    self.assertEqual([report.steps for report in reports], [3, 2])
    for report in reports:
      np.testing.assert_array_equal(
        report.metrics["steps_taken"], [report.step] * 2
      )


if __name__ == "__main__":
  absltest.main()
