"""Where a run was made."""

import types
from unittest import mock

import jax
from absl.testing import absltest

from experiments.lab.runs import machine


class DeviceTest(absltest.TestCase):
  def test_of_a_cpu_is_the_processor(self):
    with mock.patch.object(jax, "default_backend", return_value="cpu"):
      self.assertEqual(machine.device(), machine.processor())
    self.assertNotEmpty(machine.processor())

  def test_of_a_gpu_is_the_card(self):
    card = types.SimpleNamespace(device_kind="Some card")
    with (
      mock.patch.object(jax, "default_backend", return_value="gpu"),
      mock.patch.object(jax, "devices", return_value=[card]),
    ):
      self.assertEqual(machine.current()["device"], "Some card")


if __name__ == "__main__":
  absltest.main()
