"""The study of a stream: the stream, the norms, the errors and the claims."""

import contextlib
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from experiments.lab import study
from experiments.lab.data import arrays
from experiments.lab.errors import RefusedError
from experiments.online import __main__ as online
from experiments.online import claims, drawing, errors, task, training
from experiments.online.nets import PatchNet, StreamNorm
from experiments.online.training import Config
from normjax import linen

SEEDS, SEGMENT = 20, 200
PARTS = SEGMENT // training.MANY  # Of a segment.


def digits():
  pool = arrays.load_pool("digits", test=50)
  return pool._replace(examples=jax.tree.map(jnp.asarray, pool.examples))


def arm(error, jumps=None, seed=0):
  """Returns a made-up arm.

  Args:
    error: Its error, in percent.
    jumps: Its error after jumps of the light; None for `error`.
    seed: Of the noise.
  """
  rng = np.random.default_rng(seed)
  wrong = rng.normal(error, 0.3, (SEEDS, len(task.SEGMENTS), PARTS))
  after = training.AFTER // training.MANY
  if jumps is not None:
    wrong[:, task.numbers("light"), :after] += jumps - error
  return {"wrong": wrong.reshape(SEEDS, -1)}


def made_up(**changed):
  """Returns arms whose claimed effects are all there, but for those changed."""
  whole = {
    "vectors": {
      "none": (16, 30), "none, again": (16, 30), "ln": (10, 12),
      "acc": (10, 12), "bn20": (10, 10),
    },
    "maps": {
      "none": (15, 25), "ln": (12, 14), "in": (7, 8), "bn": (7, 20),
      "brn": (8, 10), "bn20": (12, 20),
    },
  }  # fmt: skip
  found = {
    (net, norm): arm(*settings, seed=number)
    for net, arms in whole.items()
    for number, (norm, settings) in enumerate(arms.items())
  }
  for name, settings in changed.items():
    net, _, norm = name.partition("_")
    found[net, norm.replace("_", ", ")] = arm(*settings, seed=99)
  return found


class ClaimsTest(parameterized.TestCase):
  def verdicts(self, found):
    with tempfile.TemporaryDirectory() as folder:
      run = study.Run(pathlib.Path(folder))
      with contextlib.redirect_stdout(io.StringIO()):
        claims.judge(found, run)
      return {finding.claim: finding.verdict for finding in run.findings()}

  def test_effects_that_are_there(self):
    names = [claim.name for claim in claims.CLAIMS]
    found = self.verdicts(made_up())
    self.assertEqual(found, dict.fromkeys(names, "CONFIRMED"))

  @parameterized.parameters(
    ("in_at_one", {"maps_in": (12, 8)}, "SMALLER THAN CLAIMED"),
    ("in_at_one", {"maps_in": (14, 14)}, "REFUTED"),
    ("ln_at_one", {"vectors_ln": (14, 15)}, "REFUTED"),
    ("in_adapts", {"maps_in": (7, 20)}, "SMALLER THAN CLAIMED"),
    ("ln_contrast", {"vectors_ln": (10, 24)}, "UNRESOLVED"),
    ("bn_of_one", {"maps_bn": (7, 10)}, "SMALLER THAN CLAIMED"),
    ("renorm_below_ln", {"maps_brn": (13, 14)}, "REFUTED"),
    ("accumulated_as_ln", {"vectors_acc": (14, 15)}, "REFUTED"),
    ("control", {"vectors_none_again": (19, 30)}, "REFUTED"),
  )
  def test_effects_that_are_not(self, claim, changed, expected):
    self.assertEqual(self.verdicts(made_up(**changed))[claim], expected)


class ErrorsTest(absltest.TestCase):
  """Errors of parts of the stream, counted by hand."""

  def setUp(self):
    super().setUp()
    self.wrong = np.zeros((2, len(task.SEGMENTS), PARTS))

  def part(self):
    return {"wrong": self.wrong.reshape(2, -1)}

  def test_after_and_before_a_change(self):
    self.wrong[:, 1, :5] = 30  # The first light: 100 examples at 30%.
    self.wrong[1, 5, 4] = 100  # The second one: 20 wrong examples of 100.
    self.wrong[0, 0, -1] = 50  # Before the first one: 10 wrong of 100.
    self.wrong[:, 3, :] = 77  # A drift.
    part = self.part()
    np.testing.assert_allclose(errors.after(part, "light"), [10, 50 / 3])
    np.testing.assert_allclose(errors.before(part, "light"), [10 / 3, 0])
    np.testing.assert_allclose(errors.after(part, "drift"), [77 / 3, 77 / 3])
    np.testing.assert_allclose(errors.cost(part, 1), [20, 30])

  def test_whole(self):
    self.wrong[0] = 13
    self.wrong[1, 2, 3] = 13 * PARTS
    np.testing.assert_allclose(errors.whole(self.part()), [13, 1])

  def test_smoothed(self):
    values = np.random.default_rng(0).normal(size=(2, 9))
    expected = [
      values[:, max(0, end - 4) : end].mean(1) for end in range(1, 10)
    ]
    found = drawing.smoothed(values, 4)
    np.testing.assert_allclose(found, np.transpose(expected))


class StreamTest(absltest.TestCase):
  LENGTH = 200

  def setUp(self):
    super().setUp()
    self.pool = digits()
    self.made = task.streams(self.pool, self.LENGTH, [4, 7], rates=2)

  def lane(self, number):
    found = self.made.stream.lane(number)
    return np.asarray(found.inputs), np.asarray(found.targets)

  def test_lanes(self):
    self.assertEqual(self.made.stream.chosen.shape, (4, 13 * self.LENGTH))
    self.assertEqual(self.made.test.chosen.shape, (4, 50))
    for mine, same in ((0, 2), (1, 3)):
      np.testing.assert_array_equal(self.lane(mine)[0], self.lane(same)[0])
    self.assertTrue((self.lane(0)[1] != self.lane(1)[1]).any())
    alone = task.streams(self.pool, self.LENGTH, [7]).stream.lane(0)
    np.testing.assert_array_equal(alone.inputs, self.lane(1)[0])
    np.testing.assert_array_equal(alone.targets, self.lane(1)[1])

  def test_light(self):
    # Every digit has black and, nearly always, white pixels.
    images, _ = self.lane(0)
    images = images.reshape(13, self.LENGTH, -1) / 255
    low, high = np.median(images.min(-1), -1), np.median(images.max(-1), -1)
    for number, segment in enumerate(task.SEGMENTS):
      if segment.kind == "drift":
        continue
      contrast, brightness = segment.last
      self.assertAlmostEqual(low[number], brightness, delta=0.01)
      self.assertAlmostEqual(high[number], brightness + contrast, delta=0.01)
    # Nothing but the contrast changes in the jump of `ln_contrast`.
    before, after = task.SEGMENTS[task.CONTRAST - 1 : task.CONTRAST + 1]
    self.assertEqual(before.last.brightness, after.first.brightness)
    self.assertLess(before.last.contrast, after.first.contrast)

  def test_drift_is_gradual_and_without_a_jump(self):
    for kind in zip(*task.lights(self.LENGTH), strict=True):
      self.assertBetween(sum(kind), 0, 1)
    for number, segment in enumerate(task.SEGMENTS):
      if segment.kind in ("drift", "order", "classes"):
        before = task.SEGMENTS[number - 1].last
        self.assertEqual(before, segment.first)

  def test_order_and_repetition(self):
    labels = np.asarray(self.pool.examples.targets)
    own = np.arange(700)
    indices = task.ordered(own, labels, 100, np.random.default_rng(0))
    self.assertLen(np.unique(indices), 700)
    self.assertEqual(np.bincount(indices).max(), 2)
    parts = labels[indices].reshape(13, 100)
    for part, segment in zip(parts, task.SEGMENTS, strict=True):
      early = {*part[:30]} & {*part[-30:]}
      if segment.kind == "order":
        self.assertEmpty(early)
        self.assertLen({*part[:30]}, 5)
      else:
        self.assertNotEmpty(early)

  def test_names_of_classes(self):
    # By day, an image comes with the label of its digit at first.
    images, names = self.lane(0)
    digit = {
      np.asarray(image).tobytes(): int(label)
      for image, label in zip(
        np.rint(np.asarray(self.pool.prepare(self.pool.examples.inputs)) * 255)
        .astype(np.uint8),
        np.asarray(self.pool.examples.targets), strict=True,
      )
    }  # fmt: skip
    by_day = [
      n for n, s in enumerate(task.SEGMENTS) if s.first == s.last == task.DAY
    ]
    kept = {}
    for number in by_day:
      places = range(number * self.LENGTH, (number + 1) * self.LENGTH)
      pairs = {(digit[images[at].tobytes()], int(names[at])) for at in places}
      self.assertLen(pairs, 10)  # A permutation.
      kept[number] = sum(a == b for a, b in pairs)
    self.assertEqual(kept[0], 10)
    self.assertLess(kept[5], 10)

  def test_no_test_image_is_in_the_stream(self):
    split = self.pool.split([4])
    sets = (split.train, split.validation, split.test)
    drawn = [{*np.asarray(part.chosen[0]).tolist()} for part in sets]
    self.assertEmpty((drawn[0] | drawn[1]) & drawn[2])


class NormsTest(absltest.TestCase):
  def test_stream_norm_against_a_loop(self):
    rng = np.random.default_rng(0)
    xs = rng.normal(3, [1, 2, 5], (60, 1, 3)).astype(np.float32)
    norm = StreamNorm(use_running_average=False, momentum=0.9)
    variables = norm.init(jax.random.key(0), xs[0])
    for count, x in enumerate(xs, 1):
      y, updates = norm.apply(variables, x, mutable=["batch_stats"])
      variables = {**variables, **updates}
      # Mean 0 and variance 1 at first, then every value with its weight.
      weights = 0.1 * 0.9 ** np.arange(count - 1, -1, -1)
      values = xs[:count, 0].astype(np.float64)
      mean = weights @ values
      square = 0.9**count * 1 + weights @ values**2
      var = square - mean**2
      stats = variables["batch_stats"]
      np.testing.assert_allclose(stats["mean"], mean, rtol=1e-4)
      np.testing.assert_allclose(stats["var"], var, rtol=1e-4)
      np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-4)
    # Evaluation is the same function, and keeps the statistics.
    still = StreamNorm(use_running_average=True)
    np.testing.assert_allclose(still.apply(variables, xs[-1]), y, atol=1e-6)

  def test_stream_norm_is_reestimated(self):
    x = jax.random.normal(jax.random.key(1), (40, 3)) * 2 + 1
    norm = StreamNorm(use_running_average=True)
    variables = norm.init(jax.random.key(0), x)
    again = linen.reestimate(norm, variables, [x[:25], x[25:]])["batch_stats"]
    np.testing.assert_allclose(again["mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(again["var"], x.var(0), rtol=1e-5)

  def test_patches_are_a_convolution_with_a_stride(self):
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
    model = PatchNet(norm=training.factory("none"), hidden=(5,), num_classes=4)
    variables = model.init(jax.random.key(1), x, train=False)
    first, second = (variables["params"][f"Dense_{n}"] for n in (0, 1))
    kernel = first["kernel"].reshape(2, 2, 3, 5)
    maps = jax.lax.conv_general_dilated(
      x[:, :8],
      kernel,
      (2, 2),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    maps = np.maximum(np.asarray(maps) + np.asarray(first["bias"]), 0)
    np.testing.assert_allclose(
      model.apply(variables, x, train=True),
      maps.reshape(2, -1) @ np.asarray(second["kernel"])
      + np.asarray(second["bias"]),
      atol=1e-4,
    )

  def test_instance_norm_sees_no_light(self):
    x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 1))
    fog = task.FOG.brightness + task.FOG.contrast * x
    changes = {}
    for norm in ("none", "ln", "in"):
      model = PatchNet(norm=training.factory(norm))
      variables = model.init(jax.random.key(1), x, train=False)
      before, after = (
        model.apply(variables, image, train=True) for image in (x, fog)
      )
      changes[norm] = float(jnp.abs(after - before).max())
    self.assertLess(changes["in"], 0.05)
    self.assertGreater(min(changes["none"], changes["ln"]), 0.2)

  def test_what_is_refused_and_what_is_not(self):
    found = training.refused(Config(segment=40), digits())
    self.assertEqual({*found}, {"bn", "brn", "in"})
    self.assertIn("one value per channel", found["bn"])
    self.assertLess(online.difference(), 1e-5)


class TrainTest(absltest.TestCase):
  CONFIG = Config(segment=20, hidden=(8,), channels=(8,))

  def test_against_a_loop(self):
    """Predict in evaluation, learn in training, example by example."""
    pool, rate = digits(), 0.02
    with jax.numpy_dtype_promotion("standard"):  # Of optax.
      found = training.train("maps", "bn", self.CONFIG, pool, [rate], [3])
    stream = task.streams(pool, 20, [3]).stream.lane(0)
    xs, ys = task.prepare(jnp.asarray(stream.inputs)), stream.targets
    model = training.make_model("maps", "bn", self.CONFIG, 10)
    key, _ = jax.random.split(jax.random.key(3))
    variables = model.init(key, xs[:1], train=False)

    @jax.jit
    def step(variables, x, y):
      def loss(params, train):
        logits, updates = model.apply(
          {**variables, "params": params}, x[None], train=train,
          mutable=["batch_stats"],
        )  # fmt: skip
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(
          logits[0], y
        )
        return losses, (updates, logits[0].argmax() != y)

      params = variables["params"]
      predicted, (_, wrong) = loss(params, False)
      gradient, (updates, _) = jax.grad(loss, has_aux=True)(params, True)
      new = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
      return {"params": new, **updates}, predicted, wrong

    losses, wrong = [], []
    for x, y in zip(xs, jnp.asarray(ys), strict=True):
      variables, *predicted = step(variables, x, y)
      losses.append(predicted[0])
      wrong.append(predicted[1])
    self.assertEqual(found["wrong"].shape, (1, 1, 13))
    self.assertAlmostEqual(
      found["validation"].item(), np.mean(losses), delta=1e-3
    )
    ours = 100 * np.reshape(wrong, (13, 20)).mean(1)
    # A prediction may differ by rounding.
    np.testing.assert_allclose(found["wrong"][0, 0], ours, atol=5.1)

  def test_batches_of_twenty_learn(self):
    config = Config(segment=100, hidden=(32,))
    with jax.numpy_dtype_promotion("standard"):
      found = training.train(
        "vectors", "bn20", config, digits(), [1e-6, 0.3], [0, 1]
      )
    self.assertEqual(found["wrong"].shape, (2, 2, 13 * 5))
    self.assertEqual(found["error"].shape, (2, 2))
    still, learns = found["wrong"].mean(2)
    self.assertGreater(still.min(), 80)
    self.assertLess(learns.max(), 65)
    self.assertLess(found["validation"][1].max(), found["validation"][0].min())

  def test_segments_hold_whole_batches(self):
    with tempfile.TemporaryDirectory() as folder:
      run = study.Run(pathlib.Path(folder))
      with self.assertRaisesRegex(RefusedError, "not a multiple of 20"):
        online.measure(Config(segment=210), run)


if __name__ == "__main__":
  absltest.main()
