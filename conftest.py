"""Settings that every test and every docstring example runs under."""

import os

# Eight virtual devices, so that sharding is tested on any machine. Read when
# JAX starts its CPU backend, hence before the import.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import contextlib
import tempfile
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from tests import compiling

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# What several tests compile is compiled once in a process. With a folder in
# JAX_COMPILATION_CACHE_DIR, once for all runs. Processes do not share a folder,
# since JAX does not lock it.
_folder = tempfile.TemporaryDirectory()
jax.config.update(
  "jax_compilation_cache_dir",
  os.path.join(
    os.environ.get("JAX_COMPILATION_CACHE_DIR", _folder.name),
    os.environ.get("PYTEST_XDIST_WORKER", "main"),
  ),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Puts the longest first, lest all wait for one of them in the end."""
  longest = "CommandLineTest", "ProcessesTest", "test_the_study_trains"
  items.sort(key=lambda item: not any(name in item.nodeid for name in longest))


@pytest.fixture(autouse=True)
def three_digits_in_examples() -> Iterator[None]:
  """Examples print what matters, not what differs from platform to platform."""
  with np.printoptions(precision=3, suppress=True):
    yield


# What these test does not depend on XLA's optimizations; other modules of
# tests/functional and tests/native run what users run.
_COMPILED_SOONER = (
  *("tests/linen/", "tests/nnx/", "tests/experiments/", "tests/benchmarks/"),
  "docs/",
  *(
    f"tests/functional/{name}_test.py"
    for name in (
      *("complex_batch", "covariance", "devices", "explicit_sharding", "ghost"),
      *("inverse_roots", "masks", "renorm", "running", "transformations"),
      "whitening",
    )
  ),
)


@pytest.fixture(autouse=True, scope="module")
def compiled(request: pytest.FixtureRequest) -> Iterator[None]:
  """Leaves out optimizations of most modules, and drops programs at the end.

  JAX_DISABLE_MOST_OPTIMIZATIONS=0 runs all tests with optimizations. Programs
  that are kept would let a process grow to several GB.
  """
  path = request.path.as_posix()
  sooner = "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ and any(
    part in path for part in _COMPILED_SOONER
  )
  with compiling.sooner() if sooner else contextlib.nullcontext():
    yield
  jax.clear_caches()
