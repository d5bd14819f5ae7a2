"""Where a run was made."""

import types
from unittest import mock

import jax
from absl.testing import absltest

from experiments.lab.runs import machine, versions


class DeviceTest(absltest.TestCase):
  def test_of_a_cpu_is_the_processor(self):
    with mock.patch.object(jax, "default_backend", return_value="cpu"):
      self.assertEqual(machine.device(), machine.processor())
    self.assertNotEmpty(machine.processor())
    self.assertNotIn("device", versions.current())

  def test_of_a_gpu_is_the_card(self):
    card = types.SimpleNamespace(device_kind="Some card", platform="gpu")
    with (
      mock.patch.object(jax, "default_backend", return_value="gpu"),
      mock.patch.object(jax, "devices", return_value=[card]),
    ):
      self.assertEqual(machine.device(), "Some card")
      self.assertEqual(versions.current()["device"], "Some card")


class CurrentTest(absltest.TestCase):
  def test_does_not_start_jax(self):
    """On a GPU, the suite would take the memory that its studies need."""
    with mock.patch.object(jax, "default_backend", side_effect=AssertionError):
      self.assertContainsSubset(["processor", "commit"], machine.current())


if __name__ == "__main__":
  absltest.main()
