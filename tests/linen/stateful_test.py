"""What is done to batch norms, done to all modules that keep `batch_stats`."""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax
from normjax.linen import (
  DomainBatchNorm,
  StepBatchNorm,
  diagnose,
  fold,
  frozen,
  frozen_mask,
  make_norm,
  norm_names,
  reestimate,
  variables_from_torch,
  variables_to_torch,
)
from tests.linen.cases import call

KEY = jax.random.key(0)
# Fields of those in the registry.
OPTIONS = {
  "bn": {},
  "brn": {"r_max": 2.0},
  "dbn": {"num_groups": 2},
  "gbn": {"ghost_size": 2},
  "iternorm": {"num_groups": 2},
}
# In evaluation, they map every channel on its own.
AFFINE = ("bn", "brn", "gbn")
ROWS = {
  "domain": functools.partial(DomainBatchNorm, domains=2),
  "step": functools.partial(StepBatchNorm, steps=2),
}


class Net(nn.Module):
  """A layer and a norm; norms with rows use the last one."""

  kind: str
  train: bool = True

  def setup(self):
    self.layer = nn.Dense(4)
    if self.kind in ROWS:
      self.norm = ROWS[self.kind](use_running_average=not self.train)
    else:
      self.norm = make_norm(self.kind, train=self.train, **OPTIONS[self.kind])

  def __call__(self, x):
    row = (1,) if self.kind in ROWS else ()
    return self.norm(self.layer(x), *row)


def batch(rows, seed=0):
  values = np.random.default_rng(seed).normal(1.0, 2.0, (rows, 3))
  return jnp.asarray(values, jnp.float32)


@functools.cache
def variables_of(norm):
  """Returns variables after a step of training."""
  variables = Net(norm).init(KEY, batch(8))
  _, updates = call(Net(norm), variables, batch(8))
  return {**variables, **updates}


def seen(norm, x):
  """Returns in float64 what the norm gets."""
  layer = variables_of(norm)["params"]["layer"]
  return np.float64(x) @ np.float64(layer["kernel"]) + np.float64(layer["bias"])


def covariances(x, groups=2):
  """Returns the covariances of groups of channels."""
  parts = np.split(x, groups, axis=1)
  return np.stack([np.cov(part, rowvar=False, ddof=0) for part in parts])


class RegistryTest(parameterized.TestCase):
  def test_these_are_all_with_statistics(self):
    x = jnp.ones((2, 5, 32))
    stateful = {
      name
      for name in norm_names()
      if "batch_stats"
      in jax.eval_shape(make_norm(name, train=False).init, KEY, x)
    }
    self.assertEqual(stateful, set(OPTIONS))


class StatefulTest(parameterized.TestCase):
  @parameterized.parameters(*OPTIONS, *ROWS)
  def test_frozen(self, norm):
    variables, x = variables_of(norm), batch(8, seed=1)
    with frozen("norm"):
      y, updates = call(Net(norm), variables, x)
    np.testing.assert_array_equal(y, Net(norm, False).apply(variables, x))
    chex.assert_trees_all_equal(
      updates["batch_stats"], variables["batch_stats"]
    )
    self.assertEqual(
      frozen_mask(variables),
      {
        "layer": {"kernel": False, "bias": False},
        "norm": {"scale": True, "bias": True},
      },
    )

  @parameterized.parameters(*OPTIONS, *ROWS)
  def test_decay_mask(self, norm):
    self.assertEqual(
      normjax.decay_mask(variables_of(norm)["params"]),
      {
        "layer": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
      },
    )

  @parameterized.parameters(*OPTIONS)
  def test_reestimate(self, norm):
    """Batches of unequal size; nothing else in the collection changes."""
    batches = [batch(8, seed=2), batch(4, seed=3)]
    variables = variables_of(norm)
    stats = reestimate(Net(norm), variables, batches)["batch_stats"]["norm"]
    x = seen(norm, np.concatenate(batches))
    expected = {**variables["batch_stats"]["norm"], "mean": x.mean(0)}
    if norm in AFFINE:
      expected["var"] = x.var(0)
    else:
      expected["cov"] = covariances(x)
    chex.assert_trees_all_close(stats, expected, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(*OPTIONS)
  def test_diagnose(self, norm):
    variables, x = variables_of(norm), batch(32, seed=4)
    found = diagnose(Net(norm, False), variables, x).norms["norm"]
    stats, inside = variables["batch_stats"]["norm"], seen(norm, x)
    var = np.float64(
      stats["var"]
      if norm in AFFINE
      else np.diagonal(stats["cov"], axis1=1, axis2=2).ravel()
    )
    drift = (inside.mean(0) - stats["mean"]) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(found.drift, drift, rtol=1e-5)
    np.testing.assert_allclose(
      found.variance_ratio, (inside.var(0) + 1e-5) / (var + 1e-5), rtol=1e-5
    )
    self.assertEqual(found.values, 32)
    self.assertFalse(found.small_gain.any() or found.untrained)

  @parameterized.parameters(*ROWS)
  def test_statistics_of_domains_and_steps_are_refused(self, norm):
    with self.assertRaisesRegex(ValueError, r"'norm' have shape \(2, 4\), but"):
      diagnose(Net(norm), variables_of(norm), batch(8))

  @parameterized.parameters(*OPTIONS, *ROWS)
  def test_fold(self, norm):
    model, variables, x = Net(norm, False), variables_of(norm), batch(8)
    if norm not in AFFINE:
      with self.assertRaisesRegex(
        ValueError, "norm: its class is .*Norm, which may"
      ):
        fold(model, variables, x)
      return
    folded, new = fold(model, variables, x)
    self.assertEqual({*new["params"]}, {"layer"})
    np.testing.assert_allclose(
      folded.apply(new, x), model.apply(variables, x), rtol=1e-5, atol=1e-5
    )

  @parameterized.parameters(*OPTIONS, *ROWS)
  def test_interchange_with_torch(self, norm):
    """Variables without counterpart keep names and shapes."""
    model, variables, x = Net(norm), variables_of(norm), batch(8)
    state_dict = variables_to_torch(variables, model, x)
    if norm != "bn":
      inside = {
        **variables["params"]["norm"],
        **variables["batch_stats"]["norm"],
      }
      for name, value in inside.items():
        np.testing.assert_array_equal(state_dict[f"norm.{name}"], value)
    chex.assert_trees_all_equal(
      variables_from_torch(state_dict, model, x), variables
    )

  @parameterized.parameters({"debias": True}, {"microbatches": 2})
  def test_variables_that_no_norm_of_torch_has(self, **options):
    norm, x = make_norm("bn", train=True, **options), batch(4)
    with self.assertRaisesRegex(ValueError, "nothing like .* debias or"):
      variables_to_torch(norm.init(KEY, x), norm, x)


class ComplexTest(parameterized.TestCase):
  def test_frozen_diagnosed_and_spared(self):
    norm = normjax.linen.ComplexBatchNorm(use_running_average=False)
    x = jax.lax.complex(batch(32), 2 * batch(32, seed=1))
    variables: Any = norm.init(KEY, x)
    with frozen():
      _, updates = call(norm, variables, x)
    chex.assert_trees_all_equal(
      updates["batch_stats"], variables["batch_stats"]
    )
    self.assertFalse(any(normjax.decay_mask(variables["params"]).values()))
    found = diagnose(norm, variables, x).norms["itself"]
    wide = np.complex128(x)
    np.testing.assert_allclose(
      found.drift, np.abs(wide.mean(0)) / np.sqrt(1 + 1e-5), rtol=1e-5
    )
    np.testing.assert_allclose(
      found.variance_ratio, (wide.var(0) + 1e-5) / (1 + 1e-5), rtol=1e-5
    )
    self.assertTrue(found.untrained)
    self.assertEqual(found.small_gain.tolist(), [False, False, False])
