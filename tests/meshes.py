"""Meshes of the eight devices that conftest.py makes of a CPU."""

import math
import unittest

import jax


def make_mesh(sizes, names, axis_types):
  """As `jax.make_mesh`; skips the test where there are fewer devices.

  So that `JAX_PLATFORMS=cuda,cpu pytest` runs the other tests on one GPU.
  """
  count = math.prod(sizes)
  if jax.device_count() < count:
    raise unittest.SkipTest(f"needs {count} devices")
  return jax.make_mesh(sizes, names, axis_types=axis_types)
