"""Arrays of many axes, some of size one, each in a process of its own.

https://github.com/jax-ml/jax/issues/39257 and
https://github.com/jax-ml/jax/issues/40412: sums of products in float32 crash
or hang on CPUs with jaxlib 0.10.2 and 0.11.0, from seven axes on.
"""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
from absl.testing import parameterized

import normjax
from tests import reference

SIX, SEVEN, EIGHT = (
  (3, 2, 1, 2, 8, 8),
  (3, 1, 2, 2, 8, 8, 8),
  (2, 1, 3, 2, 1, 4, 8, 4),
)
# By whether the kernels are on: shapes, and whether there is a mask.
JOBS = {
  "1": ((SIX, False), (SEVEN, False), (EIGHT, False)),
  "0": ((SEVEN, False), (SEVEN, True), (EIGHT, True)),
}


def batch_norm(x, scale, bias, **options):
  return normjax.batch_norm(x, scale, bias, use_running_average=False,
                            **options)[0]  # fmt: skip


def norms(ndim):
  """Returns norms over the fourth axis, their references, and options."""
  others = tuple(axis for axis in range(ndim) if axis != 3)
  layer = normjax.layer_norm, reference.layer_norm
  rms = normjax.rms_norm, reference.rms_norm
  batch = batch_norm, reference.batch_norm
  group = normjax.group_norm, reference.group_norm
  instance = normjax.instance_norm, reference.instance_norm
  return (
    (*layer, {"reduction_axes": 3}),
    (*rms, {"reduction_axes": 3, "feature_axes": (3, -1)}),
    (*batch, {"axis": others}),
    (*group, {"num_groups": 2, "reduction_axes": (3, -1)}),
    (*instance, {"channel_axis": others[1:]}),
  )


def feature_shape(
  shape, *, axis=-1, channel_axis=-1, feature_axes=-1, **options
):
  axes = (a for a in (axis, channel_axis, feature_axes) if a != -1)
  return np.asarray(shape)[np.atleast_1d(next(axes, -1))]


def check(shape, masked):
  """Compares values and gradients of all norms with float64."""
  random = np.random.default_rng(0)
  x, dy = random.standard_normal((2, *shape)).astype(np.float32)
  common = {"mask": random.random(shape) < 0.8} if masked else {}
  parameters, expected = [], []
  for function, expect, options in norms(len(shape)):
    given = random.standard_normal((2, *feature_shape(shape, **options)))
    number = 1 if function is normjax.rms_norm else 2
    parameters.append(given[:number].astype(np.float32))
    result = expect(x, *parameters[-1], **options, **common)
    expected.append((result.y, *result.pullback(dy)))

  @jax.jit
  def run(dy, x, parameters):
    results = []
    for (function, _, options), given in zip(
      norms(len(shape)), parameters, strict=True
    ):
      norm = functools.partial(function, **options, **common)
      y, pullback = jax.vjp(norm, x, *given)
      results.append((y, *pullback(dy)))
    return results

  for actual, wanted in zip(run(dy, x, parameters), expected, strict=True):
    for value, exact in zip(actual, wanted, strict=False):
      size = np.abs(exact).max(initial=1.0)
      # In groups of two, 1 / sqrt(var + epsilon) is up to 1000, and multiplies
      # what rounding leaves of differences.
      np.testing.assert_allclose(value, exact, rtol=0, atol=1e-4 * size)


def main(native):
  for shape, masked in JOBS[native]:
    print(shape, "masked" * masked, flush=True)
    check(shape, masked)


class RanksTest(parameterized.TestCase):
  @parameterized.parameters(*JOBS)
  def test_value_and_gradient(self, native):
    code = f"from tests.functional import ranks_test as t; t.main('{native}')"
    done = subprocess.run(
      [sys.executable, "-X", "faulthandler", "-c", code],
      cwd=pathlib.Path(__file__).parents[2],
      env={**os.environ, "NORMJAX_NATIVE": native},
      capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    self.assertEqual(done.returncode, 0, done.stdout + done.stderr[-2000:])
