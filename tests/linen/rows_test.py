"""Modules with statistics for each domain, and for each time step."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from normjax.linen import DomainBatchNorm, StepBatchNorm, frozen, reestimate
from tests.linen.cases import call

KEY = jax.random.key(0)
X = jnp.asarray(
  np.random.default_rng(0).normal(3.0, 2.0, (6, 4)).astype("float32")
)


class DomainTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_is_the_function_of_its_variables(self, own):
    norm = DomainBatchNorm(
      domains=2, domain_parameters=own, momentum=0.5, epsilon=0.1,
      scale_init=nn.initializers.normal(), use_running_average=False,
    )  # fmt: skip
    variables = norm.init(KEY, X, 0)
    params = variables["params"]
    self.assertEqual(params["scale"].shape, (2, 4) if own else (4,))
    run = jax.jit(functools.partial(call, norm))
    y, updates = run(variables, X, 1)
    z, stats = normjax.domain_batch_norm(
      X, 1, params["scale"], params["bias"],
      normjax.BatchStats(jnp.zeros((2, 4)), jnp.ones((2, 4))),
      use_running_average=False, momentum=0.5, epsilon=0.1,
    )  # fmt: skip
    np.testing.assert_allclose(y, z, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(
      normjax.BatchStats(**updates["batch_stats"]), stats, rtol=1e-6
    )

  def test_one_that_is_frozen_evaluates(self):
    norm = DomainBatchNorm(domains=2, use_running_average=False)
    variables = norm.init(KEY, X, 0)
    with frozen():
      y, updates = call(norm, variables, X, 1)
    chex.assert_trees_all_equal(updates["batch_stats"],
                                variables["batch_stats"])  # fmt: skip
    np.testing.assert_allclose(y, X / np.sqrt(1 + 1e-5), rtol=1e-6)

  def test_statistics_of_one_domain_are_reestimated(self):
    norm = DomainBatchNorm(domains=2, use_running_average=True)
    variables = norm.init(KEY, X, 0)
    found = reestimate(norm, variables, [X[:2], X[2:]], domain=1)
    stats = found["batch_stats"]
    np.testing.assert_array_equal(stats["mean"][0], 0)
    np.testing.assert_array_equal(stats["var"][0], 1)
    np.testing.assert_allclose(stats["mean"][1], X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"][1], X.var(0), rtol=1e-5)

  @parameterized.parameters(
    (2, 2, "domain must be below 2"),
    (0, 0, "domains must be a positive integer, got 0"),
    (2.0, 0, "domains must be a positive integer, got 2.0"),
  )
  def test_errors(self, domains, domain, message):
    norm = DomainBatchNorm(domains=domains, use_running_average=False)
    with self.assertRaisesRegex(ValueError, message):
      norm.init(KEY, X, domain)


class Cell(nn.Module):
  """A layer of tanh units, whose inputs are normalized."""

  train: bool

  @nn.compact
  def __call__(self, carry, x):
    h, step = carry
    h = nn.Dense(4, name="recurrent")(h) + nn.Dense(4, name="input")(x)
    h = StepBatchNorm(
      steps=5, use_running_average=not self.train, momentum=0.5, name="norm"
    )(h, step)
    return (jnp.tanh(h), step + 1), h


class Recurrent(nn.Module):
  """A scan of the cell over `x` `[time, batch, channels]`."""

  train: bool

  @nn.compact
  def __call__(self, x):
    cell = Cell(self.train, name="cell")
    carry = jnp.zeros((x.shape[1], 4)), jnp.int32(0)
    if self.is_initializing():
      return cell(carry, x[0])[1]  # Flax scans variables that exist.
    mutable = self.is_mutable_collection("batch_stats")
    constant = "params" if mutable else ("params", "batch_stats")
    scan = nn.scan(
      Cell.__call__, variable_broadcast=constant, split_rngs={"params": False},
      variable_carry="batch_stats" if mutable else False,
    )  # fmt: skip
    return scan(cell, carry, x)[1]


class StepTest(parameterized.TestCase):
  def test_gain_starts_at_a_tenth_whatever_the_offset(self):
    for offset in (0.0, 1.0):
      norm = StepBatchNorm(
        steps=2, use_running_average=False, scale_offset=offset
      )
      y, variables = norm.init_with_output(KEY, X, 0)
      np.testing.assert_allclose(
        variables["params"]["scale"], 0.1 - offset, rtol=1e-6
      )
      np.testing.assert_allclose(y.std(0), 0.1, rtol=1e-4)
      self.assertEqual(variables["params"]["bias"].shape, (4,))

  def test_a_recurrent_net_trains_and_runs_longer(self):
    x = jax.random.normal(KEY, (3, 8, 2))
    model = Recurrent(train=True)
    variables = model.init(KEY, x)
    for _ in range(4):
      ys, updates = call(model, variables, x)
      variables = {**variables, **updates}
    stats = variables["batch_stats"]["cell"]["norm"]
    self.assertEqual(stats["mean"].shape, (5, 4))
    np.testing.assert_array_equal(stats["weight"][3:], 0)
    np.testing.assert_allclose(stats["weight"][:3], 1.875)
    # Standardized at every step, in evaluation too, with the gain of 0.1.
    np.testing.assert_allclose(ys.std(1), 0.1, rtol=1e-2)
    evaluated = Recurrent(train=False).apply(variables, x)
    np.testing.assert_allclose(evaluated, ys, atol=1e-3)
    # The inputs of the third step once more: statistics of the third step.
    longer = jnp.concatenate([x, x[2:]])
    last = Recurrent(train=False).apply(variables, longer)[3]
    self.assertLess(jnp.abs(last).max(), 1)
    stats = normjax.BatchStats(stats["mean"][2], stats["var"][2])
    params = variables["params"]["cell"]
    h = jnp.tanh(evaluated[2]) @ params["recurrent"]["kernel"]
    h += x[2] @ params["input"]["kernel"]
    expected, _ = normjax.batch_norm(
      h, params["norm"]["scale"], params["norm"]["bias"], stats,
      use_running_average=True,
    )  # fmt: skip
    np.testing.assert_allclose(last, expected, rtol=1e-4, atol=1e-5)

  def test_statistics_of_each_step_are_reestimated(self):
    x = jax.random.normal(KEY, (3, 8, 2))
    model = Recurrent(train=False)
    variables = model.init(KEY, x)
    found = reestimate(model, variables, [x[:, :4], x[:, 4:], x[:2]])
    params = jax.tree.map(np.float64, variables["params"]["cell"])
    stats = found["batch_stats"]["cell"]["norm"]
    x, h = np.concatenate([x, x], axis=1), np.zeros((16, 4))
    parts = [slice(0, 4), slice(4, 8), slice(8, 16)]
    for step in range(3):
      if step == 2:  # The last batch has ended.
        x, h, parts = x[:, :8], h[:8], parts[:2]
      h = (
        h @ params["recurrent"]["kernel"] + x[step] @ params["input"]["kernel"]
      )
      np.testing.assert_allclose(stats["mean"][step], h.mean(0), atol=1e-5)
      np.testing.assert_allclose(stats["var"][step], h.var(0), rtol=1e-4)
      h = np.concatenate(
        [np.tanh(0.1 * (h[p] - h[p].mean(0)) / h[p].std(0)) for p in parts]
      )
    np.testing.assert_array_equal(stats["mean"][3:], 0)
    np.testing.assert_array_equal(stats["var"][3:], 1)
    # Each batch counts as one of training, at the steps that it has.
    np.testing.assert_allclose(stats["weight"].mean(1), [1.75, 1.75, 1.5, 0, 0])

  def test_statistics_cast_to_half_precision(self):
    norm = StepBatchNorm(steps=2)
    variables = norm.init(KEY, X, 0, use_running_average=False)
    half = {
      **variables,
      "batch_stats": jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16), variables["batch_stats"]
      ),
    }
    chex.assert_trees_all_equal(
      norm.apply(half, X, 1, use_running_average=True),
      norm.apply(variables, X, 1, use_running_average=True),
    )

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "steps must be a positive integer"):
      StepBatchNorm(True, steps=-1).init(KEY, X, 0)
    with self.assertRaisesRegex(ValueError, "step must not be negative"):
      StepBatchNorm(True, steps=2).init(KEY, X, -1)
