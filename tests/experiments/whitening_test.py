"""The study of whitening: claims whose effect is absent, and one small run."""

import contextlib
import io
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments import whitening
from experiments.lab import study
from experiments.lab.errors import RefusedError
from experiments.lab.runs.workdir import Files

SEEDS = 20
# Numbers with which every claim and check holds.
NUMBERS = {
  "none": {"mean_loss": 1.0, "condition": 1e6, "before": 0.3, "after": 0.3},
  "bn": {"mean_loss": 0.5, "condition": 1e3, "before": 0.3, "after": 0.3},
  "dbn": {"mean_loss": 0.3, "condition": 1e2, "before": 0.3, "after": 1e-5},
  "iternorm": {"mean_loss": 0.3, "condition": 1e2, "before": 0.3, "after": 0.1},
}


def results(numbers):
  """Returns made-up results of every arm: a number per seed around these."""
  rng = np.random.default_rng(0)
  return {
    norm: {
      name: number
      * np.exp(rng.normal(0, 1e-7 if norm == "bn" else 0.02, SEEDS))
      for name, number in entry.items()
    }
    for norm, entry in numbers.items()
  }


class ClaimsTest(parameterized.TestCase):
  def judged(self, numbers):
    """Returns verdicts by claim, and whether each check holds."""
    folder = self.enter_context(tempfile.TemporaryDirectory())
    run = study.Run(pathlib.Path(folder))
    with contextlib.redirect_stdout(io.StringIO()):
      whitening.judge(results(numbers), run)
      summary = run.finish({})
    return (
      {finding["claim"]: finding["verdict"] for finding in summary["findings"]},
      {check["check"]: check["holds"] for check in summary["checks"]},
    )

  def test_effects_that_are_there(self):
    verdicts, checks = self.judged(NUMBERS)
    names = [claim.name for claim in whitening.CLAIMS]
    self.assertEqual(verdicts, dict.fromkeys(names, "CONFIRMED"))
    self.assertEqual(checks, {"whitened": True, "kept": True})

  @parameterized.parameters(
    ("dbn_faster", "dbn", "mean_loss", 0.5),
    ("iternorm_faster", "iternorm", "mean_loss", 0.5),
    ("iternorm_like_dbn", "iternorm", "mean_loss", 0.4),
    ("dbn_conditions", "dbn", "condition", 1e3),
    ("bn_conditions", "bn", "condition", 1e6),
    ("iternorm_decorrelates", "iternorm", "after", 0.3),
  )
  def test_fails_without_its_effect(self, claim, norm, quantity, number):
    verdicts, _ = self.judged(
      {**NUMBERS, norm: {**NUMBERS[norm], quantity: number}}
    )
    self.assertNotEqual(verdicts[claim], "CONFIRMED")

  @parameterized.parameters(("whitened", "dbn"), ("kept", "bn"))
  def test_a_check_can_fail(self, check, norm):
    _, checks = self.judged({**NUMBERS, norm: {**NUMBERS[norm], "after": 0.2}})
    self.assertFalse(checks[check])


def at_one_rate(run, name, train, rates, config, by):
  """Trains at a rate, in place of `tuning.tuned`."""
  del rates
  found = run.part(name, lambda: train([0.3], config.seed_numbers))
  arm = {key: values[0] for key, values in found.items()}
  return arm | {"rate": np.asarray(0.3), "tuning": found[by].mean()}


class RunTest(absltest.TestCase):
  def run_study(self, **changes):
    config = whitening.Config(
      dataset="digits",
      seeds=2,
      hidden=(8,),
      group_size=4,
      batch_size=64,
      steps=30,
      **changes,
    )
    folder = self.enter_context(tempfile.TemporaryDirectory())
    with (
      contextlib.redirect_stdout(io.StringIO()) as printed,
      # The choice of a rate has tests of its own; here it would only compile.
      mock.patch.object(whitening.tuning, "tuned", at_one_rate),
      # So do times.
      mock.patch.object(
        whitening.timing,
        "interleaved",
        side_effect=lambda turns, **_: {name: [0.08, 0.06] for name in turns},
      ),
      # Of optax.
      jax.numpy_dtype_promotion("standard"),
    ):
      summary = study.run("whitening", whitening.measure, config, Files(folder))
    return summary, printed.getvalue()

  def test_a_small_run(self):
    summary, printed = self.run_study()
    self.assertLen(summary["findings"], len(whitening.CLAIMS))
    self.assertEqual(summary["figures"], ["whitening.png"])
    self.assertTrue(all(check["holds"] for check in summary["checks"]))
    self.assertRegex(printed, r"ms per step \(not judged\)(.|\n)* 2\.00 \|")
    for finding in summary["findings"]:
      self.assertNotIn("second", finding["sentence"])
    values = {
      finding["claim"]: finding["values"] for finding in summary["findings"]
    }
    for losses in values["dbn_faster"].values():
      self.assertLess(max(losses), 2.2)

  def test_refuses_groups_that_do_not_fit(self):
    with self.assertRaisesRegex(RefusedError, "Groups of 4 .* layers of 6"):
      whitening.measure(whitening.Config(hidden=(6,), group_size=4), None)


if __name__ == "__main__":
  absltest.main()
