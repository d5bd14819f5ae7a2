"""Re-estimated statistics against a float64 model that sees all batches."""

import functools
from typing import Any

import chex
import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from normjax.linen import (
  BatchNorm,
  BatchRenorm,
  ComplexBatchNorm,
  DecorrelatedBatchNorm,
  frozen,
  reestimate,
)
from tests.linen.cases import call

KEY = jax.random.key(0)
KINDS = {
  "ours": BatchNorm,
  # The algorithm with digits left at a large mean.
  "flax": functools.partial(nn.BatchNorm, use_fast_variance=False),
}
COUNTS = (8, 3, 8, 5)  # Rows that count, of batches of 8.


class Net(nn.Module):
  """Norm, dense, ReLU, norm, and dropout that must not be active."""

  kind: Any = BatchNorm
  options: Any = flax.core.freeze({})

  @nn.compact
  def __call__(self, x, train, mask=None):
    norm = functools.partial(
      self.kind, use_running_average=not train, **self.options
    )
    x = norm(name="first")(x, mask=mask)
    x = nn.Dropout(0.5, deterministic=not train)(x)
    x = nn.relu(nn.Dense(4, name="dense")(x))
    return norm(name="second")(x, mask=mask)


@functools.cache
def variables_of(kind="ours", **options):
  model = Net(KINDS[kind], flax.core.freeze(options))
  variables = model.init(KEY, jnp.ones((4, 3)), train=False)
  random = np.random.default_rng(1)
  fill = lambda leaf: jnp.asarray(
    random.uniform(0.5, 2, leaf.shape).astype("float32")
  )
  return model, jax.tree.map(fill, variables)


def data(mean=0.0, masked=False, seed=0, size=3):
  """Returns batches of unequal size, or equally large ones with masks."""
  random = np.random.default_rng(seed)
  batches = []
  for number, count in enumerate(COUNTS):
    rows = 8 if masked else count
    x = mean + random.normal(0.5 * number, 1 + number, (rows, size))
    x = x.astype(np.float32)
    if masked:
      mask = np.arange(8)[:, None] < count
      batches.append({"x": np.where(mask, x, np.nan), "mask": mask})
    else:
      batches.append(x)
  return batches


def masked_call(model, batch):
  return model(batch["x"], train=False, mask=batch["mask"])


def expected(variables, batches, ddof=0):
  """Returns the statistics in float64, as a model in training sees the data."""
  params = jax.tree.map(np.float64, variables["params"])

  def normalized(x, name):
    y = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    return y * params[name]["scale"] + params[name]["bias"]

  seen = {"first": [], "second": []}
  for batch in batches:
    x = batch
    if isinstance(batch, dict):
      x = batch["x"][batch["mask"][:, 0]]
    x = np.float64(x)
    seen["first"].append(x)
    x = normalized(x, "first") @ params["dense"]["kernel"]
    x = np.maximum(x + params["dense"]["bias"], 0)
    seen["second"].append(x)
  return {
    name: {
      "mean": np.concatenate(parts).mean(0),
      "var": np.concatenate(parts).var(0, ddof=ddof),
    }
    for name, parts in seen.items()
  }


def assert_stats(found, wanted):
  for name, stats in wanted.items():
    np.testing.assert_allclose(found[name]["mean"], stats["mean"], rtol=1e-5)
    np.testing.assert_allclose(found[name]["var"], stats["var"], rtol=1e-5)


class ReestimateTest(parameterized.TestCase):
  @parameterized.product(kind=tuple(KINDS), masked=(False, True))
  def test_matches_float64(self, kind, masked):
    model, variables = variables_of(kind)
    batches = data(3.0, masked)
    options = {"method": masked_call} if masked else {"train": False}
    found = reestimate(model, variables, iter(batches), **options)
    assert_stats(found["batch_stats"], expected(variables, batches))
    self.assertIs(found["params"], variables["params"])
    chex.assert_trees_all_equal_shapes_and_dtypes(found, variables)

  @parameterized.parameters(False, True)
  def test_exact_at_a_large_mean(self, masked):
    model, variables = variables_of()
    batches = data(1e6, masked)
    options = {"method": masked_call} if masked else {"train": False}
    found = reestimate(model, variables, batches, **options)
    assert_stats(found["batch_stats"], expected(variables, batches))

  @parameterized.parameters(
    {"running_var_ddof": 1}, {"debias": True}, {"microbatches": 3}
  )
  def test_whatever_the_running_statistics_are(self, **options):
    model, variables = variables_of(**options)
    found = reestimate(model, variables, data(), train=False)
    ddof = options.get("running_var_ddof", 0)
    assert_stats(
      found["batch_stats"], expected(variables, data(), ddof)
    )  # fmt: skip
    keep = lambda tree: [
      {k: v for k, v in stats.items() if k not in ("mean", "var", "weight")}
      for stats in tree["batch_stats"].values()
    ]
    chex.assert_trees_all_equal(keep(found), keep(variables))

  def test_mode_of_the_call_does_not_matter(self):
    class Given(nn.Module):
      @nn.compact
      def __call__(self, x, train):
        x = nn.BatchNorm(name="first")(x, not train)
        x = nn.relu(nn.Dense(4, name="dense")(x))
        return BatchNorm(name="second")(x, use_running_average=not train)

    _, variables = variables_of()
    for train in (False, True):
      found = reestimate(Given(), variables, data(), train=train)
      assert_stats(found["batch_stats"], expected(variables, data()))

  def test_one_compiled_step(self):
    model, variables = variables_of()
    traces = []

    def method(model, x):
      traces.append(x.shape)
      return model(x, train=False)

    for _ in range(2):
      reestimate(model, variables, data() * 2, method=method)
    self.assertEqual(traces, [(8, 3), (3, 3), (5, 3)])

  def test_a_compiled_function_serves_elsewhere_as_before(self):
    model, variables = variables_of()
    step = jax.jit(functools.partial(call, model, train=False))
    x = data()[0]
    y, before = step(variables, x)
    found = reestimate(lambda v, x: step(v, x)[1], variables, data())
    assert_stats(found["batch_stats"], expected(variables, data()))
    again, after = step(variables, x)
    np.testing.assert_array_equal(again, y)
    chex.assert_trees_all_equal(after, before)

  def test_a_channel_without_values_keeps_its_statistics(self):
    norm = BatchNorm(use_running_average=True)
    variables = norm.init(KEY, jnp.ones((4, 3)))
    variables["batch_stats"]["mean"] = jnp.arange(3.0)
    mask = np.ones((4, 3), bool)
    mask[:, 1] = False
    x = np.where(mask, 7 + np.arange(4)[:, None], np.nan).astype(np.float32)
    found = reestimate(
      norm,
      variables,
      [{"x": x, "mask": mask}],
      method=lambda norm, batch: norm(**batch),
    )
    np.testing.assert_allclose(found["batch_stats"]["mean"], [8.5, 1, 8.5])
    np.testing.assert_allclose(found["batch_stats"]["var"], [1.25, 1, 1.25])

  def test_which(self):
    model, variables = variables_of()
    old, wanted = variables["batch_stats"], expected(variables, data())
    found = reestimate(model, variables, data(), which="first", train=False)
    assert_stats(found["batch_stats"], {"first": wanted["first"]})
    chex.assert_trees_all_equal(found["batch_stats"]["second"], old["second"])

  def test_statistics_cast_to_half_precision_or_frozen_dicts(self):
    model, variables = variables_of()
    half = jax.tree.map(
      lambda leaf: leaf.astype(jnp.bfloat16), variables["batch_stats"]
    )
    given = flax.core.freeze({**variables, "batch_stats": half})
    found = reestimate(model, given, data(), train=False)["batch_stats"]
    wanted = expected(variables, data())
    for name in ("first", "second"):
      for key, value in found[name].items():
        self.assertEqual(value.dtype, jnp.bfloat16)
        np.testing.assert_allclose(
          np.float32(value), wanted[name][key], rtol=2**-8
        )


class UsesTest(parameterized.TestCase):
  def test_after_averaging_weights(self):
    """Running averages belong to none of the averaged parameters."""
    model, variables = variables_of()
    other = jax.tree.map(lambda leaf: 2 - leaf, variables["params"])
    params = jax.tree.map(lambda a, b: (a + 2 * b) / 3, variables["params"],
                          other)  # fmt: skip
    averaged = {**variables, "params": params}
    found = reestimate(model, averaged, data(), train=False)
    assert_stats(found["batch_stats"], expected(averaged, data()))

  def test_of_another_domain(self):
    """Outputs on it are standardized again, which those of the source's are."""
    norm = BatchNorm(use_running_average=True)
    source = np.concatenate(data(seed=1))
    shifted = 3 * source + 10
    variables = norm.init(KEY, source)
    stats = reestimate(norm, variables, np.split(source, 2))
    adapted = reestimate(norm, stats, np.split(shifted, 2))
    np.testing.assert_allclose(
      norm.apply(adapted, shifted), norm.apply(stats, source), atol=1e-4
    )
    self.assertGreater(np.abs(norm.apply(stats, shifted).mean(0)).min(), 1)

  def test_batch_renorm_corrects_nothing(self):
    """Else the second norm would see inputs moved towards old statistics."""
    x = 5 + 3 * np.concatenate(data())
    limits = flax.core.freeze({"r_max": 3.0, "d_max": 5.0})
    _, variables = variables_of()
    found, expected = (
      reestimate(model, variables, [x], train=False)["batch_stats"]
      for model in (Net(BatchRenorm, limits), Net())
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)

  def test_batches_count_in_later_training_as_any_other(self):
    """Else the next one replaced the statistics of a norm without a past."""
    norm = BatchNorm(use_running_average=False, debias=True, momentum=1.0)
    x = np.concatenate(data())
    variables = reestimate(norm, norm.init(KEY, x), [x, x, x])
    _, updates = norm.apply(variables, 5 * x, mutable=["batch_stats"])
    np.testing.assert_allclose(
      updates["batch_stats"]["mean"], 2 * x.mean(0), rtol=1e-5, atol=1e-6
    )

  def test_models_with_fields_that_have_no_hash(self):
    model = nn.Sequential([nn.Dense(2), BatchNorm(use_running_average=True)])
    x = np.concatenate(data())
    variables = model.init(KEY, x)
    found = reestimate(model, variables, [x])
    y = model.apply(found, x)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)


class WhiteningTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_covariances_of_groups_of_channels(self, masked):
    norm = DecorrelatedBatchNorm(True, num_groups=2)
    variables = norm.init(KEY, jnp.ones((4, 6)))
    batches = data(1e6, masked, size=6)
    method = (lambda norm, batch: norm(**batch)) if masked else None
    found = reestimate(norm, variables, batches, method=method)["batch_stats"]
    if masked:
      batches = [batch["x"][batch["mask"][:, 0]] for batch in batches]
    x = np.float64(np.concatenate(batches))
    np.testing.assert_allclose(found["mean"], x.mean(0), rtol=1e-6)
    cov = np.cov(x.T, ddof=0)
    for group, own in enumerate((slice(0, 3), slice(3, 6))):
      np.testing.assert_allclose(
        found["cov"][group], cov[own, own], rtol=1e-5, atol=1e-5
      )

  def test_covariances_of_complex_numbers(self):
    norm = ComplexBatchNorm(True)
    parts = zip(data(3.0), data(seed=1), strict=True)
    batches = [jax.lax.complex(a, a + 2 * b) for a, b in parts]
    variables = norm.init(KEY, batches[0])
    found = reestimate(norm, variables, batches)["batch_stats"]
    x = np.concatenate(batches)
    np.testing.assert_allclose(found["mean"], x.mean(0), rtol=1e-5)
    for channel in range(3):
      cov = np.cov(x[:, channel].real, x[:, channel].imag, ddof=0)
      np.testing.assert_allclose(found["cov"][channel], cov, rtol=1e-4)

  def test_a_group_without_values_keeps_its_covariance(self):
    norm = DecorrelatedBatchNorm(True, num_groups=2)
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    variables = norm.init(KEY, x)
    mask = np.arange(4) < 2
    x = np.where(mask, x, np.float32(np.nan))
    found = reestimate(
      norm, variables, [x, 2 * x], method=lambda norm, x: norm(x, mask=mask)
    )["batch_stats"]
    expected = np.cov(np.concatenate([x, 2 * x])[:, :2].T, ddof=0)
    np.testing.assert_allclose(found["cov"][0], expected, rtol=1e-5)
    np.testing.assert_array_equal(found["cov"][1], np.eye(2))


class LanesTest(parameterized.TestCase):
  def test_many_sets_of_variables_at_once(self):
    model, variables = variables_of()
    other = jax.tree.map(lambda leaf: leaf + 1, variables)
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, other)

    @jax.jit
    @jax.vmap
    def step(variables, x):
      return call(model, variables, x, train=False)[1]

    batches = [
      np.stack(pair) for pair in zip(data(), data(seed=1), strict=True)
    ]
    found = reestimate(step, lanes, batches)
    for lane, (own, seed) in enumerate(((variables, 0), (other, 1))):
      stats = jax.tree.map(lambda x, n=lane: x[n], found["batch_stats"])
      assert_stats(stats, expected(own, data(seed=seed)))

  def test_parts_of_a_batch_along_a_mapped_axis(self):
    """As on several devices, whose masked counts may differ."""
    model, variables = variables_of(axis_name="i")

    @jax.jit
    def step(variables, batch):
      return jax.vmap(
        lambda batch: model.apply(
          variables, batch, method=masked_call, mutable=["batch_stats"]
        )[1],
        axis_name="i",
        out_axes=None,
      )(batch)

    parts = data(1e3, masked=True)
    batches = [
      jax.tree.map(lambda *x: np.stack(x), *parts[i : i + 2]) for i in (0, 2)
    ]
    found = reestimate(step, variables, batches)
    whole = [
      {k: np.concatenate([p[k] for p in parts[i : i + 2]]) for k in parts[0]}
      for i in (0, 2)
    ]
    assert_stats(found["batch_stats"], expected(variables, whole))

  def test_inside_of_jit(self):
    model, variables = variables_of()
    batches = data()
    found = jax.jit(
      lambda v, batches: reestimate(model, v, batches, train=False)
    )(variables, batches)
    assert_stats(found["batch_stats"], expected(variables, batches))


class LiftedTest(parameterized.TestCase):
  @parameterized.parameters(*KINDS)
  def test_layers_in_a_scan(self, kind):
    class Layer(nn.Module):
      @nn.compact
      def __call__(self, x, _):
        norm = KINDS[kind](use_running_average=True, name="norm")
        return 2 * nn.remat(lambda m, x: m(x))(norm, x) + x, None

    layers = nn.scan(
      Layer,
      variable_axes={"params": 0, "batch_stats": 0},
      split_rngs={"params": True},
      length=2,
    )()
    x = np.concatenate(data()[:2]).astype(np.float32)
    variables = layers.init(KEY, x, None)
    found = reestimate(
      layers, variables, [x], method=lambda layers, x: layers(x, None)
    )
    stats = found["batch_stats"]["norm"]
    x = np.float64(x)
    for layer in range(2):
      np.testing.assert_allclose(stats["mean"][layer], x.mean(0), rtol=1e-5)
      np.testing.assert_allclose(stats["var"][layer], x.var(0), rtol=1e-5)
      x = 2 * (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) + x

  @parameterized.parameters(*KINDS)
  def test_a_norm_that_is_called_again_and_again(self, kind):
    """In the carry of a scan over time, or by name: all calls count."""

    class Cell(nn.Module):
      @nn.compact
      def __call__(self, h, x):
        norm = KINDS[kind](use_running_average=True, name="norm")
        return h + norm(x + h), None

    cell = nn.scan(
      Cell,
      variable_broadcast="params",
      variable_carry="batch_stats",
      split_rngs={"params": False},
    )()
    x = np.random.default_rng(0).normal(size=(5, 8, 3)).astype(np.float32)
    variables = Cell().init(KEY, jnp.zeros((8, 3)), x[0])
    found = reestimate(
      cell,
      variables,
      [x],
      method=lambda cell, x: cell(jnp.zeros((8, 3)), x),
    )
    seen, h = [], 0.0
    for step in np.float64(x):
      seen.append(step + h)
      h = h + (seen[-1] - seen[-1].mean(0)) / np.sqrt(seen[-1].var(0) + 1e-5)
    seen = np.concatenate(seen)
    stats = found["batch_stats"]["norm"]
    np.testing.assert_allclose(stats["mean"], seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(stats["var"], seen.var(0), rtol=1e-4)

  def test_a_module_around_a_norm_may_have_its_field(self):
    class Wrapped(nn.Module):
      use_running_average: bool

      @nn.compact
      def __call__(self, x):
        return BatchNorm(self.use_running_average, name="norm")(x)

    x = data()[0]
    variables = Wrapped(True).init(KEY, x)
    stats = reestimate(Wrapped(True), variables, [x])["batch_stats"]["norm"]
    np.testing.assert_allclose(stats["mean"], np.float64(x).mean(0), rtol=1e-5)


class Foreign(nn.Module):
  """A norm whose mode has another name, or whose variance has."""

  names: tuple[str, ...]

  @nn.compact
  def __call__(self, x):
    for name in self.names:
      self.variable("batch_stats", name, jnp.zeros, x.shape[-1:])
    return x


class Minimal(nn.Module):
  """A norm with nothing but a mode, a mean and a variance."""

  use_running_average: bool

  @nn.compact
  def __call__(self, x):
    self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:])
    self.variable("batch_stats", "var", jnp.ones, x.shape[-1:])
    return x


class ForeignTest(absltest.TestCase):
  def test_a_norm_needs_no_more_fields_than_its_mode(self):
    x = jax.random.normal(KEY, (8, 3)) + 2
    norm = Minimal(use_running_average=True)
    stats = reestimate(norm, norm.init(KEY, x), [x])["batch_stats"]
    np.testing.assert_allclose(stats["mean"], np.float64(x).mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], np.float64(x).var(0), rtol=1e-5)


class ErrorsTest(parameterized.TestCase):
  def test_without_statistics_nothing_changes(self):
    model = nn.LayerNorm()
    variables = model.init(KEY, jnp.ones((2, 3)))
    self.assertIs(reestimate(model, variables, []), variables)

  @parameterized.named_parameters(
    ("no_batches", ("mean", "var"), None, "No batch had values for itself"),
    ("no_mode", ("mean", "var"), [0], "No batch had values.*use_running_avera"),
    ("no_var", ("mean", "matrix"), [0], "itself keeps mean, matrix.*only a"),
    ("no_mean", ("matrix",), [0], "None chooses no batch norm.*has none"),
  )
  def test_norms_that_are_none(self, names, batches, message):
    norm = Foreign(names) if batches else BatchNorm(use_running_average=True)
    x = jnp.ones((4, 3))
    variables = norm.init(KEY, x)
    with self.assertRaisesRegex(ValueError, message):
      reestimate(norm, variables, [x] if batches else [])

  @parameterized.parameters(
    (lambda x: [(x, np.zeros(8))], "('float32[8, 3]', 'float64[8]')"),
    (lambda x: [{"x": x}], "{'x': 'float32[8, 3]'}"),
    (lambda x: [x[:1]], "Leave out a batch that is too small"),
  )
  def test_says_how_the_model_was_called(self, batches, expected):
    model, variables = variables_of()
    with self.assertRaises((TypeError, ValueError)) as caught:
      reestimate(model, variables, batches(jnp.ones((8, 3))), train=False)
    *_, note = caught.exception.__notes__
    self.assertIn(expected, note)
    self.assertIn("method=lambda model, batch: model(...)", note)

  def test_batches_are_no_array(self):
    model, variables = variables_of()
    with self.assertRaisesRegex(
      TypeError, r"got an array \(8, 3\). Write \[x\]"
    ):
      reestimate(model, variables, jnp.ones((8, 3)), train=False)

  def test_frozen_norms_have_none(self):
    model, variables = variables_of()
    with (
      self.assertRaisesRegex(ValueError, "values for second"),
      frozen("second"),
    ):
      reestimate(model, variables, data(), train=False)

  def test_which_must_choose(self):
    model, variables = variables_of()
    with self.assertRaisesRegex(ValueError, "'thrd' chooses no.*first, second"):
      reestimate(model, variables, data(), which="thrd", train=False)
    with self.assertRaisesRegex(TypeError, "BatchNorm.*by their paths"):
      reestimate(model, variables, data(), which=BatchNorm, train=False)

  def test_options_are_constants_of_a_model(self):
    model, variables = variables_of()
    with self.assertRaisesRegex(TypeError, "mask must be a constant.*method"):
      reestimate(model, variables, data(), train=False, mask=np.ones(3))
    for options in ({"train": False}, {"method": masked_call}):
      with self.assertRaisesRegex(TypeError, "got also .*Bind it"):
        reestimate(model.apply, variables, data(), **options)

  def test_statistics_of_another_shape(self):
    norm = BatchNorm(True)
    variables = norm.init(KEY, jnp.ones((4, 3)))
    with self.assertRaisesRegex(
      ValueError, r"shape \(3,\), but its input \(4, 2\) has features \(2,\)"
    ):
      reestimate(norm, variables, [jnp.ones((4, 2))])
