"""The study of detectors: every claim can fail; scenes, nets and training."""

import contextlib
import dataclasses
import functools
import io
import pathlib
import tempfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.detection import __main__ as detection
from experiments.detection import backbone, grid, scenes
from experiments.detection.average_precision import average_precision, iou
from experiments.detection.config import (
  CHECKS,
  FINE_TUNED,
  LEARNED,
  SHOWN,
  SIZES,
  Config,
)
from experiments.detection.nets import Backbone, Detector
from experiments.detection.training import Trainer
from experiments.lab import study
from experiments.lab.data import arrays
from experiments.lab.data.batch import Batch
from experiments.lab.errors import RefusedError
from normjax.linen import make_norm

SEEDS = 20


def pool():
  found = arrays.load_pool("digits")
  return found._replace(examples=jax.tree.map(jnp.asarray, found.examples))


def arm(precision, reestimated=None, seed=0):
  rng = np.random.default_rng(seed)
  ap = np.repeat(rng.normal(precision, 0.01, (SEEDS, 1)), CHECKS, axis=1)
  ap[:, :-1] = rng.uniform(size=(SEEDS, CHECKS - 1))  # Of no influence.
  last = precision if reestimated is None else reestimated
  change = np.zeros(SEEDS)
  return {
    "ap": ap,
    "reestimated": rng.normal(last, 0.01, SEEDS),
    "change": change,
  }


def made_up(again=0.8, reestimated=0.5, **changed):
  precisions = {
    ("none", 16): 0.5, ("bn", 16): 0.8, ("gn", 16): 0.75, ("trained", 16): 0.85,
    ("frozen", 16): 0.86, ("none", 2): 0.4, ("bn", 2): 0.5, ("gn", 2): 0.7,
    ("trained", 2): 0.6, ("frozen", 2): 0.8,
  } | {(n[:-3] if n.endswith("_16") else n[:-2], int(n.split("_")[-1])): v
       for n, v in changed.items()}  # fmt: skip
  arms = {
    key: arm(value, reestimated if key == ("bn", 2) else None, seed)
    for seed, (key, value) in enumerate(precisions.items())
  }
  return arms, arm(again, seed=99)


class ClaimsTest(parameterized.TestCase):
  def verdicts(self, arms, again):
    with tempfile.TemporaryDirectory() as folder:
      run = study.Run(pathlib.Path(folder))
      run.settings = dataclasses.asdict(Config())
      with contextlib.redirect_stdout(io.StringIO()):
        detection.judge(arms, again, run)
      return {finding.claim: finding.verdict for finding in run.findings()}

  def test_effects_that_are_there(self):
    names = [claim.name for claim in detection.CLAIMS]
    self.assertEqual(
      self.verdicts(*made_up()), dict.fromkeys(names, "CONFIRMED")
    )

  @parameterized.parameters(
    ("faster_bn", {"bn_16": 0.55}, "SMALLER THAN CLAIMED"),
    ("faster_gn", {"gn_16": 0.4}, "REFUTED"),
    ("gn_at_2", {"bn_2": 0.75}, "REFUTED"),
    ("gn_at_2_reestimated", {"reestimated": 0.68}, "SMALLER THAN CLAIMED"),
    ("frozen_alike_at_16", {"frozen_16": 0.7}, "REFUTED"),
    ("frozen_alike_at_16", {"frozen_16": 0.95}, "REFUTED"),
    ("frozen_better_at_2", {"frozen_2": 0.5}, "REFUTED"),
    ("control", {"again": 0.9}, "REFUTED"),
  )
  def test_an_effect_that_is_not(self, claim, changed, expected):
    self.assertEqual(self.verdicts(*made_up(**changed))[claim], expected)


class ScenesTest(parameterized.TestCase):
  def draw(self, count, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    chosen = np.random.default_rng(seed).integers(0, 1797, (count, 3))
    every = scenes.digits(pool())
    draw = lambda key, own: scenes.scene(key, every.some(own), 48, (12, 24))
    return jax.jit(jax.vmap(draw))(keys, chosen)

  def test_a_box_is_where_the_ink_is(self):
    images, objects, there = map(np.asarray, self.draw(200))
    alone = there.sum(axis=1) == 1
    self.assertBetween(alone.sum(), 40, 90)
    for image, (y, x, height, width, _) in zip(
      images[alone, ..., 0], objects[alone, 0], strict=True
    ):
      rows, columns = ((image > 0.1).any(axis=axis) for axis in (1, 0))
      ink = [np.flatnonzero(inked) for inked in (rows, columns)]
      edges = [y - height / 2, y + height / 2, x - width / 2, x + width / 2]
      found = [ink[0][0], ink[0][-1] + 1, ink[1][0], ink[1][-1] + 1]
      np.testing.assert_allclose(found, edges, atol=4)
      self.assertLess(np.abs(np.subtract(found, edges)).mean(), 2)
      self.assertBetween(max(height, width), 12, 24)
    self.assertBetween(images.min(), 0, 1e-6)
    self.assertBetween(images.max(), 0.9, 1 + 1e-5)

  def test_digits_are_inside_and_hardly_overlap(self):
    _, objects, there = map(np.asarray, self.draw(200, seed=1))
    middle, size = objects[there][:, :2], objects[there][:, 2:4]
    self.assertGreater((middle - size / 2).min(), -1e-4)
    self.assertLess((middle + size / 2).max(), 48 + 1e-4)
    both = there[:, 1]
    overlap = iou(objects[both, 0, :4], objects[both, 1, :4])
    self.assertLess((overlap > 0.3).mean(), 0.02)
    self.assertGreater(size.max() / size.min(), 2)

  def test_a_seed_draws_the_same_from_disjoint_digits(self):
    sizes = scenes.Sizes(30, 20, 20, 48, (12.0, 24.0))
    one, other = (
      scenes.load(pool(), sizes, seeds, 2) for seeds in ([3], [1, 3])
    )
    for first, second in zip(
      (one.train, one.validation, one.test),
      (other.train, other.validation, other.test),
      strict=True,
    ):
      chex.assert_trees_all_equal(first.lane(0), second.lane(1))
      chex.assert_trees_all_equal(first.lane(0), second.lane(3))
    lanes = [part.lane(0).inputs for part in (one.train, one.test)]
    self.assertFalse(np.array_equal(lanes[0][:20], lanes[1]))
    split = pool().split([3])
    _, chosen = scenes._choice(split, sizes, 0, 3)
    self.assertEqual(chosen.shape, (70, 3))
    parts = np.split(np.asarray(chosen), [30, 50])
    for part, own in zip(
      parts, (split.train, split.validation, split.test), strict=True
    ):
      self.assertContainsSubset(part.ravel().tolist(), own.chosen[0].tolist())


class GridTest(absltest.TestCase):
  def outputs(self, batch):
    """Returns the outputs of a detector that knows everything."""
    outputs = np.zeros((len(batch.targets), 6, 6, 15), np.float32)
    outputs[..., 0] = -20
    cells, boxes = map(np.asarray, grid.encoded(batch.targets[..., :4]))
    for image, place in zip(*np.nonzero(batch.counted), strict=True):
      own = outputs[(image, *cells[image, place])]
      own[0], own[1:5] = 20, boxes[image, place]
      own[5:] = 0
      own[5 + int(batch.targets[image, place, 4])] = 20
    return outputs

  def batch(self):
    targets = np.zeros((2, 3, 5), np.float32)
    targets[0, 0] = [10, 30, 12, 9, 4]
    targets[0, 1] = [40, 20.5, 16, 20, 0]
    targets[1, 0] = [24, 24, 24, 8, 9]
    counted = np.array([[True, True, False], [True, False, False]])
    return Batch(np.zeros((2, 48, 48, 1), np.uint8), targets, counted)

  def test_what_is_encoded_is_found(self):
    batch = self.batch()
    found = grid.detections(self.outputs(batch))
    self.assertLen(found.scores, 3)
    self.assertEqual(average_precision(found, grid.true(batch)), 1)
    np.testing.assert_allclose(
      np.sort(found.boxes, axis=0), np.sort(grid.true(batch).boxes, axis=0),
      rtol=1e-5,
    )  # fmt: skip

  def test_loss_against_a_loop(self):
    batch = self.batch()
    outputs = np.random.default_rng(0).normal(size=(2, 6, 6, 15))

    class Model:
      def apply(self, *args, **kwargs):
        return jnp.asarray(outputs, jnp.float32), {}

    loss, _, sums = grid.loss(lambda x: x)(
      Model(), {}, batch, jax.random.key(0), True
    )
    occupied = np.zeros((2, 6, 6))
    cells, boxes = map(np.asarray, grid.encoded(batch.targets[..., :4]))
    classes = huber = 0.0
    for image, place in zip(*np.nonzero(batch.counted), strict=True):
      at = (image, *cells[image, place])
      occupied[at] = 1
      logits = outputs[at][5:]
      label = int(batch.targets[image, place, 4])
      classes += np.log(np.exp(logits).sum()) - logits[label]
      for a in np.abs(outputs[at][1:5] - boxes[image, place]):
        huber += a**2 / 2 if a < 0.25 else 0.25 * (a - 0.125)
    score = outputs[..., 0]
    scores = (np.log1p(np.exp(score)) - occupied * score).sum()
    self.assertAlmostEqual(float(sums["score"]), scores, places=3)
    self.assertAlmostEqual(float(sums["class"]), classes, places=3)
    self.assertAlmostEqual(float(sums["box"]), grid.BOXES * huber, places=3)
    self.assertEqual(float(sums["count"]), 3)
    self.assertAlmostEqual(float(loss), float(sums["loss"]) / 3, places=4)

  def test_a_perfect_detector_has_no_loss(self):
    batch, outputs = self.batch(), self.outputs(self.batch())

    class Model:
      def apply(self, *args, **kwargs):
        return jnp.asarray(outputs), {}

    loss, _, _ = grid.loss(lambda x: x)(
      Model(), {}, batch, jax.random.key(0), True
    )
    self.assertLess(float(loss), 1e-3)


class NetsTest(absltest.TestCase):
  def test_a_norm_after_every_convolution_of_the_backbone(self):
    model = Detector(functools.partial(make_norm, "bn"), (4, 4, 8, 8))
    shapes = jax.eval_shape(
      functools.partial(model.init, train=False),
      jax.random.key(0),
      jnp.zeros((1, 48, 48, 1)),
    )
    self.assertEqual(
      sorted(shapes["batch_stats"]["backbone"]),
      [f"BatchNorm_{number}" for number in range(4)],
    )
    kernel = shapes["params"]["backbone"]["Conv_0"]["kernel"]
    self.assertEqual(kernel.shape, (7, 7, 1, 4))
    self.assertEqual(
      {name: [*conv] for name, conv in shapes["params"]["backbone"].items()},
      {f"Conv_{n}": ["kernel"] for n in range(4)}
      | {f"BatchNorm_{n}": ["bias", "scale"] for n in range(4)},
    )

  def test_the_stem_is_that_of_resnet(self):
    seen = []

    def norm(train):
      del train

      def record(x):
        seen.append(x.shape)
        return x

      return record

    jax.eval_shape(
      functools.partial(Backbone(norm, (4, 4, 8, 8)).init, train=True),
      jax.random.key(0),
      jnp.zeros((1, 48, 48, 1)),
    )
    self.assertEqual(
      seen, [(1, 24, 24, 4), (1, 12, 12, 4), (1, 6, 6, 8), (1, 6, 6, 8)]
    )


class TrainingTest(parameterized.TestCase):
  def test_pre_trained_and_frozen(self):
    config = Config(seeds=1, train=32, test=16, steps=10, hidden=(8, 8, 8, 8))
    trainer = Trainer(config, pool())
    with jax.numpy_dtype_promotion("standard"):  # Of optax.
      first = trainer.pretrain([0.01], [0])
      handed = {name: values[0] for name, values in first.items()}
      part = trainer.train(("frozen", 16), lambda seeds: handed, [0.01], [0])
    norms = [name for name in first if "BatchNorm" in name]
    self.assertLen(norms, 4 * 4)
    for name in norms:
      start = float(name.endswith(("scale", "var")))
      self.assertGreater(np.abs(first[name] - start).max(), 1e-3)
    self.assertEqual(part["change"].item(), 0)
    self.assertEqual(part["ap"].shape, (1, 1, CHECKS))
    self.assertEqual(part["outputs"].shape, (1, 1, SHOWN, 5, 5, 15))
    self.assertBetween(part["validation"].item(), 0.5, 1)

  def test_changes_of_norms(self):
    variables = {
      "params": {"Conv_0": jnp.ones((2, 3)), "BatchNorm_0": jnp.ones((2, 3))},
      "batch_stats": {"BatchNorm_0": jnp.zeros((2, 3))},
    }
    other = jax.tree.map(jnp.copy, variables)
    other["params"]["Conv_0"] += 9
    other["params"]["BatchNorm_0"] = jnp.ones((2, 3)).at[0, 1].add(-0.5)
    other["batch_stats"]["BatchNorm_0"] = jnp.zeros((2, 3)).at[1, 2].set(2)
    changes = backbone.changes(backbone.norms(variables), backbone.norms(other))
    np.testing.assert_array_equal(changes, [0.5, 2])

  @parameterized.parameters({"canvas": 50}, {"hidden": (8, 8)}, {"train": 8})
  def test_refuses(self, **setting):
    with self.assertRaises(RefusedError):
      Config(**setting).check()

  def test_every_arm_has_a_name(self):
    self.assertEqual(
      {(kind, size) for kind in (*LEARNED, *FINE_TUNED) for size in SIZES},
      {*made_up()[0]},
    )


if __name__ == "__main__":
  absltest.main()
