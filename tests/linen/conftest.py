"""Modules are thin, so compiling is what their tests take time for."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compiles_sooner() -> Iterator[None]:
  """Leaves out optimizations; tests/functional runs what users run."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
