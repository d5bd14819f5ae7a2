"""The transformer study from the command line to its files."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab import study
from experiments.lab.data import sequences
from experiments.lab.errors import RefusedError
from experiments.lab.runs import files
from experiments.lab.runs.checkpoints import Checkpoints
from experiments.lab.runs.workdir import Files, WorkdirError
from experiments.transformer import __main__ as transformer
from experiments.transformer import arms, judging
from experiments.transformer.options import QUICK, Config
from tests.experiments import programs

SMALL = {**QUICK, "layers": 1, "width": 8, "context": 8, "steps": 4}
SMALL["eval_every"] = 2
TASK = sequences.load("copy", dataset="", data_dir=None, context=8)


def setUpModule():
  jax.config.update("jax_disable_most_optimizations", True)


def tearDownModule():
  jax.config.update("jax_disable_most_optimizations", False)


class Folders(parameterized.TestCase):
  """Gives each test a working directory with a text."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )
    self.enter_context(contextlib.chdir(self.folder))
    letters = np.random.default_rng(0).integers(97, 105, 1000, np.uint8)
    pathlib.Path("letters").write_bytes(bytes(letters))
    os.environ["NORMJAX_CACHE_DIR"] = str(self.folder / "cache")
    self.addCleanup(os.environ.pop, "NORMJAX_CACHE_DIR")
    # Optax's Adam mixes integers and floats.
    self.enter_context(jax.numpy_dtype_promotion("standard"))


def run(where=Files(), *, sample=0, **settings):  # noqa: B008
  """Returns the summary and what was printed."""
  config = Config(**{**SMALL, "dataset": "letters", **settings})
  output = io.StringIO()
  with contextlib.redirect_stdout(output):
    summary = study.run(
      "transformer",
      lambda config, run: transformer.measure(config, run, sample),
      config,
      where,
      show=lambda *args: transformer.show(*args, sample),
    )
  return summary, output.getvalue()


class RunTest(Folders):
  def test_leaves_its_results(self):
    settings = {"norm": ("bn",), "seeds": 2}
    summary, output = run(Files(workdir="w"), sample=20, **settings)
    folder = self.folder / "w"
    self.assertContainsSubset(
      {"config.json", "metrics.jsonl", "summary.json", "curves.png"}
      | {"checkpoints", "tensorboard"},
      {path.name for path in folder.iterdir()},
    )
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    self.assertEqual(
      [(record["model"], record["step"]) for record in records],
      [("bn", 2), ("bn", 4)],
    )
    for name in ("train_loss", "val_loss", "grad_norm_first", "grad_norm_last"):
      for record in records:
        self.assertLen(record[name], 2)
        self.assertTrue(np.isfinite(record[name]).all())
    self.assertIn("val_loss_batch_statistics", records[0])
    result = summary["models"]["bn"]
    self.assertEqual(result["final_val_loss"], records[1]["val_loss"])
    self.assertIn("final_val_loss_reestimated", result)
    # A token is a character.
    np.testing.assert_allclose(
      result["test_bits_per_character"],
      np.array(result["test_loss"]) * len("x" * 50) / 50 / np.log(2),
    )
    self.assertRegex(output, r"step +train loss +val loss +bits/char")
    self.assertRegex(output, r"\n +4 +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ %")
    self.assertRegex(output, r"re-estimated [\d.]+ ± [\d.]+, of each batch")
    self.assertRegex(output, r"sampled from it:\n[a-h]{20}\n")

    # Nothing is trained again, but text can still be had.
    again, output_again = run(Files("w", resume=True), **settings)
    self.assertEqual(again, files.read_record(folder / "summary.json"))
    self.assertIn("is finished", output_again)
    self.assertEndsWith(
      output_again, output[output.index("Best param") : output.index("\nText")]
    )
    again, output_again = run(Files("w", resume=True), sample=5, **settings)
    self.assertRegex(output_again, r"sampled from it:\n[a-h]{5}\n")
    self.assertEqual(again["models"], summary["models"])

    with self.assertRaisesRegex(WorkdirError, "already holds"):
      run(Files("w"), **settings)
    with self.assertRaisesRegex(WorkdirError, "--width: 8 in the"):
      run(Files("w", resume=True), **{**settings, "width": 16})

  def test_interrupted_and_resumed_ends_the_same(self):
    settings = {"norm": ("bn",), "dropout": 0.1, "steps": 6}
    run(Files("whole"), **settings)
    save, saved = Checkpoints.save, []

    def save_twice(self, step, *args):
      if len(saved) == 2:
        raise KeyboardInterrupt
      saved.append(step)
      save(self, step, *args)

    with (
      mock.patch.object(Checkpoints, "save", save_twice),
      self.assertRaises(KeyboardInterrupt),
    ):
      run(Files("interrupted"), **settings)
    _, output = run(Files("interrupted", resume=True), **settings)
    self.assertIn("Resuming after step 4", output)
    whole, interrupted = (
      programs.numbers(self.folder / name) for name in ("whole", "interrupted")
    )
    self.assertEqual(interrupted, whole)

  def test_compares_placements_on_padded_sequences(self):
    summary, output = run(task="copy", placement=("post", "peri"), steps=2)
    self.assertEqual(list(summary["models"]), ["post", "peri"])
    self.assertNotIn("bits/char", output)
    self.assertRegex(output, r"\| peri +\| +[\d.]+ \| +[+-][\d.]+ \| ")
    for result in summary["models"].values():
      self.assertBetween(result["test_accuracy"][0], 0, 1)
      self.assertNotIn("final_val_loss_batch_statistics", result)

  def test_reports_divergence(self):
    summary, output = run(learning_rate=1e38, clip_norm=0.0)
    self.assertEqual(summary["models"]["ln"]["diverged"], [True])
    self.assertIn("Seed 0 DIVERGED by step", output)
    self.assertNotIn("GUESSING", output)

  def test_reports_what_does_not_learn(self):
    summary, output = run(learning_rate=10.0, warmup_steps=0, clip_norm=0.0)
    self.assertEqual(summary["models"]["ln"]["diverged"], [False])
    self.assertIn("1 of 1 seeds NO BETTER THAN GUESSING", output)
    self.assertIn("2.0794", output)  # The logarithm of eight letters.

  @parameterized.parameters(
    ({"norm": ("in",)}, "--norm=in.*averages over time"),
    (
      {"norm": ("gn",), "width": 12},
      "--norm=gn.*num_groups=8 does not divide.*; make --width a multiple of 8",
    ),
    ({"width": 2 * 10**9}, "take [0-9,.]+ GB, but there are [0-9,.]+ GB"),
    ({"heads": 3}, "width of 8 cannot be shared by 3 heads"),
    ({"dataset": "hamlet"}, "no text 'hamlet'"),
    ({"context": 100}, "too few for --context=100"),
    ({"study": "warmup", "norm": ("ln", "bn")}, "takes one norm"),
  )
  def test_refuses_before_anything_is_made(self, settings, message):
    with self.assertRaisesRegex(RefusedError, f"(?s){message}"):
      run(**settings)
    self.assertEqual([path.name for path in self.folder.iterdir()], ["letters"])


class StudiesTest(Folders):
  def small(self, name):
    config = Config(study=name, dataset="letters", seeds=2)
    config = arms.with_defaults(config, {"seeds"})
    return dataclasses.replace(
      config,
      layers=4 if name == "depth" else 1,
      width=8,
      context=8,
      steps=2,
      batch_size=4,
    )

  def judged(self, name, results):
    """Returns the verdicts on results, one record a model."""
    records = {
      model: [{"step": 300, **_record(result)}]
      for model, result in results.items()
    }
    current = study.Run(self.folder)
    with contextlib.redirect_stdout(io.StringIO()):
      judging.judge(current, self.small(name), TASK, results, records)
      summary = current.finish({})
    self.assertEqual(summary["figures"], [f"{name}.png"])
    self.assertTrue((self.folder / f"{name}.png").exists())
    return [finding["verdict"] for finding in summary["findings"]]

  def test_verdicts_of_batch_norm_by_hand(self):
    def results(running, batch, reestimated):
      return {
        "ln": {
          "final_val_loss": [2.0, 2.1],
          "final_val_loss_batch_statistics": [2.0, 2.1 + 1e-7],
        },
        "bn": {
          "final_val_loss": [running, running + 0.1],
          "final_val_loss_batch_statistics": [batch, batch + 0.1],
          "final_val_loss_reestimated": [reestimated, reestimated + 0.1],
        },
      }

    self.assertEqual(
      self.judged("batch_norm", results(2.2, 2.15, 2.04)),
      ["CONFIRMED", "CONFIRMED", "CONFIRMED", "REFUTED"],
    )
    self.assertEqual(
      self.judged("batch_norm", results(2.01, 2.02, 2.2)),
      ["CONFIRMED", "REFUTED", "REFUTED", "CONFIRMED"],
    )

  def test_depth(self):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
      summary = study.run(
        "transformer", transformer.measure, self.small("depth"), Files("w")
      )
    self.assertLen(summary["findings"], 2)
    self.assertRegex(output.getvalue(), "(CONFIRMED|REFUTED|UNRESOLVED): In po")
    self.assertTrue((self.folder / "w" / "depth.png").exists())
    parts = sorted(path.stem for path in (self.folder / "w/parts").iterdir())
    self.assertEqual(parts, ["post-2", "post-4", "pre-2", "pre-4"])

  def test_verdicts_of_warmup_by_hand(self):
    config = self.small("warmup")
    losses = {
      "pre 0.001 warm-up 0": 2.5, "pre 0.001 warm-up 100": 2.6,
      "pre 0.003 warm-up 0": 2.40, "pre 0.003 warm-up 100": 2.42,
      "post 0.001 warm-up 0": 3.0, "post 0.001 warm-up 100": 2.5,
      "post 0.003 warm-up 0": 3.3, "post 0.003 warm-up 100": 2.5,
    }  # fmt: skip
    self.assertEqual(set(arms.models(config)), set(losses))
    results = {
      name: {"final_val_loss": [loss, loss + 0.01]}
      for name, loss in losses.items()
    }
    self.assertEqual(self.judged("warmup", results), ["CONFIRMED"] * 4)
    results["pre 0.003 warm-up 0"]["final_val_loss"] = [2.5, 2.51]
    self.assertEqual(
      self.judged("warmup", results), ["CONFIRMED"] * 3 + ["REFUTED"]
    )
    results["post 0.003 warm-up 0"]["final_val_loss"] = [None, 3.3]
    results["post 0.001 warm-up 0"]["final_val_loss"] = [2.6, 2.61]
    self.assertEqual(
      self.judged("warmup", results), ["UNRESOLVED"] * 2 + ["REFUTED"] * 2
    )

  def test_verdicts_of_norms_by_hand(self):
    names = arms.models(self.small("norms"))
    self.assertLen(names, 11)
    results = {
      name: {
        "final_val_loss": [2.2, 2.3] if "none" in name else [2.1, 2.2],
        "largest_logit": [9.0, 9.5] if "qk" in name else [200.0, 300.0],
      }
      for name in names
    }
    seconds = {"rms": np.array([0.9, 0.91]), "ln": np.ones(2)}
    with mock.patch.object(study.Run, "part", return_value=seconds):
      verdicts = self.judged("norms", results)
    self.assertEqual(verdicts, ["CONFIRMED"] * 7 + ["UNRESOLVED"])

  def test_a_study_chooses_what_it_compares(self):
    with self.assertRaisesRegex(RefusedError, "leave out --placement"):
      arms.with_defaults(Config(study="warmup"), {"placement", "steps"})
    with self.assertRaisesRegex(RefusedError, "not that of --scale"):
      arms.with_defaults(Config(study="norms"), {"scale"})
    config = arms.with_defaults(Config(study="warmup", steps=7), {"steps"})
    self.assertEqual((config.steps, config.layers, config.seeds), (7, 12, 5))
    self.assertLen(arms.models(config), 8)

  @parameterized.parameters(
    (Config(), set(), 250),
    (Config(steps=200), {"steps"}, 20),
    (Config(steps=5000), {"steps"}, 250),
    (Config(steps=7), {"steps"}, 1),
    (Config(steps=200, eval_every=150), {"steps", "eval_every"}, 150),
    (Config(study="warmup"), set(), 100),
    (Config(study="warmup", steps=60), {"steps"}, 20),
    (Config(study="batch_norm", steps=300), {"steps"}, 50),
    (Config(**QUICK), {"quick"}, 10),
  )
  def test_short_trainings_have_a_curve_too(self, config, given, expected):
    self.assertEqual(arms.with_defaults(config, given).eval_every, expected)

  def test_batch_norm_takes_a_learning_rate(self):
    for given, expected in (set(), 3e-3), ({"learning_rate"}, 0.5):
      config = Config(study="batch_norm", learning_rate=0.5)
      config = arms.with_defaults(config, given)
      rates = {m.learning_rate for m in arms.models(config).values()}
      self.assertEqual(rates, {expected})

  def test_a_line_through_depths_needs_two(self):
    quick = Config(study="depth", layers=2)
    with self.assertRaisesRegex(RefusedError, "--layers=2; give 4"):
      arms.models(quick)
    quick = arms.with_defaults(quick, {"study", "quick"})
    self.assertEqual((quick.layers, quick.seeds), (4, 1))
    arms.models(quick)


class CommandLineTest(Folders):
  def test_refusals_are_one_message(self):
    for argument, message in (
      ("--norm=in", "--norm=in cannot be trained"),
      ("--task=copy", "--dataset has no effect with --task=copy"),
    ):
      output = programs.output(
        programs.start("transformer", "--dataset=letters", argument, "--quick"),
        1,
      )
      # The last line: without kernels, a line about them comes before.
      self.assertStartsWith(output.splitlines()[-1], message)
      self.assertNotIn("Traceback", output)


def _record(result):
  """Returns a record that ends in the result."""
  names = {
    "final_val_loss": "val_loss",
    "final_val_loss_batch_statistics": "val_loss_batch_statistics",
    "largest_logit": "largest_logit",
  }
  return {names[key]: result[key] for key in names if key in result}


if __name__ == "__main__":
  absltest.main()
