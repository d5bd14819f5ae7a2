"""What `show_config` says."""

import contextlib
import importlib.metadata
import io
import json
import pathlib
from unittest import mock

import jax
from absl.testing import absltest

import normjax
from normjax.native import library
from normjax.native.library import Kernels


def shown():
  with contextlib.redirect_stdout(io.StringIO()) as output:
    normjax.show_config()
  return dict(line.split(maxsplit=1) for line in output.getvalue().splitlines())


class ConfigTest(absltest.TestCase):
  def provide(self, kernels):
    """Replaces the kernels that there are."""
    self.enter_context(mock.patch.object(library, "provide", lambda: kernels))

  def test_versions_are_those_of_the_installed_packages(self):
    config = normjax.get_config()
    for name in ("jax", "jaxlib", "flax", "numpy"):
      version = importlib.metadata.version(name)
      self.assertEqual(getattr(config, name), version)
      self.assertEqual(shown()[name], version)
    self.assertEqual(config.normjax, normjax.__version__)
    self.assertEqual(config.backend, jax.default_backend())

  def test_kernels_of_this_process(self):
    config = normjax.get_config()
    self.assertEqual(config.kernels is not None, library.load())
    self.assertEqual(config.processor is not None, library.load())
    self.assertEqual(config.problem is None, library.load())

  def test_with_kernels(self):
    self.provide(Kernels(pathlib.Path("/a/kernels-0.so"), "x86-64-v3"))
    self.assertEqual(shown()["kernels"], "/a/kernels-0.so")
    self.assertEqual(shown()["processor"], "x86-64-v3")
    self.assertNotIn("problem", shown())

  def test_without_kernels(self):
    self.provide(Kernels(problem="the reason. What to do."))
    self.assertEqual(shown()["kernels"], "off: the reason. What to do.")
    self.assertNotIn("processor", shown())

  def test_suits_json(self):
    for kernels in (
      Kernels(pathlib.Path("/a/kernels-0.so"), "baseline"),
      Kernels(problem="the reason"),
    ):
      self.provide(kernels)
      config = normjax.get_config()
      self.assertEqual(
        normjax.Config(**json.loads(json.dumps(config._asdict()))), config
      )

  def test_builds_nothing_for_a_gpu(self):
    self.enter_context(mock.patch.object(jax, "default_backend", lambda: "gpu"))
    provide = self.enter_context(mock.patch.object(library, "provide"))
    self.assertEqual(shown()["backend"], "gpu")
    provide.assert_not_called()

  def test_without_flax(self):
    error = importlib.metadata.PackageNotFoundError("flax")
    self.enter_context(
      mock.patch.object(importlib.metadata, "version", side_effect=error)
    )
    self.assertIsNone(normjax.get_config().flax)
    self.assertEqual(shown()["flax"], "not installed")


if __name__ == "__main__":
  absltest.main()
