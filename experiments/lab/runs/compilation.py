"""A persistent cache of compiled functions."""

import platform

import jax

from experiments.lab.runs import cache


def keep_compiled() -> None:
  """Turns on JAX's cache of compiled functions on disk."""
  # One folder per machine: code for one processor may not run on another.
  folder = cache.directory() / "xla" / platform.node()
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
