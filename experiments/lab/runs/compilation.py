"""How JAX compiles: with a cache on disk, without known faults, or sooner."""

import os
import platform
import warnings

import jax
import jaxlib

from experiments.lab.runs import cache

# On CPUs, these releases of jaxlib get some sums over short rows wrong, and
# crash on others. This fusion is what fails: docs/compatibility.md.
_FAULTY = ("0.10.2", "0.11.0")
_FUSION = "--xla_cpu_experimental_ynn_fusion_type"


def avoid_faults() -> None:
  """Switches off what the installed XLA compiles wrongly on CPUs.

  To be called before JAX computes anything. A value in XLA_FLAGS is kept.
  """
  given = os.environ.get("XLA_FLAGS", "")
  if jaxlib.__version__ in _FAULTY and _FUSION not in given:
    os.environ["XLA_FLAGS"] = f"{given} {_FUSION}=".strip()


def compile_sooner() -> None:
  """Leaves out most optimizations, for runs that compute less than a compile.

  To be called before JAX compiles anything.
  """
  jax.config.update("jax_disable_most_optimizations", True)


def keep_compiled() -> None:
  """Turns on JAX's cache of compiled functions on disk, if it can be there."""
  # One folder per machine: code for one processor may not run on another.
  folder = cache.directory() / "xla" / platform.node()
  # A cache on a full or locked disk saves no time; the run needs none.
  warnings.filterwarnings(
    "ignore", "Error (reading|writing) persistent compilation cache"
  )
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
