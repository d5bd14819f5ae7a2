"""Programs that are exported or compiled ahead of time."""

import os
import subprocess
import sys
import tempfile
import unittest

import jax
import numpy as np
from absl.testing import parameterized
from jax import export

import normjax
from normjax.native import library
from tests.cases import KINDS, named

SAVE = """
import pickle, sys, jax, numpy as np, normjax
from jax.experimental import serialize_executable
compiled = jax.jit(normjax.layer_norm).lower(np.load(sys.argv[2])).compile()
with open(sys.argv[1], "wb") as file:
  pickle.dump(serialize_executable.serialize(compiled), file)
"""
LOAD = """
import pickle, sys, numpy as np, normjax
from jax.experimental import serialize_executable
with open(sys.argv[1], "rb") as file:
  serialized = pickle.load(file)
program = serialize_executable.deserialize_and_load(*serialized)
np.save(sys.argv[2], program(np.load(sys.argv[2])))
"""


class ExportTest(parameterized.TestCase):
  @parameterized.named_parameters(named(KINDS))
  def test_symbolic_batch(self, case):
    shape = export.symbolic_shape(
      ", ".join(["batch", *map(str, case.shape[1:])])
    )
    self._check(case, shape, (5, *case.shape[1:]))

  @parameterized.named_parameters(
    named([case for case in KINDS if case.num_groups is None])
  )
  def test_symbolic_channels(self, case):
    names = ["batch", *("abc"[: len(case.shape) - 2]), "channels"]
    shape = export.symbolic_shape(", ".join(names))
    self._check(case, shape, (5, 3, 2, 6)[-len(shape) :])

  def _check(self, case, shape, example):
    def run(x):
      y, vjp = jax.vjp(case.apply, x)
      return y, *vjp(x)

    exported = export.export(jax.jit(run))(
      jax.ShapeDtypeStruct(shape, np.float32)
    )
    x = np.random.default_rng(0).standard_normal(example, np.float32)
    for actual, expected in zip(exported.call(x), run(x), strict=True):
      np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)

  @unittest.skipUnless(library.load(), "the native kernels are not built")
  def test_a_program_that_was_compiled_ahead_of_time_finds_its_kernels(self):
    x = np.random.default_rng(0).standard_normal((8, 128), np.float32)
    # JAX loads such a program for all devices, so there must be one.
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    with tempfile.TemporaryDirectory() as folder:
      paths = f"{folder}/program.pkl", f"{folder}/array.npy"
      np.save(paths[1], x)
      for code in (SAVE, LOAD):
        subprocess.run(
          [sys.executable, "-c", code, *paths], check=True, env=env
        )
      np.testing.assert_array_equal(np.load(paths[1]), normjax.layer_norm(x))
