"""What a batch tells of batch norms, against float64 NumPy."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from normjax.linen import BatchNorm, diagnose

KEY = jax.random.key(0)
KINDS = {"ours": BatchNorm, "flax": nn.BatchNorm}


class Net(nn.Module):
  """Norm, dense, ReLU, norm."""

  kind: Any = BatchNorm
  options: tuple[tuple[str, Any], ...] = ()

  @nn.compact
  def __call__(self, x, train=False, mask=None):
    norm = functools.partial(
      self.kind, use_running_average=not train, **dict(self.options)
    )
    x = norm(name="first")(x, mask=mask)
    x = nn.relu(nn.Dense(4, name="dense")(x))
    return norm(name="second")(x)


def batch(rows=64, mean=0.0, seed=0):
  values = np.random.default_rng(seed).normal(mean, 1.0, (rows, 3))
  return jnp.asarray(values.astype("float32"))


@functools.cache
def fitted(rows):
  """Returns variables whose running statistics are those of `batch(rows)`."""
  variables = Net().init(KEY, batch(rows))
  for name in ("first", "second"):
    found = diagnose(Net(), variables, batch(rows)).norms[name]
    stats = variables["batch_stats"][name]
    var = stats["var"] + 1e-5
    stats["mean"] += jnp.asarray(found.drift * np.sqrt(var), jnp.float32)
    ratio = jnp.asarray(found.variance_ratio, jnp.float32)
    stats["var"] = ratio * var - 1e-5
  return variables


def healthy(rows=64, **changes):
  """Returns these variables, with other leaves in the first norm."""
  variables = jax.tree.map(lambda leaf: leaf, fitted(rows))
  for name, value in changes.items():
    branch = "batch_stats" if name in ("mean", "var") else "params"
    variables[branch]["first"][name] = jnp.asarray(value, jnp.float32)
  return variables


class NumbersTest(parameterized.TestCase):
  @parameterized.product(
    kind=tuple(KINDS),
    train=(False, True),
    masked=(False, True),
    offset=(0, 1e6),
  )
  def test_match_float64(self, kind, train, masked, offset):
    model, x = Net(KINDS[kind]), batch(40, offset)
    mask = np.arange(40)[:, None] < (30 if masked else 40)
    variables = model.init(KEY, x)
    stats = variables["batch_stats"]["first"]
    stats["mean"] = jnp.array([0.0, 0.5, -0.5]) + offset
    stats["var"] = jnp.array([1.0, 2.0, 0.25])
    found = diagnose(
      model, variables, jnp.where(mask, x, jnp.nan), train=train,
      mask=mask if masked else None,
    ).norms["first"]  # fmt: skip
    seen = np.float64(x)[mask[:, 0]]
    mean, var = np.float64(stats["mean"]), np.float64(stats["var"]) + 1e-5
    self.assertEqual(found.values, mask.sum())
    np.testing.assert_allclose(
      found.drift, (seen.mean(0) - mean) / np.sqrt(var), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
      found.variance_ratio, (seen.var(0) + 1e-5) / var, rtol=1e-5
    )
    self.assertFalse(found.untrained)

  def test_of_what_a_norm_sees_in_the_mode_of_the_call(self):
    """In evaluation, the drift of the first norm reaches the second."""
    variables = healthy(mean=[3.0, 3.0, 3.0])
    evaluation = diagnose(Net(), variables, batch())
    training = diagnose(Net(), variables, batch(), train=True)
    for found in (evaluation, training):
      self.assertGreater(found.norms["first"].typical_drift, 2)
    self.assertGreater(evaluation.norms["second"].typical_drift, 0.5)
    self.assertLess(training.norms["second"].typical_drift, 0.01)

  def test_images_with_channels_first(self):
    norm = BatchNorm(True, axis=1, running_var_ddof=1, scale_offset=1.0)
    x = np.random.default_rng(0).normal(1, 2, (4, 3, 5, 6)).astype(np.float32)
    variables = norm.init(KEY, x)
    variables["params"]["scale"] = jnp.array([-1.0, 0.0, -0.995])
    found = diagnose(norm, variables, x).norms["itself"]
    self.assertEqual(found.values, 4 * 5 * 6)
    np.testing.assert_allclose(
      found.variance_ratio, np.float64(x).var((0, 2, 3), ddof=1), rtol=1e-4
    )
    self.assertEqual(found.small_gain.tolist(), [True, False, True])

  def test_complex_values_drift_by_a_magnitude(self):
    x = jax.lax.complex(batch(), batch(seed=1))
    norm = BatchNorm(True, dtype=jnp.complex64)
    found = diagnose(norm, norm.init(KEY, x), x).norms["itself"]
    expected = np.abs(np.complex128(x).mean(0)) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(found.drift, expected, rtol=1e-5)

  def test_layers_of_a_scan(self):
    scanned = nn.scan(
      Block, variable_axes={"params": 0, "batch_stats": 0},
      split_rngs={"params": True}, length=2,
    )()  # fmt: skip
    x = batch()
    variables = scanned.init(KEY, x, None)
    found = diagnose(scanned, variables, x, None).norms["norm"]
    self.assertEqual(found.drift.shape, (2, 3))
    first = np.float64(x).mean(0) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(found.drift[0], first, rtol=1e-4)
    np.testing.assert_allclose(found.drift[1], 2 * first, rtol=1e-4)

  def test_blocks_that_flax_compiles(self):
    block = nn.jit(Net)
    model = nn.Sequential([block(), nn.Dense(3), block()])
    variables = model.init(KEY, batch())
    for _ in range(2):  # Each block but the first is in a cache.
      found = diagnose(model, variables, batch()).norms
      self.assertLen(found, 4)
      for norm in found.values():
        self.assertEqual(norm.values, 64)
        self.assertTrue(np.isfinite(norm.typical_drift))

  def test_which_and_models_without(self):
    found = diagnose(Net(), healthy(), batch(), which="second")
    self.assertEqual([*found.norms], ["second"])
    with self.assertRaisesRegex(ValueError, "'third' chooses no.*first, sec"):
      diagnose(Net(), healthy(), batch(), which="third")
    model = nn.LayerNorm()
    found = diagnose(model, model.init(KEY, batch()), batch())
    self.assertEqual(str(found), "The model has no batch norm.")

  def test_variables_of_no_statistics_or_traced(self):
    model = nn.Dense(2)
    variables = {**model.init(KEY, jnp.ones((1, 2))), "batch_stats": {}}
    self.assertEmpty(diagnose(model, variables, jnp.ones((1, 2))).norms)
    norm = BatchNorm(True)
    variables = norm.init(KEY, jnp.ones((1, 2)))
    with self.assertRaisesRegex(TypeError, "called outside of jax.jit"):
      jax.jit(lambda v: str(diagnose(norm, v, jnp.ones((1, 2)))))(variables)

  def test_variables_are_left_alone(self):
    variables = healthy()
    before = jax.tree.map(np.array, variables)
    diagnose(Net(), variables, batch(), train=True)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


class Block(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    y = BatchNorm(True, name="norm")(x)
    return 2 * x + 0 * y, None


ADVICE = {
  "few": ({}, 8, "8 values per channel are few.*axis_name.*group norm"),
  "drift": (
    {"mean": [2.0, 2.0, 2.0]}, 64,
    r"mean of this batch is 2\.\d\d running.*reestimate.*momentum",
  ),
  "variance": (
    {"var": [0.1, 0.1, 0.1]}, 64,
    r"variance of this batch is [\d.]+ times the running one.*reestimate",
  ),
  "smaller_variance": (
    {"var": [9.0, 9.0, 9.0]}, 64, r"variance of this batch is 0\.\d+ times",
  ),
  "gain": ({"scale": [1, 0, -0.005]}, 64, "^2 of 3 gains.*be pruned"),
  "gains": ({"scale": [0, 0, 0]}, 64, "All gains are below 0.01.*residual"),
  "untrained": (
    {"mean": [0, 0, 0], "var": [1, 1, 1]}, 64,
    "those of initialization.*mutable=",
  ),
  "infinite": (
    {"mean": [0, np.inf, 0]}, 64, "statistics of 1 of 3 channels are not fin",
  ),
  "negative": (
    {"var": [1, 1, -1]}, 64, "statistics of 1 of 3 channels are not finite",
  ),
}  # fmt: skip


class AdviceTest(parameterized.TestCase):
  @parameterized.parameters(*ADVICE)
  def test_of_the_first_norm(self, name):
    changes, rows, message = ADVICE[name]
    found = diagnose(Net(), healthy(rows, **changes), batch(rows))
    (sentence,) = found.norms["first"].advice
    self.assertRegex(sentence, message)
    self.assertIn(f"first: {sentence}", str(found))

  def test_of_inputs(self):
    x = batch()
    x = x.at[:, 0].set(7 + 1e-3 * x[:, 0])  # A variance of 1e-6.
    found = diagnose(Net(), healthy(), x).norms["first"]
    self.assertEqual(found.constant.tolist(), [True, False, False])
    self.assertRegex(found.advice[-1], "^1 of 3 channels hardly vary")
    found = diagnose(Net(), healthy(), batch().at[5, 1].set(jnp.nan))
    self.assertEqual(
      found.norms["first"].broken_input.tolist(), [False, True, False]
    )
    self.assertRegex(
      found.norms["first"].advice[0], "has NaN or infinity in 1 of 3 channels"
    )

  def test_a_norm_that_is_not_called(self):
    class Skipping(nn.Module):
      @nn.compact
      def __call__(self, x, all=True):
        return BatchNorm(True, name="norm")(x) if all else x

    variables = Skipping().init(KEY, batch())
    found = diagnose(Skipping(), variables, batch(), all=False).norms["norm"]
    self.assertEqual(found.values, 0)
    self.assertRegex(" ".join(found.advice), "does not call this norm")

  def test_chance_is_no_drift(self):
    """Of 20 values, half a standard deviation may be chance."""
    x = batch(20)
    variables = healthy(20)
    variables["batch_stats"]["first"]["mean"] += 0.55
    self.assertEmpty(diagnose(Net(), variables, x).norms["first"].advice)
    x = jnp.tile(x, (4, 1))
    self.assertLen(diagnose(Net(), variables, x).norms["first"].advice, 1)

  def test_nothing_wrong(self):
    found = diagnose(Net(), healthy(), batch())
    self.assertEqual(
      str(found).splitlines(),
      [
        "norm    channels  values  drift  variance  constant  gain~0  broken",
        "first          3      64   0.00      1.00         0       0       0",
        "second         4      64   0.00      1.00         0       0       0",
        "",
        "Nothing seems to be wrong.",
      ],
    )
