"""What running statistics are an average of, against float64 NumPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from tests import reference

CHANNELS = 3
# Each with the row of its statistics that is used, if it has rows.
RELATIVES = {
  "domain": (normjax.domain_batch_norm, 1),
  "ghost": (functools.partial(normjax.ghost_batch_norm, ghost_size=4),),
  "renorm": (normjax.batch_renorm,),
  "step": (normjax.step_batch_norm, 1),
}
# Batches of unequal size: how many of 8 rows count. In the last channel, no
# value of the first batch counts.
COUNTS = (8, 3, 5, 8, 2, 7)


def batches(mean=0.0, seed=0):
  """Returns batches `[8, channels]` and masks; NaN where they do not count."""
  random = np.random.default_rng(seed)
  for number, count in enumerate(COUNTS):
    mask = np.repeat(np.arange(8)[:, None] < count, CHANNELS, axis=1)
    mask[:, -1] &= number > 0
    x = mean + random.normal(0.3 * number, 1 + 0.2 * number, (8, CHANNELS))
    yield np.where(mask, x, np.nan).astype(np.float32), mask


def plain():
  return normjax.BatchStats(
    np.full(CHANNELS, 7, np.float32), np.full(CHANNELS, 9, np.float32)
  )


def debiased(shape=CHANNELS):
  """Starts where an average that kept a trace of it would be wrong."""
  start = (np.full(shape, value, np.float32) for value in (7, 9, 0))
  return normjax.DebiasedStats(*start)


def empty(shape=(CHANNELS,)):
  return normjax.Moments.empty(shape)


def train(x, **options):
  return normjax.batch_norm(x, use_running_average=False, **options)


def run(stats, stream, **options):
  """Returns the statistics after every batch."""
  for x, mask in stream:
    _, stats = train(x, stats=stats, mask=mask, **options)
    yield stats


def averaged(stream, momentum, ddof=0):
  """Returns float64 averages of statistics of batches, channel by channel.

  The weights of an exponential average, the last of which is one, over their
  sum.
  """
  means, variances = [[], [], []], [[], [], []]
  for x, mask in stream:
    for channel in range(CHANNELS):
      values = np.float64(x[mask[:, channel], channel])
      if len(values) > ddof:
        means[channel].append(values.mean())
        variances[channel].append(values.var(ddof=ddof))

  def average(values):
    weights = np.float64(momentum) ** np.arange(len(values))[::-1]
    return np.average(values, weights=weights)

  return [average(v) for v in means], [average(v) for v in variances]


def all_values(stream):
  """Returns mean and variance of all values that count, per channel."""
  x, mask = map(np.concatenate, zip(*stream, strict=True))
  columns = [np.float64(x[mask[:, i], i]) for i in range(CHANNELS)]
  return [c.mean() for c in columns], [c.var() for c in columns]


def assert_stats(stats, expected, rtol=1e-6, var_rtol=1e-5):
  np.testing.assert_allclose(stats.mean, expected[0], rtol=rtol, atol=1e-6)
  np.testing.assert_allclose(stats.var, expected[1], rtol=var_rtol)


class DebiasedTest(parameterized.TestCase):
  @parameterized.product(momentum=(0.0, 0.9, 1.0), ddof=(0, 1), mean=(0.0, 1e6))
  def test_matches_weighted_average_from_the_first_step(
    self, momentum, ddof, mean
  ):
    options = {"momentum": momentum, "running_var_ddof": ddof}
    found = list(run(debiased(), batches(mean), **options))
    for number in range(2, len(COUNTS) + 1):
      stream = list(batches(mean))[:number]
      assert_stats(found[number - 1], averaged(stream, momentum, ddof))

  def test_first_batch_replaces_what_was_there_in_every_bit(self):
    (x, mask), *_ = batches(1e6)
    for initial in (debiased(), debiased()._replace(mean=np.full(3, np.nan))):
      _, stats = train(x, stats=initial, mask=mask, momentum=0.9)
      _, alone = train(x, mask=mask)
      np.testing.assert_array_equal(stats.mean[:2], alone.mean[:2])
      np.testing.assert_array_equal(stats.var[:2], alone.var[:2])
      np.testing.assert_array_equal(stats.weight, [1, 1, 0])
      # Nothing of the last channel has been seen yet.
      self.assertEqual(stats.var[2], 9)

  def test_momentum_of_one_is_the_cumulative_average(self):
    """PyTorch's `momentum=None`."""
    *_, stats = run(debiased(), batches(), momentum=1.0)
    np.testing.assert_array_equal(stats.weight, [6, 6, 5])
    counted = [
      np.float64(x[mask[:, 0], 0]) for x, mask in batches()
    ]  # fmt: skip
    np.testing.assert_allclose(
      stats.mean[0], np.mean([c.mean() for c in counted]), rtol=1e-6
    )
    np.testing.assert_allclose(
      stats.var[0], np.mean([c.var() for c in counted]), rtol=1e-6
    )

  @parameterized.parameters(0.9, 1.0)
  def test_equal_batches_stay_as_they_are_for_ever(self, momentum):
    x = 1e6 + np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    _, alone = train(x)

    @jax.jit
    def many(stats):
      step = lambda stats, _: (
        train(x, stats=stats, momentum=momentum)[1],
        None,
      )
      return jax.lax.scan(step, stats, length=1000)[0]

    stats = many(debiased())
    np.testing.assert_array_equal(stats.mean, alone.mean)
    np.testing.assert_array_equal(stats.var, alone.var)

  def test_tends_to_the_plain_average(self):
    stream = list(batches()) * 40
    *_, stats = run(debiased(), stream, momentum=0.9)
    *_, expected = run(plain(), stream, momentum=0.9)
    assert_stats(stats, expected)

  def test_momentum_may_change_and_be_traced(self):
    """Each batch keeps its weight of one, times the momenta after it."""
    stream = list(batches())[1:4]
    momenta = (0.3, 0.5, 0.25)

    @jax.jit
    def step(stats, x, mask, momentum):
      return train(x, stats=stats, mask=mask, momentum=momentum)[1]

    stats = debiased()
    for (x, mask), momentum in zip(stream, momenta, strict=True):
      stats = step(stats, x, mask, momentum)
    means = [np.float64(x[mask[:, 0], 0]).mean() for x, mask in stream]
    weights = [0.5 * 0.25, 0.25, 1]
    np.testing.assert_allclose(
      stats.mean[0], np.average(means, weights=weights), rtol=1e-6
    )
    np.testing.assert_allclose(stats.weight, [sum(weights)] * 3, rtol=1e-6)


class MomentsTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 1e6)
  def test_are_those_of_all_values(self, mean):
    *_, stats = run(empty(), batches(mean))
    assert_stats(stats, all_values(batches(mean)))
    np.testing.assert_array_equal(stats.count, [33, 33, 25])
    whole = np.float64(stats.mean) + np.float64(stats.mean_tail)
    expected, _ = all_values(batches(mean))
    np.testing.assert_allclose(whole, expected, rtol=1e-12, atol=1e-6)

  def test_evaluation_has_all_digits_of_the_mean(self):
    x = 1e6 + np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    y, stats = train(x, stats=empty())
    again, same = normjax.batch_norm(x, stats=stats, use_running_average=True)
    np.testing.assert_allclose(again, y, atol=1e-6)
    expected = reference.batch_norm(x)
    self.assertLessEqual(reference.scaled_error(again, expected.y), 2e-6)
    for field, kept in zip(same, stats, strict=True):
      np.testing.assert_array_equal(field, kept)

  def test_evaluation_before_the_first_batch(self):
    x = np.float32([[1, -2, 3]])
    y, _ = normjax.batch_norm(x, stats=empty(), use_running_average=True)
    np.testing.assert_allclose(y, x, rtol=1e-5)

  def test_unbiased_variance_in_evaluation(self):
    x = np.float32([[1], [3], [8]])
    _, stats = train(x, stats=empty((1,)))
    y, _ = normjax.batch_norm(
      x, stats=stats, use_running_average=True, running_var_ddof=1
    )
    np.testing.assert_allclose(
      y, (x - 4) / np.sqrt(13 + 1e-5), rtol=1e-6
    )  # fmt: skip

  def test_values_that_are_not_finite_are_skipped(self):
    (_, (x, mask), *_) = batches()
    _, stats = train(x, stats=empty(), mask=mask)
    x = x.copy()
    x[0, 1] = np.inf
    _, new = train(x, stats=stats, mask=mask)
    for field, old in zip(new, stats, strict=True):
      self.assertEqual(field[1], old[1])
    np.testing.assert_array_equal(new.count, [6, 3, 6])


class AccumulatedTest(parameterized.TestCase):
  @parameterized.product(
    stats=(plain, debiased), ddof=(0, 1), mean=(0.0, 1e6)
  )  # fmt: skip
  def test_microbatches_are_one_batch(self, stats, ddof, mean):
    """Parts of unequal size give what the whole batch gives."""
    options = {"momentum": 0.75, "running_var_ddof": ddof}
    x, mask = map(np.concatenate, zip(*batches(mean), strict=True))
    parts = [normjax.moments(x, 0, mask=mask) for x, mask in batches(mean)]
    whole = functools.reduce(normjax.merge_moments, parts)
    start = stats()
    if stats is debiased:
      start = start._replace(weight=np.full(CHANNELS, 2, np.float32))
    found = normjax.update_stats(start, whole, **options)
    _, expected = train(x, stats=start, mask=mask, **options)
    assert_stats(found, expected)
    mean_64, var_64 = reference.mean_and_var(x, 0, mask, ddof)
    old = 0.75 if stats is plain else 0.75 * 2 / (1 + 0.75 * 2)
    assert_stats(
      found,
      (old * 7 + (1 - old) * mean_64[0], old * 9 + (1 - old) * var_64[0]),
    )

  def test_update_is_that_of_batch_norm(self):
    (_, (x, mask), *_) = batches()
    for stats in (plain(), debiased(), empty()):
      batch = normjax.moments(x, 0, mask=mask)
      _, expected = train(x, stats=stats, mask=mask, momentum=0.25)
      found = normjax.update_stats(stats, batch, momentum=0.25)
      self.assertIs(type(found), type(stats))
      for field, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(field, wanted, rtol=1e-6, atol=1e-7)


class TransformationsTest(parameterized.TestCase):
  @parameterized.parameters(plain, debiased, empty)
  def test_jit_scan_and_vmap(self, start):
    options = {"momentum": 0.75}
    expected = list(run(start(), batches(), **options))[-1]
    x, mask = map(np.stack, zip(*batches(), strict=True))

    def many(stats, x, mask):
      def step(stats, batch):
        return train(batch[0], stats=stats, mask=batch[1], **options)[1], None

      return jax.lax.scan(step, stats, (x, mask))[0]

    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), start())
    other = np.stack([x, x + 1])
    found = jax.jit(jax.vmap(many, in_axes=(0, 0, None)))(lanes, other, mask)
    first = jax.tree.map(lambda leaf: leaf[0], found)
    # Tails belong to what they are the rounding errors of.
    for name in {"mean", "var", "count", "weight"} & set(expected._fields):
      np.testing.assert_allclose(
        getattr(first, name), getattr(expected, name), rtol=1e-5, atol=1e-6
      )
    np.testing.assert_allclose(found.var[1], expected.var, rtol=1e-4)

  @parameterized.parameters(plain, debiased, empty)
  def test_mapped_axis_is_one_batch(self, start):
    x, mask = map(np.stack, zip(*batches(), strict=True))
    mapped = jax.vmap(
      lambda x, mask: train(x, stats=start(), mask=mask, axis_name="i")[1],
      axis_name="i",
      out_axes=None,
    )
    whole = train(
      x.reshape(-1, CHANNELS), stats=start(), mask=mask.reshape(-1, CHANNELS)
    )[1]
    for field, wanted in zip(mapped(x, mask), whole, strict=True):
      np.testing.assert_allclose(field, wanted, rtol=1e-6, atol=1e-6)

  @parameterized.parameters(debiased, empty)
  def test_dtype_and_two_feature_axes(self, start):
    x = np.random.default_rng(0).normal(3, 2, (5, 3, 4)).astype(np.float16)
    _, stats = train(x, stats=start((3, 4)), axis=(1, 2))
    for field in stats:
      self.assertEqual(field.dtype, np.float32)
    assert_stats(stats, (np.float64(x).mean(0), np.float64(x).var(0)))

  def test_complex_moments(self):
    random = np.random.default_rng(0)
    x = random.normal(size=(9, 3)) + 1j * random.normal(3, 2, (9, 3))
    x = x.astype(np.complex64)
    stats = normjax.Moments.empty((3,), jnp.complex64)
    for part in (x[:2], x[2:]):
      _, stats = train(part, stats=stats)
    self.assertEqual(stats.var.dtype, np.float32)
    assert_stats(stats, (x.mean(0), x.var(0)))

  def test_complex_averages(self):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 9, 3)) + 1j * random.normal(3, 2, (2, 9, 3))
    x = x.astype(np.complex64)
    zeros, ones = jnp.zeros(3), jnp.ones(3)
    plain = normjax.BatchStats(jnp.zeros(3, x.dtype), ones)
    for part in x:
      _, plain = train(part, stats=plain, momentum=0.5)
    means, variances = x.mean(1), x.var(1)
    weights = np.array([[0.25], [0.5]])
    expected = (weights * means).sum(0), 0.25 + (weights * variances).sum(0)
    assert_stats(plain, expected)
    debiased = normjax.DebiasedStats(jnp.zeros(3, x.dtype), ones, zeros)
    for part in x:
      _, debiased = train(part, stats=debiased, momentum=1.0)
    assert_stats(debiased, (means.mean(0), variances.mean(0)))

  @parameterized.parameters(*RELATIVES)
  def test_complex_averages_of_relatives(self, name):
    """They are those of batch norm, row by row."""
    random = np.random.default_rng(0)
    x = random.normal(size=(8, 3)) + 1j * random.normal(3, 2, (8, 3))
    x, zeros, ones = x.astype(np.complex64), jnp.zeros(3), jnp.ones(3)
    relative, *row = RELATIVES[name]
    for stats in (
      normjax.BatchStats(jnp.zeros(3, x.dtype), ones),
      normjax.DebiasedStats(jnp.zeros(3, x.dtype), ones, zeros),
    ):
      given = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), stats)
      y, found = relative(
        x, *row, stats=given if row else stats, use_running_average=False
      )
      self.assertEqual(y.dtype, x.dtype)
      _, expected = train(x, stats=stats)
      if row:
        found = jax.tree.map(lambda leaf: leaf[1], found)
      chex.assert_trees_all_close(found, expected, rtol=1e-6)
