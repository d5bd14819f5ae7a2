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

from experiments.lab import options, study
from experiments.lab.errors import RefusedError
from experiments.lab.runs import files
from experiments.lab.runs.checkpoints import Checkpoints
from experiments.lab.runs.workdir import Files, WorkdirError
from experiments.transformer import __main__ as transformer
from experiments.transformer import studies
from experiments.transformer.options import QUICK, Config
from tests.experiments import programs

SMALL = {**QUICK, "layers": 1, "width": 8, "context": 8, "steps": 4}
SMALL["eval_every"] = 2


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
    self.assertIn("bn sees later positions through its statistics", output)
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
    self.assertNotIn("sees later positions", output)
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
    ({"study": "depth", "layers": 7}, "--layers=7; give 8"),
    (
      {"study": "norms", "seed": 998, "seeds": 3},
      r"seeds \[1000\] choose learning rates",
    ),
  )
  def test_refuses_before_anything_is_made(self, settings, message):
    with self.assertRaisesRegex(RefusedError, f"(?s){message}"):
      run(**settings)
    self.assertEqual([path.name for path in self.folder.iterdir()], ["letters"])


class CompleteTest(parameterized.TestCase):
  """What the command line makes of a study and its presets."""

  @parameterized.parameters(*studies.STUDIES)
  def test_a_study_has_its_own_settings(self, name):
    chosen = studies.STUDIES[name]
    config = Config(study=name.removeprefix("transformer_"))
    self.assertEqual(studies.complete(config, {"study"}), chosen.config)
    confirmed = studies.complete(config, {"study", "confirm"})
    expected = {**dataclasses.asdict(chosen.config), **chosen.confirm}
    self.assertEqual(dataclasses.asdict(confirmed), expected)
    first = 140 if name == "transformer_warmup_tuned" else 120
    self.assertEqual(confirmed.seed_numbers[0], first)
    few = "batch_norm" in name
    self.assertLen(confirmed.seed_numbers, 10 if few else 20)

  @parameterized.parameters(
    *(name for name, chosen in studies.STUDIES.items() if chosen.sensitivity)
  )
  def test_sensitivity_is_that_of_the_study(self, name):
    chosen = studies.STUDIES[name]
    config = Config(study=name.removeprefix("transformer_"))
    self.assertIs(studies.selected(config), chosen)
    varied = studies.complete(config, {"study", "sensitivity"})
    self.assertEqual(varied.seed_numbers, range(120, 140))
    self.assertContainsSubset(chosen.sensitivity, studies.varied())
    options.refuse_unused(varied, {"study", "sensitivity"})

  def test_sensitivity_needs_headline_claims(self):
    for name, reason in (
      ("none", "without a --study"),
      ("depth", "which has no headline claims"),
    ):
      with self.assertRaisesRegex(RefusedError, f"--sensitivity .* {reason}"):
        options.refuse_unused(Config(study=name), {"sensitivity"})

  def test_the_command_line_wins(self):
    config = Config(study="norms", seeds=3, layers=2)
    config = studies.complete(config, {"study", "confirm", "seeds", "layers"})
    self.assertEqual((config.seeds, config.seed, config.layers), (3, 120, 2))
    quick = studies.complete(Config(study="depth"), {"study", "quick"})
    self.assertEqual((quick.layers, quick.width), (8, 8))

  @parameterized.parameters(
    (Config(), set(), 250),
    (Config(steps=200), {"steps"}, 20),
    (Config(steps=5000), {"steps"}, 250),
    (Config(steps=7), {"steps"}, 1),
    (Config(steps=200, eval_every=150), {"steps", "eval_every"}, 150),
    (Config(**QUICK), {"quick"}, 10),
  )
  def test_short_trainings_have_a_curve_too(self, config, given, expected):
    self.assertEqual(studies.complete(config, given).eval_every, expected)


class CommandLineTest(Folders):
  def test_refusals_are_one_message(self):
    sensitivity = ("--study=norms", "--sensitivity", "--seed=1000")
    for arguments, message in (
      (["--norm=in"], "--norm=in cannot be trained"),
      (["--task=copy"], "--dataset has no effect with --task=copy"),
      (sensitivity, r"The seeds [1000, 1001] choose learning rates"),
    ):
      output = programs.output(
        programs.start(
          "transformer", "--dataset=letters", "--quick", *arguments
        ),
        1,
      )
      # The last line: without kernels, a line about them comes before.
      self.assertStartsWith(output.splitlines()[-1], message)
      self.assertNotIn("Traceback", output)


if __name__ == "__main__":
  absltest.main()
