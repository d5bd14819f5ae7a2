"""The claims of both studies of recurrent nets can fail; they train as told."""

import contextlib
import io
import pathlib
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments import catalog, results
from experiments.lab import study
from experiments.lab.data import arrays
from experiments.lab.errors import RefusedError
from experiments.lab.results import data_of
from experiments.lab.runs.workdir import Files
from experiments.recurrent import __main__ as recurrent
from experiments.recurrent import checks, judging, nets, options, task, training
from experiments.recurrent.options import FACTORS, Config
from experiments.recurrent.training import Arm

SEEDS = 20


def numbers(mean, seed):
  rng = np.random.default_rng(seed)
  return mean * np.exp(0.03 * rng.normal(size=SEEDS))


def rows(ln=0.5, equal=0.5, again=1.0, one=9.0):
  """Returns made-up arms on rows, from mean losses and one error."""
  losses = {
    "none": 1.0,
    "ln": ln,
    "step": 0.7,
    "one": 0.7,
    "none, again": again,
    "none, equal rate": 2.0,
    "ln, equal rate": 2 * equal,
  }
  return {
    name: {
      "mean": numbers(loss, seed),
      "reestimated": numbers(one if name == "one" else 3.0, seed),
    }
    for seed, (name, loss) in enumerate(losses.items())
  }


def sums(ln=0.5, step_grows=3.0, ln_grows=1.1, initial=3.0):
  """Returns made-up arms on the adding problem."""

  def errors(grows, seed):
    growth = grows ** np.log2(FACTORS)
    return 0.02 * np.stack(
      [numbers(g, 10 * seed + at) for at, g in enumerate(growth)], axis=1
    )

  losses = {"none": 1.0, "ln": ln, "step": 1.5, "one": 1.5}
  found = {
    name: {
      "mean": numbers(loss, seed),
      "reestimated": errors(ln_grows if name == "ln" else step_grows, seed),
    }
    for seed, (name, loss) in enumerate(losses.items())
  }
  found["step"]["initial"] = initial * errors(step_grows, 7)
  return found


def verdicts(judge, arms):
  with tempfile.TemporaryDirectory() as folder:
    run = study.Run(pathlib.Path(folder), settings={"cell": "lstm"})
    with contextlib.redirect_stdout(io.StringIO()):
      judge(arms, arms, run)
    return {finding.claim: finding.verdict for finding in run.findings()}


class ClaimsTest(parameterized.TestCase):
  @parameterized.parameters(
    (judging.ON_ROWS, judging.judge_rows, rows),
    (judging.ON_SUMS, judging.judge_sums, sums),
  )
  def test_effects_that_are_there(self, claims, judge, arms):
    names = [claim.name for claim in claims]
    expected = dict.fromkeys(names, "CONFIRMED")
    self.assertEqual(verdicts(judge, arms()), expected)

  @parameterized.parameters(
    ("ln_faster_rows", {"ln": 1.1}, "REFUTED"),
    ("ln_faster_rows", {"ln": 0.95}, "SMALLER THAN CLAIMED"),
    ("ln_faster_equal_rate", {"equal": 1.1}, "REFUTED"),
    ("control", {"again": 1.3}, "REFUTED"),
    ("own_statistics", {"one": 2.0}, "REFUTED"),
    ("own_statistics", {"one": 3.5}, "SMALLER THAN CLAIMED"),
  )
  def test_effects_that_are_not_on_rows(self, claim, effects, expected):
    found = verdicts(judging.judge_rows, rows(**effects))
    self.assertEqual(found[claim], expected)

  @parameterized.parameters(
    ("ln_faster_adding", {"ln": 1.1}, "REFUTED"),
    ("longer_step", {"step_grows": 0.9}, "REFUTED"),
    ("longer_step", {"step_grows": 1.2}, "SMALLER THAN CLAIMED"),
    ("longer_needs_last", {"initial": 0.9}, "REFUTED"),
    ("longer_ln", {"ln_grows": 2.0}, "REFUTED"),
  )
  def test_effects_that_are_not_on_sums(self, claim, effects, expected):
    found = verdicts(judging.judge_sums, sums(**effects))
    self.assertEqual(found[claim], expected)


class TaskTest(absltest.TestCase):
  def test_sums(self):
    lengths = task.Lengths(5, 9)
    batch = task.draw_sums(jax.random.key(0), lengths, 200, 12)
    numbers, marks = np.moveaxis(np.asarray(batch.inputs), 2, 0)
    self.assertEqual(numbers.shape, (200, 12))
    seen = set()
    for row in range(200):
      length = int(batch.mask[row].sum())
      seen.add(length)
      self.assertTrue(batch.mask[row, :length].all())
      first, second = np.flatnonzero(marks[row, :length])
      self.assertLess(first, length // 2)
      self.assertGreaterEqual(second, length // 2)
      # Padding holds marks and numbers too.
      self.assertTrue(marks[row, length:].all())
      expected = numbers[row, first] + numbers[row, second]
      self.assertAlmostEqual(float(batch.targets[row]), expected, places=5)
    self.assertEqual(seen, {5, 6, 7, 8, 9})
    self.assertTrue(numbers.min() >= 0 and numbers.max() < 1)
    again = task.draw_sums(jax.random.key(0), lengths, 200, 12)
    np.testing.assert_array_equal(batch.inputs, again.inputs)

  def test_guessing(self):
    batch = task.draw_sums(jax.random.key(1), task.Lengths(4, 4), 20_000)
    error = np.sqrt(np.mean(np.square(np.asarray(batch.targets) - 1)))
    self.assertAlmostEqual(error, task.GUESSING, places=2)

  def test_images_are_read_row_by_row(self):
    pool = arrays.load_pool("digits")
    image = np.asarray(pool.examples.inputs[:3]) / 16
    read = task.read_by(pool, 0).prepare(pool.examples.inputs[:3])
    np.testing.assert_array_equal(read[:, 2], image[:, 2, :, 0])
    read = task.read_by(pool, 2).prepare(pool.examples.inputs[:3])
    self.assertEqual(read.shape, (3, 32, 2))
    np.testing.assert_array_equal(read[:, 5], image[:, 1, 2:4, 0])
    with self.assertRaisesRegex(RefusedError, "--pixels=5 does not divide"):
      task.read_by(pool, 5)


class TrainingTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    # Optax's Adam mixes integers and floats.
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  def test_adding_problem(self):
    config = Config(cell="rnn", units=4, sums=40, length=4)
    found = training.on_sums(config, Arm("rnn", "step"), [0.01], [0])
    self.assertEqual(found["loss"].shape, (1, 1, 40))
    self.assertLess(
      found["loss"][..., -10:].mean(), found["loss"][..., 0].mean()
    )
    for name in ("reestimated", "running", "batch", "initial"):
      self.assertEqual(found[name].shape, (1, 1, len(FACTORS)))
    # They differ only after the last step of training.
    last, initial = (found[name][0] for name in ("reestimated", "initial"))
    np.testing.assert_allclose(initial[:, 0], last[:, 0], rtol=1e-4)
    self.assertGreater(np.abs(initial - last)[:, 1:].min(), 1e-4)

  def test_rows(self):
    pool = arrays.load_pool("digits")
    pool = pool._replace(examples=jax.tree.map(jnp.asarray, pool.examples))
    config = Config(units=8, steps=100)
    found = training.on_rows(
      config, task.read_by(pool, 0), Arm("rnn", "ln"), [0.03], [0]
    )
    self.assertEqual(found["loss"].shape, (1, 1, 100))
    np.testing.assert_array_equal(found["error"], found["reestimated"])
    self.assertLess(found["error"][0, 0], 50)  # Guessing has 90%.

  def test_checks(self):
    config = Config(cell="rnn", units=4, length=4)
    self.assertLess(checks.alone(config, "ln"), 1e-5)
    self.assertGreater(checks.alone(config, "step"), 0.1)
    self.assertEqual(checks.padding(config, "step"), 0)
    normalize = nets.Cell._norm

    def unmasked(cell, x, step, mask, use_bias=False):
      return normalize(cell, x, step, None, use_bias)

    with mock.patch.object(nets.Cell, "_norm", unmasked):
      self.assertFalse(checks.padding(config, "step") < 1e-6)  # It is NaN.


def made_up(arm, rates, seeds):
  """Returns numbers for an arm of either study, the lowest at rate 0.01."""
  shape = len(rates), len(seeds)
  loss = np.abs(np.log(np.array(rates) / 0.012))[:, None] + np.ones(shape)
  found = {"loss": np.repeat(loss[..., None], 20, axis=2)}
  found |= dict.fromkeys(("mean", "validation", "error"), loss)
  if arm.norm == "step":
    found["initial"] = np.ones((*shape, len(FACTORS)))
  return found


def on_rows(config, pool, arm, rates, seeds, again=False):
  found = made_up(arm, rates, seeds)
  return {**found, "reestimated": found["error"]}


def on_sums(config, arm, rates, seeds):
  found = made_up(arm, rates, seeds)
  errors = np.ones((len(rates), len(seeds), len(FACTORS)))
  return found | dict.fromkeys(("running", "reestimated", "batch"), errors)


class StudiesTest(parameterized.TestCase):
  def test_are_those_of_the_flag(self):
    self.assertEqual((*recurrent.STUDIES,), options.STUDIES)
    for name, chosen in recurrent.STUDIES.items():
      self.assertEqual(chosen.config, Config(study=name))
      self.assertIs(catalog.declared(f"recurrent_{name}"), chosen)

  @parameterized.parameters(("rows", "digits"), ("adding", "none"))
  def test_have_data_of_their_own(self, name, data):
    config = Config(
      study=name, seeds=2, dataset="digits", cell="rnn", units=4, length=4
    )
    with (
      tempfile.TemporaryDirectory() as folder,
      contextlib.redirect_stdout(io.StringIO()),
      mock.patch.object(training, "on_rows", on_rows),
      mock.patch.object(training, "on_sums", on_sums),
    ):
      where = Files(f"{folder}/run")
      summary = study.run("recurrent", recurrent.measure, config, where)
      found, _ = results.finished(pathlib.Path(where.workdir))
    self.assertEqual(found, f"recurrent_{name}")
    self.assertEqual(data_of(summary), data)
    declared = recurrent.STUDIES[name]
    for entry, key, ones in (
      ("findings", "claim", declared.claims),
      ("checks", "check", declared.checks),
    ):
      self.assertCountEqual(
        [one[key] for one in summary[entry]], [one.name for one in ones]
      )

  def test_flags_without_effect(self):
    self.assertIn("dataset", Config(study="adding").unused())
    self.assertNotIn("length", Config(study="adding").unused())
    self.assertIn("length", Config(study="rows").unused())
    self.assertNotIn("dataset", Config(study="rows").unused())

  def test_arms_at_their_rates(self):
    arms = [Arm("rnn", norm) for norm in training.NORMS]
    trained = []

    def train(arm, rates, seeds):
      trained.append((arm, (*rates,), (*seeds,)))
      return made_up(arm, rates, seeds)

    with tempfile.TemporaryDirectory() as folder:
      run = study.Run(pathlib.Path(folder))
      with contextlib.redirect_stdout(io.StringIO()):
        best, fast = training.tuned(arms, train, Config(seeds=2), run)
    self.assertEqual([*best], arms)
    self.assertEqual([*fast], arms[:3])  # In training, "one" is "step".
    for part in (*best.values(), *fast.values()):
      self.assertAlmostEqual(float(part["rate"]), 0.01)
    # Once at all rates and once at the best, although both choices need it.
    self.assertLen(trained, 2 * len(arms))
    self.assertLen({*trained}, 2 * len(arms))
    self.assertEqual([*training.by_norm(best, "rnn")], [*training.NORMS])
    self.assertEmpty(training.by_norm(best, "gru"))


if __name__ == "__main__":
  absltest.main()
