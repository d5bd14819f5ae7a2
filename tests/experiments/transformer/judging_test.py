"""Criteria of the studies can fail: controls in which the effect is absent."""

import contextlib
import dataclasses
import io
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab import study
from experiments.lab.data import sequences
from experiments.lab.runs.workdir import Files
from experiments.transformer import (
  batch_norm,
  depth,
  norms,
  studies,
  sweep,
  warmup,
  warmup_tuned,
)

TASK = sequences.load("copy", dataset="", data_dir=None, context=8)
GUESSING = np.log(11)
NOISE = 0.001 * np.array([0.0, 1.0, -1.0, 2.0, -2.0])  # Five seeds.


class Runs(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )
    self.run_ = study.Run(self.folder)
    self.output = io.StringIO()
    self.enter_context(contextlib.redirect_stdout(self.output))
    # Optax's Adam mixes integers and floats.
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  def verdicts(self):
    return {found.claim: found.verdict for found in self.run_.findings()}

  def settings(self, name, **changes):
    """Returns the smallest settings of a study, on a text of eight letters."""
    letters = np.random.default_rng(0).integers(97, 105, 1000, np.uint8)
    path = self.folder / "letters"
    path.write_bytes(bytes(letters))
    chosen = studies.STUDIES[f"transformer_{name}"]
    return dataclasses.replace(
      chosen.config,
      **{**chosen.quick, "dataset": str(path), "seeds": 2, **changes},
    )

  def text(self, config):
    return sequences.load(
      "lm", dataset=config.dataset, data_dir=None, context=config.context
    )


def trained(config, task, more):
  """Returns the results `[seeds]` of a real training."""
  found = sweep.train(config, task, [0.01], config.seed_numbers, more)
  return {name: values[0] for name, values in found.items()}


def losses(level, **others):
  """Returns the results of an arm: a loss per seed, around a level."""
  return {"test": level + NOISE, **others}


WARMUP = {
  ("pre", 0): 1.50, ("pre", 100): 1.51, ("post", 0): 2.3, ("post", 100): 1.8
}  # fmt: skip


class WarmupTest(Runs):
  def judge(self, best=WARMUP, equal=WARMUP):
    found = [
      {
        arm: losses(level + shift * NOISE)
        for shift, (arm, level) in zip(
          (2, 3, 5, 9), levels.items(), strict=True
        )
      }
      for levels in (best, equal)
    ]
    warmup.judge(*found, TASK, self.run_)
    return self.verdicts()

  def test_the_effects(self):
    self.assertEqual({*self.judge().values()}, {"CONFIRMED"})

  @parameterized.parameters(
    ({"equal": {("post", 0): 1.4}}, "post_worse_without_warmup", "REFUTED"),
    ({"equal": {("post", 0): 1.7}}, "post_worse_without_warmup", "SMALLER"),
    ({"equal": {("post", 100): 2.5}}, "warmup_helps_post", "REFUTED"),
    # With warm-up both are worse, and as far apart as without.
    (
      {"equal": {("post", 100): 2.32, ("pre", 100): 1.54}},
      "warmup_helps_post",
      "SMALLER",
    ),
    ({"best": {("pre", 0): 1.6}}, "pre_needs_no_warmup", "REFUTED"),
    ({"best": {("post", 100): 1.4}}, "post_tuned_worse", "REFUTED"),
  )
  def test_without_an_effect(self, changes, claim, verdict):
    found = self.judge(
      **{which: {**WARMUP, **arms} for which, arms in changes.items()}
    )
    self.assertStartsWith(found[claim], verdict)
    others = {name: v for name, v in found.items() if name != claim}
    self.assertIn("CONFIRMED", others.values())

  def test_all_that_diverge_are_alike(self):
    """The loss of guessing is that of everything that fails."""
    found = self.judge(equal=dict.fromkeys(WARMUP, np.nan))
    self.assertEqual(found["post_worse_without_warmup"], "UNRESOLVED")
    values = self.run_.findings()[0].values
    np.testing.assert_allclose([*values.values()], GUESSING)


class WarmupTunedTest(Runs):
  @parameterized.parameters(
    (1.9, "CONFIRMED"),
    (1.97, "SMALLER"),
    (2.0, "UNRESOLVED"),
    (2.1, "REFUTED"),
    (np.nan, "REFUTED"),  # The loss of guessing is above 2.
  )
  def test_loss_with_warmup(self, level, verdict):
    found = {
      ("post", 0): losses(2 + NOISE),
      ("post", 100): losses(level + 2 * NOISE),
    }
    warmup_tuned.judge(found, TASK, self.run_)
    self.assertStartsWith(self.verdicts()["post_gains"], verdict)


class DepthTest(Runs):
  def judge(self, post, pre):
    depths = np.array([6, 8, 10])
    seeds = 1 + NOISE[:, None]
    found = {
      (placement, init): seeds * depths ** (exponent + NOISE[:, None])
      for init in depth.INITS
      for placement, exponent in (("post", post), ("pre", pre))
    }
    depth.judge(depths, found, self.run_)
    return self.verdicts()

  def test_the_effects(self):
    self.assertEqual({*self.judge(0.0, -0.5).values()}, {"CONFIRMED"})

  def test_swapped_placements(self):
    found = self.judge(-0.5, 0.0)
    self.assertLen(found, 4)
    self.assertEqual({*found.values()}, {"REFUTED"})

  def test_one_placement_cannot_pass_as_both(self):
    """Initialized alike, without a norm, so that the claims contradict."""
    config = self.settings("depth", layers=8, norm=("none",), seeds=5)
    task = self.text(config)
    depths = np.array([2, 4])
    found = np.stack(
      [
        depth.gradient_norms(
          dataclasses.replace(config, layers=layers, kernel_init="lecun"), task
        )
        for layers in depths.tolist()
      ],
      axis=1,
    )
    self.assertEqual(found.shape, (5, 2))
    depth.judge(depths, dict.fromkeys(depth.CLAIMS, found), self.run_)
    for init in depth.INITS:
      pair = {self.verdicts()[f"{p}_exponent_{init}"] for p in ("pre", "post")}
      self.assertNotEqual(pair, {"CONFIRMED"})


NORMS = {"ln": 1.5, "rms": 1.5, "none": 1.9, "plain": 2.2, "qk": 1.6}


class NormsTest(Runs):
  def judge(self, levels=NORMS, plain=900.0, qk=20.0):
    found = {
      name: losses(level + shift * NOISE)
      for shift, (name, level) in enumerate(levels.items(), 2)
    }
    found["plain"]["largest_logit"] = plain * (1 + NOISE)
    found["qk"]["largest_logit"] = qk * (1 + 2 * NOISE)
    norms.judge(found, TASK, self.run_)
    return self.verdicts()

  def test_the_effects(self):
    self.assertEqual({*self.judge().values()}, {"CONFIRMED"})

  @parameterized.parameters(
    ("rms", 1.55, "rms_as_good_as_ln"),
    ("none", 1.49, "none_worse_than_ln"),
    ("qk", 2.25, "qk_trains_at_high_rate"),
  )
  def test_without_an_effect(self, name, level, claim):
    self.assertEqual(self.judge({**NORMS, name: level})[claim], "REFUTED")

  def test_logits_without_an_effect(self):
    self.assertEqual(self.judge(qk=990.0)["qk_bounds_logits"], "REFUTED")

  def test_diverged_logits_show_no_bound(self):
    """If both diverge, neither bounds anything."""
    found = self.judge(plain=np.nan, qk=np.nan)
    self.assertNotEqual(found["qk_bounds_logits"], "CONFIRMED")

  def test_layer_norm_in_all_places(self):
    """Trained alike, none is worse than another."""
    # Equal numbers are judged by ranks, which takes ten seeds.
    config = self.settings("norms", steps=2, seeds=10)
    task = self.text(config)
    found = trained(config, task, norms.more(task))
    norms.judge(dict.fromkeys(NORMS, found), task, self.run_)
    found = self.verdicts()
    self.assertEqual(found.pop("rms_as_good_as_ln"), "CONFIRMED")
    self.assertNotIn("CONFIRMED", found.values())


BATCH_NORM = {
  "ln": {"test": 1.5, "reestimated": 1.5, "of_each_batch": 1.5},
  "bn": {"test": 1.9, "reestimated": 1.8, "of_each_batch": 1.4},
}


class BatchNormTest(Runs):
  def judge(self, **changes):
    levels = {**BATCH_NORM, "bn": {**BATCH_NORM["bn"], **changes}}
    found = {
      norm: {
        name: level + shift * NOISE
        for shift, (name, level) in enumerate(level_by_name.items(), count)
      }
      for count, (norm, level_by_name) in enumerate(levels.items())
    }
    found["ln"]["of_each_batch"] = found["ln"]["test"]
    batch_norm.judge(found, TASK, self.run_)
    return self.verdicts()

  def test_the_effects(self):
    self.assertEqual({*self.judge().values()}, {"CONFIRMED"})
    self.assertIn("HOLDS: layer norm", self.output.getvalue())

  @parameterized.parameters(
    ({"of_each_batch": 2.0}, "bn_running_above_batch"),
    ({"test": 1.49}, "bn_worse_running"),
    ({"reestimated": 1.49}, "bn_worse_reestimated"),
  )
  def test_without_an_effect(self, changes, claim):
    self.assertEqual(self.judge(**changes)[claim], "REFUTED")

  def test_the_check_can_fail(self):
    found = {
      norm: {name: level + NOISE for name, level in levels.items()}
      for norm, levels in BATCH_NORM.items()
    }
    found["ln"]["of_each_batch"] = found["ln"]["test"] + 1e-3
    batch_norm.judge(found, TASK, self.run_)
    self.assertIn("FAILS: layer norm", self.output.getvalue())

  def test_layer_norm_in_the_place_of_batch_norm(self):
    """Trained alike, it is no worse: the claims must not hold."""
    config = self.settings("batch_norm", steps=2)
    task = self.text(config)
    found = trained(config, task, batch_norm.more(task))
    batch_norm.judge({"ln": found, "bn": found}, task, self.run_)
    self.assertNotIn("CONFIRMED", self.verdicts().values())
    self.assertIn("HOLDS: layer norm", self.output.getvalue())


class MeasureTest(Runs):
  """From the settings to the figure, without the training."""

  @parameterized.parameters(*studies.STUDIES)
  def test_leaves_its_results(self, name):
    config = self.settings(
      name.removeprefix("transformer_"), seeds=3, tuning_seeds=2
    )
    chosen = studies.STUDIES[name]
    trainings = []

    def train(config, task, rates, seeds, more=None):
      trainings.append((*rates, *seeds))
      far = np.abs(np.log10(rates) + 2.5)[:, None] + 0.01 * np.arange(
        len(seeds)
      )
      names = "validation", "test", "reestimated"
      names += "of_each_batch", "largest_logit"
      curve = np.repeat((1 + far)[..., None], 3, axis=-1)
      return {"loss": curve, **dict.fromkeys(names, 1 + far)}

    def gradient_norms(config, task):
      return 1 + 0.1 * np.arange(config.seeds)

    def run():
      where = Files(str(self.folder / "w"), resume=True)
      return study.run("transformer", chosen.measure, config, where)

    with (
      mock.patch.object(sweep, "train", train),
      mock.patch.object(depth, "gradient_norms", gradient_norms),
    ):
      summary = run()
    found = [finding["claim"] for finding in summary["findings"]]
    self.assertEqual(found, [claim.name for claim in chosen.claims])
    self.assertLen(summary["checks"], len(chosen.checks))
    for figure in summary["figures"]:
      self.assertTrue((self.folder / "w" / figure).exists())
    for choice in summary["rates"].values():
      self.assertTrue(choice["interior"])
      self.assertAlmostEqual(choice["rate"], 10**-2.5)
    for lanes in trainings:  # A seed chooses or is judged, never both.
      self.assertLen({seed >= 1000 for seed in lanes if seed == int(seed)}, 1)

  def test_names_of_claims_are_unique(self):
    """One command, `--help` and registration list all of them."""
    names = [c.name for entry in studies.STUDIES.values() for c in entry.claims]
    self.assertLen({*names}, len(names))


if __name__ == "__main__":
  absltest.main()
