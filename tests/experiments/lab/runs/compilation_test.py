"""Faults of XLA that the lab switches off, and programs compiled sooner."""

import os
from unittest import mock

import jax
import jaxlib
from absl.testing import absltest, parameterized

from experiments.lab.runs import compilation

FLAG = "--xla_cpu_experimental_ynn_fusion_type="


class AvoidFaultsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("0.10.2", "", FLAG),
    ("0.11.0", "--xla_dump_to=x", f"--xla_dump_to=x {FLAG}"),
    ("0.10.2", f"{FLAG}2", f"{FLAG}2"),  # The user's choice.
    ("0.11.2", "", ""),  # Later releases may not know the flag.
  )
  def test_of_a_release(self, version, given, expected):
    with (
      mock.patch.object(jaxlib, "__version__", version),
      mock.patch.dict(os.environ, {"XLA_FLAGS": given}),
    ):
      compilation.avoid_faults()
      self.assertEqual(os.environ["XLA_FLAGS"], expected)


class CompileSoonerTest(absltest.TestCase):
  def test_leaves_out_optimizations(self):
    name = "jax_disable_most_optimizations"
    self.addCleanup(jax.config.update, name, jax.config.read(name))
    jax.config.update(name, False)
    compilation.compile_sooner()
    self.assertTrue(jax.config.read(name))


if __name__ == "__main__":
  absltest.main()
