"""The MNIST study from the command line to its files, on embedded digits."""

import contextlib
import io
import json
import os
import pathlib
import tempfile
from unittest import mock

import jax
from absl.testing import absltest, parameterized

from experiments import mnist
from experiments.lab import comparison, study
from experiments.lab.errors import RefusedError
from experiments.lab.runs.workdir import Files, WorkdirError
from experiments.mnist import Config
from normjax.linen import BatchNorm, registry
from tests.experiments import programs

CONFIG = Config(
  dataset="digits", norm=("none", "bn"), seeds=2, epochs=2, hidden=(16,)
)


def setUpModule():
  jax.config.update("jax_disable_most_optimizations", True)


def tearDownModule():
  jax.config.update("jax_disable_most_optimizations", False)


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
    self.assertRegex(output, "(CONFIRMED|REFUTED|UNRESOLVED): bn learns faster")

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
    def factory(*, train, dtype=None, epsilon=1e-5):
      return BatchNorm(not train, dtype=dtype, epsilon=epsilon)

    with (
      mock.patch.dict(registry._FACTORIES, fixed=factory),
      self.assertRaisesRegex(RefusedError, "momentum"),
    ):
      run(Config(dataset="digits", norm=("fixed",)))

  def test_a_convolutional_net_takes_instance_norm(self):
    config = Config(
      dataset="digits", model="cnn", norm=("in",), hidden=(4, 4), epochs=1
    )
    results, _ = run(config)
    self.assertBetween(results["in"]["test_accuracy"][0], 0.05, 1)


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
