"""The claims fail without their effects, and a small net learns."""

import contextlib
import io
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab import study
from experiments.lab.errors import RefusedError
from experiments.segmentation import __main__ as segmentation
from experiments.segmentation import scenes
from experiments.segmentation.options import BATCHES, NORMS, Config
from experiments.segmentation.training import MEASURED, Trainer, train

SEEDS = 20


def numbers(mean):
  """Returns a made-up number per seed; other means have other noise."""
  noise = np.random.default_rng(round(1000 * mean)).normal(size=SEEDS)
  return mean + 0.1 * noise


def made_up(**changes):
  """Returns results in which every effect is there, but for the changes.

  Args:
    **changes: Means that are replaced, as `norm_size_key`; a size
      of 0 stands for the same light.
  """
  means = {f"{norm}_{size}_{key}": level
    for norm in NORMS for size in BATCHES
    for key, level in (("crops", 80.0), ("whole", 84.0), ("changed", 2.0))
  } | {
    "bn_2_crops": 60.0,
    "bn_2_crops, re-estimated": 66.0,
    "bn_2_crops, batch": 75.0,
    "bn_2_changed": 0.5,
    "gn_0_crops": 86.0,
    "bn_0_crops": 87.0,
  } | changes  # fmt: skip
  arms: dict = {}
  for name, mean in means.items():
    norm, size, key = name.split("_")
    arms.setdefault((norm, int(size)), {})[key] = numbers(mean)
  return arms, {norm: arms.pop((norm, 0)) for norm in ("gn", "bn")}


def verdicts(arms, controls):
  with tempfile.TemporaryDirectory() as folder:
    run = study.Run(pathlib.Path(folder))
    with contextlib.redirect_stdout(io.StringIO()):
      segmentation.judge(arms, controls, run)
    return {finding.claim: finding.verdict for finding in run.findings()}


class ClaimsTest(parameterized.TestCase):
  def test_effects_that_are_there(self):
    names = [claim.name for claim in segmentation.CLAIMS]
    self.assertEqual(verdicts(*made_up()), dict.fromkeys(names, "CONFIRMED"))

  @parameterized.parameters(
    ("gn_beats_bn_at_2", {"bn_2_crops": 78.0}, "SMALLER THAN CLAIMED"),
    ("gn_beats_bn_at_2", {"bn_2_crops": 82.0}, "REFUTED"),
    ("lead_grows", {"bn_16_crops": 58.0}, "REFUTED"),
    ("lead_grows", {"bn_16_crops": 62.0}, "SMALLER THAN CLAIMED"),
    ("bn_gap_at_2", {"bn_2_crops, batch": 60.0}, "UNRESOLVED"),
    ("bn_gap_at_2", {"bn_2_crops, batch": 50.0}, "REFUTED"),
    ("bn_reestimated_at_2", {"bn_2_crops, re-estimated": 59.0}, "REFUTED"),
    ("whole_scenes_gn", {"gn_2_whole": 75.0}, "REFUTED"),
    ("whole_scenes_in", {"in_2_whole": 80.5}, "SMALLER THAN CLAIMED"),
    ("changed_by_area", {"bn_2_changed": 2.0}, "UNRESOLVED"),
    ("changed_by_area", {"bn_2_changed": 3.0}, "REFUTED"),
    ("same_light", {"bn_0_crops": 70.0}, "REFUTED"),
  )
  def test_effects_that_are_not(self, claim, changes, expected):
    self.assertEqual(verdicts(*made_up(**changes))[claim], expected)


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"crop": 22}, "--crop must be a multiple of 4"),
    ({"side": 40}, "--side a multiple of --crop"),
    ({"hidden": (8, 18)}, "multiple of 4, because group norm"),
    ({"examples": 15}, "--examples must be at least 16"),
  )
  def test_settings_that_do_not_fit(self, settings, message):
    with self.assertRaisesRegex(RefusedError, message):
      Config(**settings).check()

  def test_flags_without_effect(self):
    self.assertEqual({*Config().unused()}, {"halve", "data_dir"})
    self.assertEmpty(Config(dataset="mnist").unused())
    self.assertIn("halve", Config(dataset="digits").unused())

  def test_digits_take_more_crops(self):
    self.assertLess(Config().crops, Config(dataset="digits").crops)
    self.assertEqual(Config(dataset="digits", examples=64).crops, 64)


class TrainingTest(absltest.TestCase):
  def test_a_small_net_learns(self):
    config = Config(
      examples=64, crop=8, side=16, hidden=(8,), test=8, lighting=0.0, epochs=2
    )
    task = scenes.shapes(scenes.Look(config.side, config.lighting))
    with jax.numpy_dtype_promotion("standard"):  # Of optax.
      trainer = Trainer("bn", config, len(task.classes))
      found = train(trainer, 2, task, [0.03, 1e-9], [0, 1])
      large = train(trainer, 16, task, [0.03], [0])
    for name in ("missed", "crops, batch", *MEASURED):
      self.assertEqual(found[name].shape, (2, 2), name)
    self.assertEqual(found["shown"].shape[2:], (3, 16, 16))
    # Learned, beside a net that is not trained.
    learned, untrained = found["missed"]
    self.assertLess(learned.max(), untrained.min() - 5)
    self.assertGreater(found["crops"][0].min(), 40)
    # Untrained, running statistics are the initial ones, so re-estimated ones
    # differ; with those of each batch the answers are others again.
    kinds = ("crops", "crops, re-estimated", "crops, batch")
    self.assertLen({float(found[kind][0, 0]) for kind in kinds}, 3)
    # Both batch sizes train on the same crops, but not alike.
    self.assertNotEqual(large["missed"][0, 0], learned[0])


if __name__ == "__main__":
  absltest.main()
