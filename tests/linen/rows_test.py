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

  def test_its_statistics_are_not_reestimated_as_if_of_one_domain(self):
    norm = DomainBatchNorm(domains=2, use_running_average=False)
    with self.assertRaisesRegex(ValueError, r"\(2, 4\), but its input.*which"):
      reestimate(norm, norm.init(KEY, X, 0), [X], domain=1)

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
    constant = "params" if self.train else ("params", "batch_stats")
    scan = nn.scan(
      Cell.__call__, variable_broadcast=constant, split_rngs={"params": False},
      variable_carry="batch_stats" if self.train else False,
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
