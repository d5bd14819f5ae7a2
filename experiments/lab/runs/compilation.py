"""A persistent cache of compiled functions."""

import platform
import warnings

import jax

from experiments.lab.runs import cache


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
