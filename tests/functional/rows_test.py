"""Statistics for each domain and for each time step."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import normjax
from tests import meshes

NORMS = {
  "domain": normjax.domain_batch_norm,
  "step": normjax.step_batch_norm,
}
ROWS = 3
STATS = {
  "exponential": normjax.BatchStats(
    np.zeros((ROWS, 4), np.float32), np.ones((ROWS, 4), np.float32)
  ),
  "debiased": normjax.DebiasedStats(
    np.zeros((ROWS, 4), np.float32),
    np.ones((ROWS, 4), np.float32),
    np.zeros((ROWS, 4), np.float32),
  ),
  "moments": normjax.Moments.empty((ROWS, 4)),
}


def normal(shape, mean=0.0, seed=0):
  random = np.random.default_rng(seed)
  return (mean + random.standard_normal(shape)).astype(np.float32)


def mapped(function, stats):
  return jax.tree.map(function, stats)


class RowsTest(parameterized.TestCase):
  @parameterized.product(norm=(*NORMS,), kind=(*STATS,))
  def test_each_is_a_batch_norm(self, norm, kind):
    """Traced indices in turn, in a scan, against one batch norm each."""
    xs, scale, bias = normal((5, 6, 2, 4), 1e6), normal(4), normal(4, seed=1)
    index = np.array([0, 2, 0, 2, 2])
    mask = np.random.default_rng(1).random(xs.shape) < 0.7
    xs = np.where(mask, xs, np.float32(np.nan))
    options = {"momentum": 0.8, "running_var_ddof": 1}

    @jax.jit
    def run(stats, index, xs, mask):
      def step(stats, now):
        i, x, mask = now
        y, stats = NORMS[norm](
          x, i, scale, bias, stats, use_running_average=False, mask=mask,
          **options,
        )  # fmt: skip
        return stats, y

      return jax.lax.scan(step, stats, (index, xs, mask))

    stats, ys = run(STATS[kind], index, xs, mask)
    for row in range(ROWS):
      own = mapped(lambda rows: rows[row], STATS[kind])  # noqa: B023
      for i in np.flatnonzero(index == row):
        y, own = normjax.batch_norm(
          xs[i], scale, bias, own, use_running_average=False, mask=mask[i],
          **options,
        )  # fmt: skip
        np.testing.assert_allclose(ys[i], y, rtol=1e-6, atol=2e-6)
      chex.assert_trees_all_close(
        mapped(lambda rows: rows[row], stats),  # noqa: B023
        own,
        rtol=1e-6,
        atol=1e-6,
      )
      y, same = NORMS[norm](
        xs[0], row, scale, bias, stats, use_running_average=True, **options
      )
      chex.assert_trees_all_equal(same, stats)
      if row in index:
        z, _ = normjax.batch_norm(
          xs[0], scale, bias, own, use_running_average=True, **options
        )
        np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(*NORMS)
  def test_forward_mode_agrees_with_reverse_mode(self, norm):
    x, dx, dy = (normal((6, 4), seed=seed) for seed in range(3))

    def run(x):
      return NORMS[norm](
        x, jnp.int32(1), stats=STATS["debiased"], use_running_average=False
      )[0]

    _, push = jax.jvp(run, (x,), (dx,))
    (pull,) = jax.vjp(run, x)[1](dy)
    np.testing.assert_allclose(np.vdot(push, dy), np.vdot(dx, pull), rtol=1e-4)

  @parameterized.parameters(*NORMS)
  def test_vmap_over_indices(self, norm):
    x = normal((2, 6, 4), 5.0)
    stats = normjax.BatchStats(normal((ROWS, 4)), 1 + normal((ROWS, 4)) ** 2)
    run = functools.partial(NORMS[norm], stats=stats, use_running_average=True)
    ys, _ = jax.vmap(run, out_axes=(0, None))(x, np.array([2, 1]))
    for i, index in enumerate((2, 1)):
      np.testing.assert_allclose(ys[i], run(x[i], index)[0], rtol=1e-6)

  @parameterized.parameters(*NORMS)
  def test_devices_with_uneven_masks(self, norm):
    mesh = meshes.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    x = normal((16, 4), 1e6)
    mask = (
      np.random.default_rng(0).random(x.shape) < np.linspace(0, 1, 16)[:, None]
    )

    def run(x, mask, **options):
      return NORMS[norm](
        x, 1, stats=STATS["exponential"], use_running_average=False,
        mask=mask, momentum=0.5, **options,
      )  # fmt: skip

    f = jax.shard_map(
      functools.partial(run, axis_name="d"), mesh=mesh,
      in_specs=P("d"), out_specs=(P("d"), P()),
    )  # fmt: skip
    chex.assert_trees_all_close(
      jax.jit(f)(x, mask), run(x, mask), rtol=1e-6, atol=2e-6
    )

  @parameterized.product(
    norm=(*NORMS,),
    wrong=(
      (1.0, TypeError, r"must be one integer, got float64\[\].*may be traced"),
      (np.zeros(2, int), TypeError, r"must be one integer, got int64\[2\]"),
      (-1, ValueError, "must not be negative, got -1"),
    ),
  )
  def test_indices(self, norm, wrong):
    index, error, message = wrong
    with self.assertRaisesRegex(error, f"{norm} {message}"):
      NORMS[norm](
        normal((6, 4)), index, stats=STATS["debiased"],
        use_running_average=False,
      )  # fmt: skip

  @parameterized.product(
    norm=(*NORMS,),
    wrong=(
      (None, r"stats=None.*Start with normjax.BatchStats\(jnp.zeros\(\({}s"),
      (normjax.BatchStats(np.zeros(()), np.ones(())), r"\[{}s, channels\]"),
      (normjax.BatchStats(np.zeros(4), np.ones(4)), r"\[{}s, channels\]"),
      (normjax.BatchStats(np.zeros((2, 4)), np.ones((3, 4))), "along a new"),
      (normjax.BatchStats(np.zeros((2, 5), np.float32),
                          np.ones((2, 5), np.float32)),
       r"stats.mean must have shape \(4,\)"),
    ),
  )  # fmt: skip
  def test_statistics(self, norm, wrong):
    stats, message = wrong
    with self.assertRaisesRegex(ValueError, message.format(norm)):
      NORMS[norm](normal((6, 4)), 0, stats=stats, use_running_average=False)


class DomainTest(parameterized.TestCase):
  def test_an_unknown_one_is_refused(self):
    with self.assertRaisesRegex(ValueError, "domain must be below 3.*got 3"):
      normjax.domain_batch_norm(
        normal((6, 4)), 3, stats=STATS["debiased"], use_running_average=True
      )

  def test_gain_and_bias_of_each(self):
    x, scale, bias = normal((6, 4)), normal((3, 4)), normal((3, 4), seed=1)
    for domain in range(3):
      for s, b in ((scale, bias), (scale[0], bias), (scale, None)):
        y, _ = normjax.domain_batch_norm(
          x, domain, s, b, STATS["exponential"], use_running_average=False
        )
        z, _ = normjax.batch_norm(
          x, s[domain] if s.ndim > 1 else s, None if b is None else b[domain],
          use_running_average=False,
        )  # fmt: skip
        np.testing.assert_allclose(y, z, rtol=1e-6, atol=1e-6)

  def test_a_batch_of_two_domains(self):
    """As the docstring says: a call for each, with a mask."""
    x = normal((8, 4)) + np.float32(100) * (np.arange(8)[:, None] % 2)
    domains = np.arange(8)[:, None] % 2
    stats, y = STATS["exponential"], jnp.zeros_like(x)
    for domain in range(2):
      mask = domains == domain
      own, stats = normjax.domain_batch_norm(
        x, domain, stats=stats, use_running_average=False, mask=mask,
        momentum=0.0,
      )  # fmt: skip
      y = jnp.where(mask, own, y)
    for domain in range(2):
      z, kept = normjax.batch_norm(x[domain::2], use_running_average=False)
      np.testing.assert_allclose(y[domain::2], z, rtol=1e-5, atol=1e-5)
      np.testing.assert_allclose(stats.mean[domain], kept.mean, rtol=1e-6)


class StepTest(parameterized.TestCase):
  def trained(self, kind, steps, mask=None):
    stats = STATS[kind]
    for step in steps:
      _, stats = normjax.step_batch_norm(
        normal((6, 4), 10.0 * (step + 1)), step, stats=stats, mask=mask,
        use_running_average=False, momentum=0.5,
      )  # fmt: skip
    return stats

  def row_of(self, stats, step):
    """Returns the row by whose mean a step is evaluated."""
    x = jnp.zeros((1, 4))
    y, _ = normjax.step_batch_norm(
      x, step, stats=stats, use_running_average=True
    )
    expected = [
      normjax.batch_norm(
        x, stats=mapped(lambda rows: rows[row], stats),  # noqa: B023
        use_running_average=True,
      )[0]
      for row in range(ROWS)
    ]  # fmt: skip
    same = [np.allclose(y, z, rtol=1e-6, atol=1e-6) for z in expected]
    self.assertEqual(sum(same), 1)
    return same.index(True)

  @parameterized.parameters("debiased", "moments")
  def test_past_the_last_trained_step(self, kind):
    stats = self.trained(kind, (0, 1))
    for step, row in ((0, 0), (1, 1), (2, 1), (3, 1), (10**6, 1)):
      self.assertEqual(self.row_of(stats, step), row)
    stats = self.trained(kind, (0, 2))  # A gap.
    for step, row in ((1, 0), (2, 2), (5, 2)):
      self.assertEqual(self.row_of(stats, step), row)

  def test_past_the_last_row(self):
    stats = self.trained("exponential", (0, 1, 2))
    for step, row in ((1, 1), (2, 2), (3, 2), (10**6, 2)):
      self.assertEqual(self.row_of(stats, step), row)
    _, later = normjax.step_batch_norm(
      normal((6, 4)), 7, stats=stats, use_running_average=False
    )
    for old, new in zip(stats, later, strict=True):
      np.testing.assert_array_equal(new[:2], old[:2])
      self.assertTrue(np.all(new[2] != old[2]))

  def test_a_step_at_which_all_have_ended_is_not_trained(self):
    stats = self.trained("debiased", (0,))
    _, stats = normjax.step_batch_norm(
      normal((6, 4)), 1, stats=stats, use_running_average=False,
      mask=np.zeros((6, 1), bool),
    )  # fmt: skip
    self.assertEqual(self.row_of(stats, 1), 0)
