"""Running statistics that `flax.linen.BatchNorm` does not have."""

import functools

import chex
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from normjax.linen import BatchNorm
from tests.linen.cases import call

KEY = jax.random.key(0)
TRAIN = functools.partial(BatchNorm, use_running_average=False)
EVAL = functools.partial(BatchNorm, use_running_average=True)
KINDS = {
  "debias": {"debias": True, "momentum": 0.75},
  "cumulative": {"debias": True, "momentum": 1.0},
  "microbatches": {"microbatches": 2, "momentum": 0.75},
  "both": {"debias": True, "microbatches": 2, "running_var_ddof": 1},
}


def batches(mean=0.0, count=4):
  """Returns batches and masks of unequal counts; NaN where they are False."""
  random = np.random.default_rng(0)
  x = (
    mean
    + random.normal(size=(count, 6, 3)) * np.arange(1, 1 + count)[:, None, None]
  )
  mask = (
    np.arange(6)[None, :, None] < np.array([6, 2, 3, 5])[:count, None, None]
  )
  return np.where(mask, x, np.nan).astype(np.float32), mask


def trained(module, x, mask):
  """Returns the batch statistics after one call per batch, in a scan."""
  variables = module.init(KEY, x[0])

  @jax.jit
  def run(stats, x, mask):
    def step(stats, batch):
      x, mask = batch
      _, updates = call(
        module, {**variables, "batch_stats": stats}, x, mask=mask
      )
      return updates["batch_stats"], None

    return jax.lax.scan(step, stats, (x, mask))[0]

  return run(variables["batch_stats"], x, mask)


class DebiasTest(parameterized.TestCase):
  @parameterized.product(momentum=(0.75, 1.0), ddof=(0, 1), mean=(0.0, 1e6))
  def test_matches_float64(self, momentum, ddof, mean):
    x, mask = batches(mean)
    stats = trained(
      TRAIN(debias=True, momentum=momentum, running_var_ddof=ddof), x, mask
    )
    rows = [
      np.float64(part[: m.sum()]) for part, m in zip(x, mask, strict=True)
    ]
    weights = momentum ** np.arange(4)[::-1]
    for name, values in (
      ("mean", [row.mean(0) for row in rows]),
      ("var", [row.var(0, ddof=ddof) for row in rows]),
    ):
      np.testing.assert_allclose(
        stats[name],
        np.average(values, axis=0, weights=weights),
        rtol=1e-5,
        atol=1e-6,
      )
    np.testing.assert_allclose(stats["weight"], [weights.sum()] * 3, rtol=1e-6)

  def test_continues_a_checkpoint_without_weight(self):
    """Of Flax, or of a module with the default."""
    (x, *_), _ = batches()
    variables = EVAL().init(KEY, x)
    _, updates = call(TRAIN(debias=True), variables, x)
    stats = updates["batch_stats"]
    np.testing.assert_allclose(stats["mean"], x.mean(0), rtol=1e-6)
    y = EVAL().apply({**variables, **updates}, x)
    again = EVAL(debias=True).apply({**variables, **updates}, x)
    np.testing.assert_array_equal(y, again)
    EVAL(debias=True).apply(variables, x)


class MicrobatchesTest(parameterized.TestCase):
  @parameterized.product(
    kind=({}, {"debias": True}, {"running_var_ddof": 1}), mean=(0.0, 1e6)
  )
  def test_are_one_batch(self, kind, mean):
    x, mask = batches(mean)
    whole = TRAIN(momentum=0.75, **kind)
    expected = trained(
      whole, x.reshape(2, 12, 3), mask.reshape(2, 12, 1)
    )  # fmt: skip
    stats = trained(whole.clone(microbatches=2), x, mask)
    for name, wanted in expected.items():
      np.testing.assert_allclose(stats[name], wanted, rtol=2e-6, atol=1e-6)
    self.assertEqual(stats["calls"], 0)
    chex.assert_trees_all_equal(
      stats["pending"], normjax.Moments.empty((3,)), strict=True
    )

  def test_statistics_change_with_the_last_call_only(self):
    x, mask = batches(count=3)
    module = TRAIN(microbatches=4, momentum=0.0)
    stats = trained(module, x, mask)
    np.testing.assert_array_equal(stats["mean"], np.zeros(3))
    np.testing.assert_array_equal(stats["var"], np.ones(3))
    self.assertEqual(stats["calls"], 3)
    np.testing.assert_array_equal(stats["pending"].count, [11] * 3)
    restored = flax.serialization.from_bytes(
      jax.tree.map(jnp.zeros_like, stats), flax.serialization.to_bytes(stats)
    )
    chex.assert_trees_all_equal(restored, stats)

  def test_each_call_standardizes_by_its_own_statistics(self):
    (x, *_), _ = batches()
    variables = TRAIN().init(KEY, x)
    y, _ = call(TRAIN(microbatches=3), variables, x)
    np.testing.assert_array_equal(y, call(TRAIN(), variables, x)[0])

  def test_along_a_mapped_axis(self):
    x, mask = batches(3.0)
    module = TRAIN(microbatches=2, momentum=0.0, axis_name="i")
    variables = module.init(KEY, x[0])
    stats = variables["batch_stats"]
    for first in (0, 2):
      stats = jax.vmap(
        lambda x, mask, stats=stats: call(
          module, {**variables, "batch_stats": stats}, x, mask=mask
        )[1]["batch_stats"],
        axis_name="i",
        out_axes=None,
      )(x[first : first + 2], mask[first : first + 2])
    values = np.float64(x[np.broadcast_to(mask, x.shape)].reshape(-1, 3))
    np.testing.assert_allclose(stats["mean"], values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], values.var(0), rtol=1e-5)

  @parameterized.parameters(0, -1, 2.0, None)
  def test_refuses_what_is_no_count(self, count):
    with self.assertRaisesRegex(ValueError, f"positive integer, got {count}"):
      TRAIN(microbatches=count).init(KEY, jnp.ones((4, 3)))


class CollectionTest(parameterized.TestCase):
  @parameterized.product(kind=tuple(KINDS), train=(True, False))
  def test_is_the_same_from_init_on(self, kind, train):
    """So that it fits the carry of a scan, whatever init's mode."""
    (x, *_), _ = batches()
    module = TRAIN(**KINDS[kind])
    variables = module.clone(use_running_average=not train).init(KEY, x)
    _, updates = call(module, variables, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(
      updates["batch_stats"], variables["batch_stats"]
    )
    expected = {"mean", "var"}
    if "debias" in KINDS[kind]:
      expected |= {"weight"}
    if "microbatches" in KINDS[kind]:
      expected |= {"pending", "calls"}
    self.assertEqual(variables["batch_stats"].keys(), expected)

  @parameterized.parameters(*KINDS)
  def test_layers_in_a_scan_have_their_own(self, kind):
    (x, *_), _ = batches()

    class Layer(nn.Module):
      @nn.compact
      def __call__(self, x, _):
        return 2 * TRAIN(**KINDS[kind])(x) + x, None

    layers = nn.scan(
      Layer,
      variable_axes={"params": 0, "batch_stats": 0},
      split_rngs={"params": True},
      length=2,
    )()
    variables = layers.init(KEY, x, None)
    _, updates = jax.jit(functools.partial(call, layers))(variables, x, None)
    ((_, stacked),) = updates["batch_stats"].items()
    layer = TRAIN(**KINDS[kind])
    y = x
    for number in range(2):
      variables = layer.init(KEY, x)
      out, updates = call(layer, variables, y)
      chex.assert_trees_all_close(
        jax.tree.map(lambda leaf, n=number: leaf[n], stacked),
        updates["batch_stats"],
        rtol=1e-5,
        atol=1e-5,
      )
      y = 2 * out + y
