"""Faults of XLA that the lab switches off."""

import os
from unittest import mock

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


if __name__ == "__main__":
  absltest.main()
