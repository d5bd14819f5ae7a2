import contextlib
import io
import json
import math
import os
import tempfile
from unittest import mock

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from benchmarks import exactness

SMALL = (
  exactness.Case("Layer norm", "layer_norm", (4, 64)),
  exactness.Case("RMS norm", "rms_norm", (4, 64)),
  exactness.Case("Batch norm", "batch_norm", (64, 8)),
  exactness.Case("Batch norm, images", "batch_norm", (4, 6, 5, 16)),
  exactness.Case("Group norm", "group_norm", (2, 6, 5, 16)),
  exactness.Case("Instance norm", "instance_norm", (2, 6, 5, 16)),
  exactness.Case("Gradient", "layer_norm_gradient", (4, 64)),
)


def one_pass_layer_norm(x):
  x = jnp.asarray(x)
  mean = x.mean(-1, keepdims=True)
  variance = (x * x).mean(-1, keepdims=True) - mean * mean
  return (x - mean) / jnp.sqrt(variance.clip(0) + exactness.EPSILON)


class ReferenceTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 1e6)
  def test_standardized_by_hand(self, mean):
    # Mean 2.5, biased variance 1.25.
    x = np.array([[1.0, 2.0, 3.0, 4.0]]) + mean
    expected = np.array([[-1.5, -0.5, 0.5, 1.5]]) / math.sqrt(1.250001)
    np.testing.assert_allclose(
      exactness.standardized64(x, -1), expected, rtol=1e-12
    )

  def test_rms_norm_by_hand(self):
    # Mean square 12.5.
    y = exactness.REFERENCES["rms_norm"](np.array([[3.0, 4.0]], np.float32))
    np.testing.assert_allclose(
      y, np.array([[3.0, 4.0]]) / math.sqrt(12.500001), rtol=1e-12
    )

  @parameterized.parameters(
    ("batch_norm", lambda x: [x[..., c] for c in range(16)]),
    ("instance_norm", lambda x: [x[n, ..., c] for n, c in np.ndindex(2, 16)]),
    (
      "group_norm",
      lambda x: [x[n, ..., 2 * g : 2 * g + 2] for n, g in np.ndindex(2, 8)],
    ),
  )
  def test_groups(self, operation, parts):
    x = exactness.make_input((2, 3, 5, 16), 7.0)
    x = x * np.arange(1, 17, dtype=np.float32)
    for part in parts(exactness.REFERENCES[operation](x)):
      np.testing.assert_allclose(part.mean(), 0.0, atol=1e-12)
      np.testing.assert_allclose(part.std(), 1.0, atol=1e-5)

  def test_gradient_matches_finite_differences(self):
    x = exactness.make_input((1, 6), 0.0).astype(np.float64)
    cotangent = np.float64(exactness._cotangent(x.shape))
    step = 1e-6 * np.eye(6)[:, None]
    rise = exactness.standardized64(x + step, -1)
    fall = exactness.standardized64(x - step, -1)
    np.testing.assert_allclose(
      exactness.REFERENCES["layer_norm_gradient"](x)[0],
      ((rise - fall) * cotangent).sum((1, 2)) / 2e-6,
      rtol=1e-6,
    )

  def test_input_is_float32_around_the_mean(self):
    x = exactness.make_input((64, 64), 1e3)
    self.assertEqual(x.dtype, np.float32)
    self.assertAlmostEqual(float(x.mean()), 1e3, delta=0.1)
    self.assertAlmostEqual(float(x.std()), 1.0, delta=0.1)


class ErrorTest(parameterized.TestCase):
  @parameterized.named_parameters((case.title, case) for case in SMALL)
  def test_libraries_compute_the_operation(self, case):
    tried = []
    for name, (_, load) in exactness.LIBRARIES.items():
      # Peers are tried where they are installed.
      with self.subTest(name), contextlib.suppress(ImportError):
        norms = load()
        if case.operation in norms:
          result = exactness.error(case, norms[case.operation], 0.0)
          self.assertLess(result, 1e-5)
          tried.append(name)
    self.assertContainsSubset(["normjax", "flax.linen"], tried)

  def test_hand_worked(self):
    reference = exactness.REFERENCES["layer_norm"]

    def off(x):
      y = reference(x)
      y[0, 0] += 3e-3 * max(1.0, abs(y[0, 0]))
      return y

    case = SMALL[0]
    self.assertAlmostEqual(exactness.error(case, off, 0.0), 3e-3, places=9)
    self.assertEqual(exactness.error(case, reference, 0.0), 0.0)

  def test_gradient_is_relative_to_the_largest(self):
    case = SMALL[-1]
    reference = exactness.REFERENCES[case.operation]
    result = exactness.error(case, lambda x: 1.5 * reference(x), 0.0)
    self.assertAlmostEqual(result, 0.5)

  def test_one_pass_variance_is_marked(self):
    case = SMALL[0]
    errors = {
      name: {
        mean: exactness.error(case, norm, mean) for mean in exactness.MEANS
      }
      for name, norm in (
        ("exact", exactness.REFERENCES["layer_norm"]),
        ("one pass", one_pass_layer_norm),
      )
    }
    self.assertGreater(errors["one pass"][1e4], 1e-2)
    for line in exactness.table(case, errors).splitlines()[2:]:
      mean, exact, one_pass = map(str.strip, line.strip("|").split("|"))
      self.assertNotIn("**", exact)
      self.assertEqual(one_pass.startswith("**"), mean != "0", one_pass)

  def test_nan_is_marked(self):
    case = SMALL[0]
    bad = exactness.error(case, lambda x: x * np.float32(math.nan), 0.0)
    self.assertFalse(exactness.within(case, [bad]))
    errors = {"bad": dict.fromkeys(exactness.MEANS, bad)}
    self.assertIn("**nan**", exactness.table(case, errors))

  def test_refuses_another_shape(self):
    with self.assertRaisesRegex(ValueError, r"shape \(4, 64\), got \(4,\)"):
      exactness.error(SMALL[0], lambda x: x[:, 0], 0.0)


class RunTest(absltest.TestCase):
  def run_with(self, libraries):
    path = os.path.join(
      self.enterContext(tempfile.TemporaryDirectory()), "out.json"
    )
    with (
      mock.patch.object(exactness, "CASES", SMALL[:1]),
      mock.patch.object(exactness, "LIBRARIES", libraries),
      contextlib.redirect_stdout(io.StringIO()) as stdout,
    ):
      code = exactness.run(path)
    with open(path, encoding="utf-8") as file:
      return code, stdout.getvalue(), json.load(file)

  def test_exact(self):
    def missing():
      raise ImportError("No module named 'peer'")

    code, text, result = self.run_with(
      {
        "normjax": exactness.LIBRARIES["normjax"],
        "Peer": ("peer-package", missing),
      }
    )
    self.assertEqual(code, 0)
    self.assertIn("Peer is left out: No module named 'peer'", text)
    self.assertIn("pip install peer-package", text)
    self.assertEndsWith(text, "Every normjax row is exact: yes.\n")
    errors = result["errors"]["Layer norm"]
    self.assertEqual(list(errors), ["normjax"])
    self.assertLess(max(errors["normjax"].values()), 2e-6)
    self.assertEqual([float(m) for m in errors["normjax"]], [*exactness.MEANS])

  def test_wrong(self):
    wrong = {"layer_norm": one_pass_layer_norm}
    code, text, _ = self.run_with({"normjax": ("normjax", lambda: wrong)})
    self.assertEqual(code, 1)
    self.assertEndsWith(text, "Every normjax row is exact: NO.\n")


if __name__ == "__main__":
  absltest.main()
