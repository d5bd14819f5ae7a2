"""The MNIST study from the command line to its files, on embedded digits."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import tempfile
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import linen as nn

from experiments import mnist
from experiments.lab import comparison, options, study
from experiments.lab.data import arrays
from experiments.lab.errors import RefusedError
from experiments.lab.runs.workdir import Files, WorkdirError
from experiments.mnist import Config
from normjax.linen import registry
from tests.experiments import programs

CONFIG = Config(
  dataset="digits", norm=("none", "bn"), seeds=2, epochs=2, hidden=(16,)
)


class Folders(absltest.TestCase):
  """Gives each test a working directory, and all of them one cache."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.shared = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )
    self.enter_context(contextlib.chdir(self.folder))
    os.environ["NORMJAX_CACHE_DIR"] = str(self.shared / "cache")
    self.addCleanup(os.environ.pop, "NORMJAX_CACHE_DIR")
    # Optax's Adam mixes integers and floats.
    self.enter_context(jax.numpy_dtype_promotion("standard"))


def run(config, files=Files()):  # noqa: B008
  """Returns the results and what was printed."""
  output = io.StringIO()
  with contextlib.redirect_stdout(output):
    summary = study.run(
      "mnist",
      mnist.measure,
      config,
      files,
      show=lambda config, run, summary: comparison.show(summary["norms"]),
    )
  return summary["norms"], output.getvalue()


class RunTest(Folders, parameterized.TestCase):
  def test_leaves_its_results(self):
    results, output = run(CONFIG, Files(workdir="w"))
    folder = self.folder / "w"
    self.assertContainsSubset(
      {"config.json", "metrics.jsonl", "summary.json", "curves.png"}
      | {"checkpoints", "tensorboard"},
      {path.name for path in folder.iterdir()},
    )
    config = json.loads((folder / "config.json").read_text())
    self.assertEqual(config["config"]["norm"], ["none", "bn"])
    self.assertEqual(config["config"]["batch_size"], 64)
    self.assertEqual(config["versions"]["jax"], jax.__version__)

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    self.assertEqual(
      [(record["norm"], record["epoch"]) for record in records],
      [("none", 1), ("none", 2), ("bn", 1), ("bn", 2)],
    )
    for record in records:
      for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        self.assertLen(record[name], 2)

    summary = json.loads((folder / "summary.json").read_text())
    self.assertEqual(summary["norms"], results)
    self.assertEqual(
      results["bn"]["epoch1_train_loss"], records[2]["train_loss"]
    )
    self.assertEqual(results["bn"]["best_epoch"], [2, 2])
    self.assertNotIn("test_accuracy_reestimated", results["none"])

    self.assertIn("1,150 images for training, 287 for validation, 360", output)
    self.assertRegex(output, r"epoch +train loss +val loss +val accuracy +seco")
    self.assertRegex(output, r"\n +2 +[\d.]+ +[\d.]+ +[\d.]+ % +[\d.]+\n")
    self.assertRegex(output, "Restored the best parameters: epoch 2, 2")
    self.assertRegex(output, r"Test accuracy: [\d.]+ ± [\d.]+ %")
    self.assertRegex(output, r"re-estimated batch statistics: [\d.]+ ±")
    self.assertRegex(output, r"\| bn +\| +[\d.]+ ± [\d.]+ \|")
    self.assertRegex(
      output, r"[A-Z]+: at a learning rate of 0.001, bn has a lo"
    )
    self.assertIn("share the official test set", output)
    claims = [finding["claim"] for finding in summary["findings"]]
    self.assertEqual(claims, ["bn_faster", "bn_equal"])

    # Nothing is trained again.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again, output_again = run(CONFIG, Files(workdir="w", resume=True))
    self.assertEqual(again, results)
    self.assertIn("is finished", output_again)
    self.assertEndsWith(output_again, output[output.index("\n| norm") :])
    self.assertEqual(
      before, {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    )

    # Nor overwritten, or mixed with something else.
    with self.assertRaisesRegex(WorkdirError, "already holds"):
      run(CONFIG, Files(workdir="w"))
    other = Config(**{**CONFIG.__dict__, "epochs": 3})
    with self.assertRaisesRegex(WorkdirError, "--epochs: 2 in the run, 3 now"):
      run(other, Files(workdir="w", resume=True))

  def test_images_keep_their_order_of_magnitude_and_learn(self):
    config = Config(dataset="digits", epochs=8, learning_rate=1e-2)
    results, output = run(config)
    (folder,) = (self.folder / "runs" / "mnist").iterdir()
    self.assertIn(f"runs/mnist/{folder.name}", output)
    self.assertGreater(results["ln"]["test_accuracy"][0], 0.93)
    accuracy = 100 * results["ln"]["test_accuracy"][0]
    self.assertIn(f"Test accuracy: {accuracy:.2f} %", output)

  def test_stops_early_and_says_so(self):
    config = Config(dataset="digits", min_delta=100.0, patience=2, hidden=(8,))
    results, output = run(config)
    self.assertEqual(results["ln"]["epochs"], 3)
    self.assertEqual(results["ln"]["best_epoch"], [1])
    self.assertIn("Seed 0: early stopping after epoch 3", output)

  def test_reports_divergence(self):
    config = Config(
      dataset="digits", norm=("none",), learning_rate=1e36, hidden=(8,)
    )
    results, output = run(config)
    self.assertEqual(results["none"]["diverged"], [True])
    self.assertEqual(results["none"]["epoch1_train_loss"], [None])
    self.assertIn("Seed 0 DIVERGED by epoch 1", output)
    self.assertIn("1 of 1 seeds diverged", output)

  @parameterized.parameters((1e10, True), (1e-3, False))
  def test_reports_what_does_not_learn(self, learning_rate, reported):
    config = Config(dataset="digits", learning_rate=learning_rate, epochs=2)
    results, output = run(config)
    self.assertEqual(results["ln"]["diverged"], [False])
    self.assertEqual(results["ln"]["beats_guessing"], [not reported])
    self.assertEqual("1 of 1 seeds NO BETTER THAN GUESSING" in output, reported)

  @parameterized.parameters(
    ({"norm": ("in",)}, "spatial.*--model=cnn"),
    (
      {"norm": ("in",), "model": "convnet", "hidden": (4, 4)},
      "spatial.*--model=cnn",
    ),
    ({"norm": ("ln", "bn"), "batch_size": 1}, "--norm=bn.*one value per chan"),
    (
      {"norm": ("gn",), "hidden": (100,)},
      "num_groups=8 does not divide.*--hidden a multiple of 8.$",
    ),
    ({"hidden": (10**9,)}, "take [0-9,.]+ GB, but there are [0-9,.]+ GB"),
    ({"model": "cnn", "hidden": (8,) * 5}, "needs at least 16 pixels"),
    ({"batch_size": 1151}, "1151 is more than the 1150 training examples"),
    ({"dataset": "mnst"}, "Did you mean 'mnist'"),
    ({"train_fraction": 1e-9}, "leaves 0 for training"),
  )
  def test_refuses_before_anything_is_made(self, settings, message):
    with self.assertRaisesRegex(RefusedError, f"(?s){message}"):
      run(Config(**{"dataset": "digits", **settings}))
    self.assertEmpty(list(self.folder.iterdir()))

  def test_refuses_running_statistics_that_cannot_be_reestimated(self):
    class Foreign(nn.Module):
      """Keeps statistics, but its mode has another name."""

      train: bool
      dtype: Any = None

      @nn.compact
      def __call__(self, x):
        self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:])
        return x

    with (
      mock.patch.dict(registry._REGISTRY.factories, fixed=Foreign),
      self.assertRaisesRegex(RefusedError, "no field use_running_average"),
    ):
      run(Config(dataset="digits", norm=("fixed",)))

  def test_a_convolutional_net_takes_instance_norm(self):
    config = Config(
      dataset="digits", model="cnn", norm=("in",), hidden=(4, 4), epochs=1
    )
    results, _ = run(config)
    self.assertBetween(results["in"]["test_accuracy"][0], 0.05, 1)

  def test_the_net_of_the_tutorials_has_its_own_dropout(self):
    small = Config(dataset="digits", hidden=(2, 8), norm=("bn",), epochs=1)
    config = dataclasses.replace(small, model="convnet")
    config = mnist.complete(config, {"model"})
    self.assertEqual(config.dropout, 0.5)
    self.assertEqual(mnist.complete(config, {"dropout"}), config)
    self.assertEqual(mnist.complete(small, {"hidden"}), small)
    results, _ = run(config)
    self.assertBetween(results["bn"]["test_accuracy"][0], 0.1, 1)

  def test_every_seed_draws_its_own_sets(self):
    config = dataclasses.replace(CONFIG, norm=("bn",), resplit=True, epochs=1)
    results, output = run(config)
    self.assertIn("every seed draws 1,150 images for training", output)
    self.assertNotIn("share the official test set", output)
    # A seed has the sets that it draws, whatever the other seeds.
    again, _ = run(dataclasses.replace(config, seed=1, seeds=1))
    for name in ("epoch1_train_loss", "test_loss", "best_val_loss"):
      np.testing.assert_allclose(
        again["bn"][name], results["bn"][name][1:], rtol=1e-3
      )

  def test_every_norm_has_its_best_rate(self):
    def first_epoch(norm, config, split, mesh, rates, seeds):
      best = {"none": 1e-3, "bn": 1e-2}[norm]
      distance = np.abs(np.log(np.array(rates) / best))[:, None]
      loss = 0.1 + distance + 1e-3 * np.array(seeds)
      return {"loss": loss, "validation": loss}

    config = dataclasses.replace(CONFIG, tune=True, epochs=1)
    with mock.patch.object(mnist, "first_epoch", first_epoch):
      _, output = run(config, Files(workdir="w"))
    summary = json.loads((self.folder / "w" / "summary.json").read_text())
    rates = {name: kept["rate"] for name, kept in summary["rates"].items()}
    np.testing.assert_allclose(rates["none_first_epoch"], 1e-3)
    np.testing.assert_allclose(rates["bn_first_epoch"], 1e-2)
    finding = summary["findings"][-1]
    self.assertEqual(finding["claim"], "bn_faster_tuned")
    self.assertEqual(
      finding["values"],
      {"bn, tuned": [0.1, 0.101], "none, tuned": [0.1, 0.101]},
    )
    self.assertIn("best rate", output)

  def test_a_first_epoch_at_several_rates(self):
    pool = arrays.load_pool("digits")
    pool = pool._replace(examples=jax.tree.map(jnp.asarray, pool.examples))
    found = mnist.first_epoch("none", CONFIG, pool.split, None, [1e-2, 0], [0])
    self.assertEqual(found["loss"].shape, (2, 1))
    # At a rate of zero nothing is learned.
    self.assertLess(found["validation"][0], found["validation"][1] - 0.1)
    np.testing.assert_allclose(
      found["loss"][1], found["validation"][1], rtol=0.1
    )


class ClaimsTest(absltest.TestCase):
  """Every claim can fail."""

  def verdicts(self, loss, tuned_loss, points):
    """Judges norms with these factors of the loss and points of accuracy."""
    rng = np.random.default_rng(0)

    def losses(norm, factor):
      mean = 0.4 * (1 if norm == "none" else factor)
      return mean * np.exp(rng.normal(0, 0.02, 20))

    results = {
      norm: {
        "epoch1_train_loss": losses(norm, loss),
        "test_accuracy": rng.normal(0.97, 0.002, 20)
        + (0 if norm == "none" else points / 100),
      }
      for norm in ("none", "in", *mnist.FASTER)
    }
    tuned = {norm: losses(norm, tuned_loss) for norm in mnist.TUNED}
    settings = dataclasses.asdict(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
      made = study.Run(pathlib.Path(folder), settings=settings)
      with contextlib.redirect_stdout(io.StringIO()):
        mnist.judge(results, made)
        mnist.judge_tuned(tuned, made)
      return {finding.claim: finding.verdict for finding in made.findings()}

  def test_effects_that_are_there(self):
    names = [claim.name for claim in mnist.CLAIMS]
    found = self.verdicts(0.7, 0.7, 0)
    self.assertEqual(found, dict.fromkeys(names, "CONFIRMED"))

  def test_effects_that_are_the_opposite(self):
    names = [claim.name for claim in mnist.CLAIMS]
    found = self.verdicts(1.3, 1.3, 2)
    self.assertEqual(found, dict.fromkeys(names, "REFUTED"))

  def test_faster_only_at_the_rate_of_tutorials(self):
    found = self.verdicts(0.7, 1.0, 0)
    self.assertEqual(found["ln_faster"], "CONFIRMED")
    for norm in ("ln", "bn"):
      self.assertNotEqual(found[f"{norm}_faster_tuned"], "CONFIRMED")

  def test_diverged_seeds_count_as_guessing(self):
    claim = mnist.FASTER["ln"]
    estimate = claim.analysis.estimate([None] * 4, [0.3] * 4)
    self.assertAlmostEqual(estimate.center, np.log(10) / 0.3)


class SettingsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"tune": True}, "tune", "without --norm=none,... and two seeds"),
    ({"resplit": True, "train_fraction": 0.5}, "train_fraction", "--resplit"),
  )
  def test_refuses_what_has_no_effect(self, settings, flag, message):
    with self.assertRaisesRegex(RefusedError, f"--{flag} has .*{message}"):
      options.refuse_unused(Config(**settings), {flag})


class CommandLineTest(Folders):
  def start(self, *arguments):
    return programs.start("mnist", *arguments)

  def test_refusals_are_one_message(self):
    output = programs.output(self.start("--norm=in", "--dataset=digits"), 1)
    # The last line: without kernels, a line about them comes before.
    self.assertStartsWith(output.splitlines()[-1], "--norm=in cannot be train")
    self.assertNotIn("Traceback", output)


if __name__ == "__main__":
  absltest.main()
