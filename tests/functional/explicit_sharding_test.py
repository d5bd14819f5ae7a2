"""Arrays on meshes whose axes are explicit: shardings are part of their types.

https://github.com/AI-Hypercomputer/maxtext/issues/4992 is of this kind.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import normjax
from tests import meshes

SHAPE = (4, 8, 16)
# Of x, of what varies along channels alone, and of the mask.
SPECS = (
  (P("data", None, "model"), P("model"), P("data", None, "model")),
  (P("data", "model"), P(), P()),
)


def train(x, scale, bias, stats, **options):
  return normjax.batch_norm(
    x, scale, bias, stats, use_running_average=False, **options
  )


def evaluate(x, scale, bias, stats, **options):
  return normjax.batch_norm(
    x, scale, bias, stats, use_running_average=True, **options
  )


def ghosts(x, scale, bias, stats, **options):
  return normjax.ghost_batch_norm(
    x, scale, bias, stats, use_running_average=False, ghost_size=2, **options
  )


def renorm(x, scale, bias, stats, **options):
  return normjax.batch_renorm(
    x, scale, bias, stats, use_running_average=False, **options
  )


def step(x, scale, bias, stats, **options):
  rows = jax.tree.map(lambda one: jnp.stack([one, one]), stats)
  return normjax.step_batch_norm(
    x, 1, scale, bias, rows, use_running_average=False, **options
  )


# Each takes x, scale, bias, stats.
FUNCTIONS = {
  "layer": lambda x, s, b, _, **o: normjax.layer_norm(x, s, b, **o),
  "layer_image": lambda x, s, b, _, **o: normjax.layer_norm(
    x, s, b, reduction_axes=(1, 2), **o
  ),
  "rms": lambda x, s, b, _, **o: normjax.rms_norm(x, s, **o),
  "train": train,
  "evaluate": evaluate,
  "ghosts": ghosts,
  "renorm": renorm,
  "step": step,
  # Groups within devices, and groups that lie on two devices.
  "group": lambda x, s, b, _, **o: normjax.group_norm(
    x, s, b, num_groups=8, **o
  ),
  "split_group": lambda x, s, b, _, **o: normjax.group_norm(
    x, s, b, num_groups=2, **o
  ),
  "instance": lambda x, s, b, _, **o: normjax.instance_norm(x, s, b, **o),
  "moments": lambda x, s, b, _, **o: normjax.moments(x, (0, 2), **o)[1:4:2],
}


def normal(shape, seed=0):
  random = np.random.default_rng(seed)
  return random.normal(0.5, 1, shape).astype(np.float32)


def arguments():
  channels = SHAPE[-1:]
  stats = normjax.BatchStats(normal(channels, 3), 1 + normal(channels, 4) ** 2)
  x, scale, bias = normal(SHAPE), normal(channels, 1), normal(channels, 2)
  return x, scale, bias, stats, normal(SHAPE, 5) < 1.5


def program(function, masked):
  """Returns results and gradients of a function of all arguments."""

  @jax.jit
  def run(x, scale, bias, stats, mask):
    options = {"mask": mask} if masked else {}

    def loss(x, scale, bias):
      results = function(x, scale, bias, stats, **options)
      total = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(results))
      return total, results

    return jax.grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)

  return run


class ExplicitShardingTest(parameterized.TestCase):
  @parameterized.product(name=tuple(FUNCTIONS), masked=(False, True))
  def test_results_and_gradients(self, name, masked):
    run = program(FUNCTIONS[name], masked)
    expected = run(*arguments())
    mesh = meshes.make_mesh((2, 4), ("data", "model"), (AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
      for specs in SPECS:
        with self.subTest(specs=specs):
          x, scale, bias, stats, mask = arguments()
          of_x, of_channels, of_mask = (NamedSharding(mesh, s) for s in specs)
          actual = run(
            jax.device_put(x, of_x),
            *jax.device_put((scale, bias, stats), of_channels),
            jax.device_put(mask, of_mask),
          )
          chex.assert_trees_all_close(
            jax.device_get(actual), expected, rtol=1e-4, atol=1e-4
          )

  @parameterized.named_parameters(
    ("exponential", lambda stats: stats, 0.75),
    ("debiased", lambda s: normjax.DebiasedStats(*s, 0 * s.var), 0.75),
    ("cumulative", lambda s: normjax.DebiasedStats(*s, 0 * s.var), 1.0),
    ("moments", lambda s: normjax.Moments.empty(s.mean.shape), 0.75),
  )
  def test_running_statistics_keep_their_sharding(self, kind, momentum):
    """So that they fit the carry of a scan."""
    batches = np.stack([normal(SHAPE, seed) for seed in (0, 6, 7)])
    stats = kind(arguments()[3])

    @jax.jit
    def trained(batches, stats):
      def step(stats, x):
        return train(x, None, None, stats, momentum=momentum)[1], None

      return jax.lax.scan(step, stats, batches)[0]

    expected = trained(batches, stats)
    mesh = meshes.make_mesh((2, 4), ("data", "model"), (AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
      batches = jax.device_put(
        batches, NamedSharding(mesh, P(None, *SPECS[0][0]))
      )
      for spec in (P(None), P("model")):
        new = trained(batches, jax.device_put(stats, NamedSharding(mesh, spec)))
        for value in new:
          self.assertEqual(value.sharding.spec, spec)
        chex.assert_trees_all_close(
          jax.device_get(new), expected, rtol=1e-5, atol=1e-5
        )
